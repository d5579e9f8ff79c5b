"""The report's figures are those of a store made by hand, and what users wrote stays text in every form."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.data_report.collect import collect_report
from cli.data_report.coverage import EXPECTED, reach
from cli.data_report.drift import compare_labels, compare_lengths, compare_meanings
from cli.data_report.record import Count, LabelCount, Report
from cli.data_report.suspects import find_suspects
from cli.main import app
from core.events import Example, Origin, Split, now
from core.settings import Settings
from tests.feedback.harness import Bench, bench, feedback, prediction, publish, settings_for
from tests.support_bundles import WORDS

RUNNER = CliRunner()
HOSTILE = "<script>alert('ü')</script> \x1b[31m[bold]word1"
HOSTILE_LABEL = '"><img src=x onerror=alert(1)>'
GROUPS = {"alpha": WORDS[:20], "beta": WORDS[20:40]}


def _example(number: int, text: str, target: str, **fields: object) -> Example:
    usual = {"example_id": f"{number:04}", "seq": 0, "task": "text_classification", "origin": Origin.SEED}
    return Example.model_validate({**usual, "inputs": {"text": text}, "target": target, "split": Split.TRAIN, **fields})


def _put(made: Bench, *examples: Example) -> None:
    with made.store.transaction() as transaction:
        transaction.put_examples([(example, now(), "f") for example in examples])


def _text(label: str, number: int) -> str:
    rng = np.random.default_rng(number)
    return " ".join(rng.choice(GROUPS[label], size=6))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 120 seeds with one wrong label among them, corrections, a duplicate, a refusal and 60 predictions."""
    folder = tmp_path_factory.mktemp("report")
    publish(folder, "v-0001", labels=["alpha", "beta", "unused"], embedding_size=32)
    with bench(folder) as made:
        seeds = [_example(n, _text(label, n), label) for n, label in enumerate(["alpha"] * 60 + ["beta"] * 60)]
        _put(made, *seeds, _example(500, _text("alpha", 500), "beta"), _example(501, "包裹在哪里", "alpha"))
        told = [feedback(n, n, "beta") for n in range(2)]
        asked = [prediction(n, text=_text("beta", 900 + n), label="beta") for n in range(60)]
        made.settle(*asked, *told, feedback(7, None, "beta", text=_text("beta", 900)))
        made.settle(feedback(8, None, "alpha", text=" "), feedback(9, None, "novel", text="word3 hello", trusted=False))
        _put(made, _example(600, HOSTILE, HOSTILE_LABEL, split=Split.BARRED, split_reason=HOSTILE))
    return folder


@pytest.fixture(scope="module")
def report(home: Path) -> Report:
    return collect_report(settings_for(home))


def test_the_counts_are_those_of_the_store(report: Report) -> None:
    assert report.examples == 125
    by_label = {row.label: row for row in report.labels}
    assert set(by_label) == {"alpha", "beta", HOSTILE_LABEL}
    assert by_label["alpha"].total == 61
    assert by_label["beta"].total == 63
    hostile = LabelCount(label=HOSTILE_LABEL, train=0, validation=0, holdout=0, barred=1, rare=True)
    assert by_label[HOSTILE_LABEL] == hostile
    assert not by_label["alpha"].rare
    assert report.origins == (Count(name="seed", count=123), Count(name="correction", count=2))
    assert report.trust == (Count(name="trusted", count=125),)
    assert report.scripts.counts == (Count(name="Latin", count=124), Count(name="Han", count=1))


def test_what_was_refused_and_found_twice_has_its_reason(report: Report) -> None:
    assert report.duplicates.exact == 1
    assert report.duplicates.barred == (Count(name=HOSTILE, count=1),)
    assert [item.count for item in report.refused.rejected] == [1]
    assert (report.refused.claims, report.refused.confirmed) == (1, 0)
    assert "new label from one untrusted source" in report.refused.quarantined[0].name


def test_the_wrong_label_is_the_most_suspect_one(report: Report) -> None:
    found = report.suspects
    assert (found.missing, found.examined) == ("", 124)
    assert (found.most[0].example_id, found.most[0].label, found.most[0].likely) == ("0500", "beta", "alpha")
    assert found.most[0].text == _text("alpha", 500)


def test_coverage_names_what_is_missing_on_either_side(report: Report) -> None:
    found = report.coverage
    assert found.without_examples == ("unused",)
    assert found.not_known == (HOSTILE_LABEL,)
    assert found.predictions == 60
    assert found.far_share is not None
    assert 0 <= found.far_share < 0.5


