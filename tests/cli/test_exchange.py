"""``ratchet seed`` and ``ratchet export``: what is reported, what is stored, and that what goes out comes back."""

import io
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from cli.export import FORMATS
from cli.main import app
from core.errors import InvalidInput, InvalidTarget, RatchetError
from core.events import Example, Origin, Split
from core.examples import ExampleStore
from core.tasks import get_task
from feedback.intake import SeedOptions, check_seed
from feedback.reading import InputsReader
from tests.feedback.harness import KEY, settings_for

TASK = get_task("text_classification")
ENDINGS = {"jsonl": "jsonl", "csv": "csv", "label-studio": "json"}
_RARE = st.sampled_from("\"',;\t|=+-@<>&[]{}")
SETTINGS = settings_for(Path("unused"))
READER = InputsReader(SETTINGS, KEY)  # to make one takes longer than to use it
_WORDS = st.text(st.one_of(st.characters(codec="utf-8"), _RARE), min_size=1, max_size=30)


def _run(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def _stored(home: Path) -> list[Example]:
    settings = settings_for(home)
    with closing(ExampleStore(settings.example_store_url, settings.model)) as store:
        return store.examples()


def _told(examples: list[Example]) -> list[tuple[Any, Any, Split]]:
    return [(example.inputs, example.target, example.split) for example in examples]


def _text(number: int) -> str:
    """Words of its own for each number, so that no two texts are near each other."""
    return " ".join(f"{number * factor % 9973:x}" for factor in (1, 7, 31, 101, 999))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """60 labelled texts."""
    path = tmp_path / "[red] seed.csv"
    rows = [f'"{_text(number)}, ""=1+1""",{"+" if number % 2 else "-"}label' for number in range(60)]
    path.write_text("\n".join(["query,intent", *rows]), encoding="utf-8")
    return path


@pytest.mark.parametrize("format_name", FORMATS)
def test_what_was_exported_seeds_an_empty_home_with_the_same_examples(
    file: Path, tmp_path: Path, format_name: str
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    _run("seed", file, "--home", first)
    out = tmp_path / f"examples.{ENDINGS[format_name]}"
    done = _run("export", "--format", format_name, "--out", out, "--home", first)
    assert "60 examples exported" in done.stderr
    _run("seed", out, "--keep-splits", "--home", second)
    assert _told(_stored(second)) == _told(_stored(first))
    again = tmp_path / "again"
    _run("export", "--format", format_name, "--out", again, "--home", second)
    assert again.read_bytes() == out.read_bytes()


@settings(deadline=None)
@given(st.data(), st.sampled_from(sorted(FORMATS)))
def test_every_example_comes_back_from_every_form(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, format_name: str
) -> None:
    examples = {example.example_id: example for example in data.draw(st.lists(_examples(READER), max_size=6))}
    assume(examples)
    file = io.StringIO(newline="")
    FORMATS[format_name](examples.values(), TASK, file)
    path = tmp_path_factory.mktemp("out") / f"x.{ENDINGS[format_name]}"
    path.write_text(file.getvalue(), encoding="utf-8", newline="")
    checked = check_seed(path, SETTINGS, KEY, SeedOptions(keep_splits=True))
    assert checked.found.first_faults == []
    kept = {
        example_id: None if example.split is Split.BARRED else example.split for example_id, example in examples.items()
    }
    assert [(row.identity, row.inputs, row.target, row.split) for row in checked.rows] == [
        (example.example_id, example.inputs, example.target, kept[example.example_id]) for example in examples.values()
    ]


@st.composite
def _examples(draw: st.DrawFn, reader: InputsReader) -> Example:
    """As the store has them: cleaned, masked and checked."""
    try:
        inputs, identity = reader.read({"text": draw(_WORDS)})
        target = TASK.parse_target(draw(_WORDS))
    except (InvalidInput, InvalidTarget):
        assume(False)
    return Example(
        model="default", example_id=identity, seq=1, task=TASK.name, inputs=inputs, target=target,
        origin=draw(st.sampled_from(Origin)), split=draw(st.sampled_from(Split)),
        trust=draw(st.floats(0, 1)), sources=draw(st.lists(_WORDS, max_size=2)),
    )  # fmt: skip


def test_an_export_holds_what_was_asked_for(file: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    _run("seed", file, "--home", home)
    rows = [json.loads(line) for line in _run("export", "--split", "holdout", "--home", home).stdout.splitlines()]
    expected = [example for example in _stored(home) if example.split is Split.HOLDOUT]
    assert 0 < len(expected) < 60
    assert rows == [
        {
            **example.inputs,
            "label": example.target,
            "origin": "seed",
            "split": "holdout",
            "trust": 1.0,
            "sources": ["seed"],
        }
        for example in expected
    ]
    assert _run("export", "--origin", "correction", "--home", home).stdout == ""


def test_no_cell_of_a_table_is_a_formula(file: Path, tmp_path: Path) -> None:
    _run("seed", file, "--home", tmp_path / "home")
    table = _run("export", "--format", "csv", "--home", tmp_path / "home").stdout
    assert table.splitlines()[0] == "text,label,origin,split,trust,sources"
    assert ",'+label," in table
    assert ",+label" not in table


def test_an_export_from_nothing_leaves_no_trace(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", "--home", str(tmp_path / "home")])
    assert isinstance(done.exception, RatchetError)
    assert "has no example store" in str(done.exception)
    assert not (tmp_path / "home").exists()
    _run("seed", "missing.csv", "--home", tmp_path / "home", "--text-colum", "x", code=2)


def test_a_check_reports_and_leaves_no_trace(file: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    found = json.loads(_run("seed", file, "--check", "--json", "--home", home).stdout)
    assert (found["rows"], found["taken"], found["labels"]) == (60, 60, {"-label": 30, "+label": 30})
    assert (found["columns"], found["stored"]) == ("text: 'query' by name; label: 'intent' by name", None)
    assert not home.exists()
    shown = _run("seed", file, "--check", "--home", home).stdout
    for words in ("[red] seed.csv (CSV)", "'query' by name", "-label 30", "no key yet"):
        assert words in " ".join(shown.split())


def test_the_sizes_that_a_check_tells_are_those_that_are_stored(file: Path, tmp_path: Path) -> None:
    stored = json.loads(_run("seed", file, "--json", "--home", tmp_path / "home").stdout)
    assert stored["stored"] == 60
    sizes = {split: sum(example.split == split for example in _stored(tmp_path / "home")) for split in stored["splits"]}
    assert stored["splits"] == sizes
    checked = json.loads(_run("seed", file, "--check", "--json", "--home", tmp_path / "home").stdout)
    assert checked["splits"] == sizes


def test_a_check_of_what_cannot_be_stored_says_why_and_ends_with_code_1(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "x", "label": "a"}\nno\n{"text": "y", "label": "b"}\n', encoding="utf-8")
    done = _run("seed", path, "--check", "--home", tmp_path / "home", code=1)
    assert "1 of 3 lines cannot be used:\n  - line 2: " in done.stdout
    done = _run("seed", path, "--skip-faults", "--home", tmp_path / "home")
    assert "2 new examples" in done.stdout
    assert "left out:\n  - line 2: " in done.stdout


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
