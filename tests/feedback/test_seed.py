"""The seed file: checked as a whole, told of as a whole, stored once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.events import Origin, Split
from core.examples import ExampleStore
from feedback import seed
from feedback.seed import BadSeedFile, SeedReport, import_seed
from tests.feedback.harness import KEY, settings_for


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ExampleStore]:
    """An empty store."""
    made = ExampleStore(settings_for(tmp_path).example_store_url, "default")
    made.migrate()
    yield made
    made.close()


def _rows(count: int, labels: int = 2) -> list[dict[str, Any]]:
    return [{"text": _text(number), "label": f"label {number % labels}"} for number in range(count)]


def _text(number: int) -> str:
    """Words of its own for each number, so that no two texts are near each other."""
    return " ".join(f"{number * factor % 9973:x}" for factor in (1, 7, 31, 101, 999))


def _file(folder: Path, content: bytes | list[dict[str, Any]], name: str = "seed.jsonl") -> Path:
    path = folder / name
    path.write_bytes(
        content if isinstance(content, bytes) else b"".join(json.dumps(row).encode() + b"\n" for row in content)
    )
    return path


def _load(store: ExampleStore, path: Path, progress: list[tuple[int, int]] | None = None) -> SeedReport:
    told = progress if progress is not None else []
    return import_seed(store, path, settings_for(path.parent), KEY, lambda done, total: told.append((done, total)))


def test_every_row_becomes_an_example_with_a_split(store: ExampleStore, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    report = _load(store, _file(tmp_path, _rows(700, labels=3)), told)
    assert report == SeedReport(rows=700, stored=700, duplicates=0, conflicts=0, labels=3)
    assert told == [(500, 700), (700, 700)]
    examples = store.examples()
    assert {example.origin for example in examples} == {Origin.SEED}
    shares = {split: sum(example.split == split for example in examples) / 700 for split in Split}
    assert shares[Split.HOLDOUT] == pytest.approx(0.15, abs=0.05)
    assert shares[Split.VALIDATION] == 0
    assert [example.seq for example in examples] == list(range(1, 701))


def test_all_bad_lines_are_counted_and_told_and_nothing_is_stored(store: ExampleStore, tmp_path: Path) -> None:
    good = b'{"text": "fine", "label": "a"}\n'
    bad = [
        b"not json", b"[]", b'"text"', b"null", b'{"text": "x"}', b'{"label": "a"}', b'{"text": 3, "label": "a"}',
        b'{"text": "x", "label": 3}', b'{"text": "  ", "label": "a"}', b'{"text": "\xff", "label": "a"}',
        b'{"text": "x", "label": ""}', b"[" * 50_000,
    ]  # fmt: skip
    path = _file(tmp_path, good + b"\n".join(bad) + b"\n\n" + good)
    with pytest.raises(BadSeedFile) as refused:
        _load(store, path)
    lines = str(refused.value).splitlines()
    assert lines[0] == f"{path}: 12 of 14 lines cannot be used:"
    assert [line.split(":")[0] for line in lines[1:11]] == [f"  - line {number}" for number in range(2, 12)]
    assert lines[11] == "  … and 2 more"
    for told in ("not a JSON object", "'label' is missing", "'text' is missing", "got a number", "is empty", "utf-8"):
        assert told in str(refused.value)
    assert store.examples() == []


def test_a_file_is_imported_once_however_often_it_is_given(store: ExampleStore, tmp_path: Path) -> None:
    path = _file(tmp_path, _rows(30))
    assert _load(store, path).stored == 30
    assert _load(store, path).stored == 0
    assert _load(store, _file(tmp_path, _rows(40), "more.jsonl")).stored == 10
    assert len(store.examples()) == 40


def test_an_import_that_was_interrupted_leaves_nothing_and_can_be_repeated(
    store: ExampleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed, "_CHUNK", 10)

    def interrupt(done: int, _: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    path = _file(tmp_path, _rows(35))
    with pytest.raises(KeyboardInterrupt):
        import_seed(store, path, settings_for(tmp_path), KEY, interrupt)
    assert store.examples() == []
    assert _load(store, path).stored == 35
    assert [example.inputs["text"] for example in store.examples()] == [row["text"] for row in _rows(35)]


def test_of_doubles_the_first_holds_and_contradictions_are_told(store: ExampleStore, tmp_path: Path) -> None:
    rows = [*_rows(4), {"text": f" {_text(0).upper()}", "label": "label 0"}, {"text": _text(1), "label": "label 0"}]
    report = _load(store, _file(tmp_path, rows))
    assert (report.rows, report.stored, report.duplicates, report.conflicts) == (6, 4, 1, 1)
    assert {example.inputs["text"]: example.target for example in store.examples()}[_text(1)] == "label 1"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n"], ids=["unix", "windows", "blank lines"])
def test_files_of_all_systems_are_read(store: ExampleStore, tmp_path: Path, mark: bytes, end: bytes) -> None:
    lines = ['{"text": "größe", "label": "a"}'.encode(), b'{"text": "y", "label": "b", "note": "ignored"}']
    assert _load(store, _file(tmp_path, mark + end.join(lines))).stored == 2
    assert [example.inputs for example in store.examples()] == [{"text": "größe"}, {"text": "y"}]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n", "is empty"),
        (
            b'{"text": "x", "label": "a"}\n{"text": "y", "label": "a"}',
            "has only 1 label; a classifier needs two or more",
        ),
        ('{"text": "x", "label": "a"}\n'.encode("utf-16"), "lines cannot be used"),
        (b"\x89PNG\r\n\x1a\n\x00", "3 of 3 lines cannot be used"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_error(
    store: ExampleStore, tmp_path: Path, content: bytes, told: str
) -> None:
    with pytest.raises(BadSeedFile, match=told):
        _load(store, _file(tmp_path, content))


def test_a_file_that_is_missing_or_a_folder_without_data_is_told_as_such(store: ExampleStore, tmp_path: Path) -> None:
    for path, told in ((tmp_path / "nothing.jsonl", "cannot be read: No such file"), (tmp_path, "has no data files")):
        with pytest.raises(BadSeedFile, match=told):
            _load(store, path)