def test_drift_is_found_in_the_labels_that_are_all_of_one_kind(report: Report) -> None:
    of = {(row.what, row.of): row for row in report.drift}
    moved = of["labels", "recent predictions"]
    assert moved.distance == pytest.approx(62 / 123, abs=1e-3)
    assert moved.p_value == pytest.approx(1 / 500)
    assert of["meaning", "recent predictions"].p_value == pytest.approx(1 / 500)
    few = of["labels", "examples since the seed"]
    assert (few.seed, few.others, few.distance) == (123, 2, None)
    assert few.meaning.startswith("too few")


def test_the_same_figures_come_as_json_and_as_a_table(home: Path, report: Report) -> None:
    told = RUNNER.invoke(app, ["data", "report", "--json", "--home", str(home)])
    assert json.loads(told.stdout)["suspects"]["most"][0]["example_id"] == "0500"
    shown = RUNNER.invoke(app, ["data", "report", "--home", str(home)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "\x1b" not in shown.stdout
    assert HOSTILE_LABEL in shown.stdout


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links |= {value or "" for name, value in attrs if name in ("src", "href")}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_runs_nothing_and_loads_nothing_whatever_users_wrote(home: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert RUNNER.invoke(app, ["data", "report", "--html", str(page), "--home", str(home)]).exit_code == 0
    tags = _Tags()
    tags.feed(page.read_text(encoding="utf-8"))
    assert not tags.tags & {"script", "img", "iframe", "object"}
    assert "onerror" not in tags.attributes
    assert tags.links == {"data:,"}
    assert HOSTILE in tags.text
    assert HOSTILE_LABEL in tags.text


def test_without_a_store_nothing_is_made_and_without_a_model_the_report_says_so(tmp_path: Path) -> None:
    refused = RUNNER.invoke(app, ["data", "report", "--home", str(tmp_path)])
    assert refused.exit_code != 0
    assert not list(tmp_path.iterdir())
    settings: Settings = settings_for(tmp_path / "new")
    with bench(tmp_path / "new") as made:
        made.settle(feedback(1, None, "alpha", text="a text of mine"))
    before = sorted((tmp_path / "new").rglob("registry/**/*"))
    found = collect_report(settings)
    assert found.version is None
    assert "no live model" in found.suspects.missing
    assert "no live model" in found.coverage.missing
    assert sorted((tmp_path / "new").rglob("registry/**/*")) == before


def test_the_p_values_are_small_where_there_is_drift_and_not_where_there_is_none() -> None:
    rng = np.random.default_rng(5)
    same = compare_labels({"a": 300, "b": 100}, {"a": 148, "b": 52}, of="x")
    assert same.distance == pytest.approx(0.01)
    assert (same.p_value or 0) > 0.5
    moved = compare_labels({"a": 300, "b": 100}, {"a": 100, "b": 90, "new": 10}, of="x")
    assert moved.distance == pytest.approx(0.25)
    assert moved.p_value == pytest.approx(1 / 500)
    assert "a 75.0% → 50.0%" in moved.meaning
    lengths = rng.poisson(40, size=400)
    assert (compare_lengths(lengths[:200], lengths[200:], of="x").p_value or 0) > 0.05
    longer = compare_lengths(lengths[:200], lengths[200:] + 20, of="x")
    assert (longer.distance or 0) > 0.8
    rows = rng.normal(size=(300, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert (compare_meanings(rows[:150], rows[150:], of="x").p_value or 0) > 0.05
    turned = compare_meanings(rows[:150], np.abs(rows[150:]), of="x")
    assert turned.p_value == pytest.approx(1 / 500)
    assert compare_meanings(rows[:49], rows[49:], of="x").distance is None


def test_texts_like_the_labelled_ones_are_far_as_often_as_expected() -> None:
    rows = np.random.default_rng(2).normal(size=(3_000, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert reach(rows[:2_000], rows[2_000:]).far_share == pytest.approx(EXPECTED, abs=0.025)
    assert reach(np.abs(rows[:2_000]), -np.abs(rows[2_000:])).far_share == 1.0


def test_labels_with_few_examples_are_passed_over_and_not_suspected() -> None:
    rows = np.eye(3, dtype=np.float32)[[0] * 10 + [1] * 10 + [2] * 2]
    found = find_suspects(rows, ["a"] * 10 + ["b"] * 10 + ["c"] * 2)
    assert (found.examined, found.passed_over, found.rows) == (20, 2, ())
    assert find_suspects(rows[:10], ["a"] * 10).examined == 0
