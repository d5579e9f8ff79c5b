"""Data as people have them: read, columns found, faults told by their lines, nothing guessed."""

import csv
import io
import json
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.intake import BadSeedFile, Checked, SeedOptions, check_seed
from feedback.intake.json_files import read_json_array, read_json_lines
from feedback.intake.tables import escape_cell, read_table, unescape_cell
from tests.feedback.harness import KEY, settings_for

_RARE = st.sampled_from("\"',;\t|\r\n=+-@")
_TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), _RARE))
_CELLS = _TEXTS.filter(str.strip)


def _check(path: Path, **options: Any) -> Checked:
    return check_seed(path, settings_for(path.parent), KEY, SeedOptions(**options))


def _written(folder: Path, name: str, content: str | bytes | list[Any]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = json.dumps(content, indent=1) if name.endswith(".json") else "\n".join(map(json.dumps, content))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _pairs(checked: Checked) -> list[tuple[str, str]]:
    return [(row.inputs["text"], row.target) for row in checked.rows]


ROWS = [
    ("where is my parcel", "parcel"),
    ("größe, bitte", "size"),
    ("my parcel is lost", "parcel"),
    ("too big", "size"),
]


def _task(text: str, *choices: Any, **more: Any) -> dict[str, Any]:
    """A Label Studio task; each choice is a label, or (annotator, label, cancelled)."""
    annotations = []
    for place, choice in enumerate(choices):
        by, label, cancelled = choice if isinstance(choice, tuple) else (place, choice, False)
        value = {"choices": label if isinstance(label, list) else [label]}
        result = {"type": "choices", "from_name": "kind", "to_name": "text", "value": value}
        annotations.append({"completed_by": by, "was_cancelled": cancelled, "result": [result]})
    return {"data": {"text": text, **more}, "annotations": annotations, "predictions": []}


# forms


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "with a byte order mark"])
@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("a.jsonl", "\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS), "JSON Lines"),
        ("a.json", json.dumps([{"text": text, "label": label} for text, label in ROWS]), "JSON array"),
        ("a.csv", "text,label\n" + "\r\n".join(f'"{text}",{label}' for text, label in ROWS), "CSV"),
        ("a.csv", "label;text\n" + "\n".join(f"{label};{text}" for text, label in ROWS), "CSV with ';'"),
        ("a.tsv", "text\tlabel\n" + "\n".join(f"{text}\t{label}" for text, label in ROWS), "TSV"),
        ("a.json", json.dumps([_task(text, label) for text, label in ROWS]), "Label Studio"),
    ],
    ids=["lines", "array", "csv", "semicolons", "tabs", "label studio"],
)
def test_each_form_gives_the_same_rows(tmp_path: Path, name: str, content: str, form: str, mark: str) -> None:
    checked = _check(_written(tmp_path, name, mark + content))
    assert (checked.found.format, _pairs(checked)) == (form, ROWS)
    assert checked.found.problem is None


@given(st.sampled_from(",;\t|"), st.lists(st.tuples(_CELLS, _CELLS), min_size=2, max_size=8))
def test_a_table_is_read_as_it_was_written_whatever_its_delimiter(delimiter: str, rows: list[tuple[str, str]]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    source = read_table("x", file.getvalue().encode(), delimiter=None)
    assert [(row.fields["text"], row.fields["label"]) for row in source.rows] == rows
    assert source.faults == []


@given(_TEXTS)
def test_an_escaped_cell_is_no_formula_and_comes_back(text: str) -> None:
    assert escape_cell(text)[:1] not in tuple("=+-@\t\r")
    assert unescape_cell(escape_cell(text)) == text


@given(st.lists(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none()))), st.sampled_from([None, 1]))
def test_an_array_says_what_the_same_rows_say_as_lines(rows: list[dict[str, Any]], indent: int | None) -> None:
    array = read_json_array("x", json.dumps(rows, indent=indent).encode())
    lines = read_json_lines("\n".join(map(json.dumps, rows)).encode())
    assert [row.fields for row in array.rows] == [row.fields for row in lines.rows] == rows
    assert array.faults == lines.faults == []


@given(st.binary(max_size=200))
def test_no_bytes_make_more_than_an_error_of_ours(content: bytes) -> None:
    read_json_lines(content)
    for read in (lambda: read_table("x", content), lambda: read_json_array("x", b"[" + content)):
        with suppress(BadSeedFile):
            assert all(row.where.startswith("line ") for row in read().rows)


def test_faults_have_the_line_that_they_begin_on(tmp_path: Path) -> None:
    table = 'text,label\n"two\nlines",a\n"x"\n"   ",b\n\ngood,a\nfine,b\n'
    found = _check(_written(tmp_path, "a.csv", table)).found
    assert found.first_faults == ["line 4: 1 cells, but the head names 2 columns", "line 5: 'text' is empty"]
    assert (found.rows, found.taken, found.faults, found.empty_texts) == (5, 3, 2, 1)
    array = '[\n{"text": "x", "label": "a"},\n3,\n\n{"text": "y"},\n{"text": "z", "label": "b"}\n, oops'
    found = _check(_written(tmp_path, "b.json", array)).found
    assert [fault.split(":")[0] for fault in found.first_faults] == ["line 3", "line 5", "line 7"]
    open_quote = 'text,label\nx,a\n"y,b\nz,a\n'
    assert "behind line 2: " in str(_check(_written(tmp_path, "c.csv", open_quote)).found.problem)


def test_faults_stop_the_import_unless_they_are_to_be_left_out(tmp_path: Path) -> None:
    path = _written(tmp_path, "a.csv", "text,label\nx,a\ny,\nz,b\n")
    with pytest.raises(BadSeedFile, match=r"1 of 3 lines cannot be used:\n  - line 3: 'label' is empty"):
        _check(path).whole()
    assert [row.target for row in _check(path, skip_faults=True).whole()] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "text,label\nx,\xe9\n".encode("latin-1"), r"a.csv, line 2: not UTF-8"),
        ("a.csv", "only\nx\n", "must name two or more columns"),
        ("a.csv", "text,text\nx,a\n", "each with another name"),
        ("a.csv", '"text,label\nx,a\n', "no head that names the columns"),
        ("a.json", b'["\xff"]', "not UTF-8"),
        ("a.csv", " \n", "is empty"),
    ],
)
def test_what_cannot_be_read_at_all_is_one_error(tmp_path: Path, name: str, content: str | bytes, told: str) -> None:
    with pytest.raises(BadSeedFile, match=told):
        _check(_written(tmp_path, name, content))


def test_what_could_not_be_read_is_told_where_the_columns_cannot_be_found(tmp_path: Path) -> None:
    with pytest.raises(
        BadSeedFile, match=r"no column looks like the label; .* \(1 lines could not be read, the first: line 2"
    ):
        _check(_written(tmp_path, "a.json", '[{"text": "x"},\n{"label": '))


@pytest.mark.parametrize("content", ["[]", json.dumps([{"data": {"text": "x"}, "annotations": []}])])
def test_data_without_a_labelled_row_are_told(tmp_path: Path, content: str) -> None:
    assert str(_check(_written(tmp_path, "a.json", content)).found.problem).endswith("a.json has no labelled rows")


# Label Studio


def test_cancelled_annotations_do_not_count_and_the_majority_does(tmp_path: Path) -> None:
    tasks = [
        _task("first text", "a", "a", "b"),
        _task("second text", (1, "b", True), (2, "a", False)),
        _task("third text", (1, "a", False), (1, "b", False)),
        _task("tied text", "a", "b"),
        _task("nobody's text", (1, "b", True)),
    ]
    checked = _check(_written(tmp_path, "a.json", tasks))
    assert _pairs(checked) == [("first text", "a"), ("second text", "a"), ("third text", "b")]
    assert (checked.found.unlabelled, checked.found.ties, checked.found.rows) == (1, 1, 3)
    assert "as many annotators say each of a, b" in checked.found.first_ties[0]


def test_several_choices_are_a_fault_and_several_questions_want_a_name(tmp_path: Path) -> None:
    tasks = [_task("first", "a"), _task("second", ["a", "b"]), _task("third", "b")]
    assert "2 choices (a, b); a text has one label" in _check(_written(tmp_path, "a.json", tasks)).found.first_faults[0]
    tasks[1]["annotations"][0]["result"][0]["from_name"] = "mood"
    path = _written(tmp_path, "b.json", tasks)
    with pytest.raises(BadSeedFile, match=r"chose 'kind', 'mood'; --label-column"):
        _check(path)
    assert _pairs(_check(path, label_column="kind")) == [("first", "a"), ("third", "b")]
    with pytest.raises(BadSeedFile, match="--label-column is 'tone'"):
        _check(path, label_column="tone")


# columns


def _columns(tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> str:
    return _check(_written(tmp_path, "a.jsonl", rows), **options).found.columns


def _made(text: str, label: str, **more: Any) -> list[dict[str, Any]]:
    return [{**more, text: f"some words {number}", label: f"kind {number % 2}"} for number in range(8)]


@pytest.mark.parametrize("text", ["text", "Sentence", "query", "utterance", "question", "content"])
@pytest.mark.parametrize("label", ["label", "intent", "Category", "class", "target"])
def test_columns_are_known_by_their_names(tmp_path: Path, text: str, label: str) -> None:
    found = _columns(tmp_path, _made(text, label, id=3, domain="x"))
    assert found == f"text: {text!r} by name; label: {label!r} by name"


def test_else_columns_are_known_by_what_they_hold(tmp_path: Path) -> None:
    rows = [{"nr": f"id-{number}", **row} for number, row in enumerate(_made("said", "sort"))]
    assert _columns(tmp_path, rows) == "text: 'said' by content; label: 'sort' by content"


def test_what_fits_equally_well_is_not_guessed(tmp_path: Path) -> None:
    rows = [{**row, "topic": f"topic {number % 3}"} for number, row in enumerate(_made("text", "sort"))]
    with pytest.raises(BadSeedFile, match=r"'sort', 'topic' fit equally well as the label; --label-column"):
        _columns(tmp_path, rows)
    assert "label: 'topic' by option" in _columns(tmp_path, rows, label_column="topic")
    rows = _made("question", "label", query="another one")
    with pytest.raises(BadSeedFile, match=r"'query', 'question' fit equally well as the text; --text-column"):
        _columns(tmp_path, rows)
    assert "text: 'question' by option" in _columns(tmp_path, rows, text_column="question")
    with pytest.raises(
        BadSeedFile, match=r"no column 'txt' for the text; the columns are 'query', 'question', 'label'"
    ):
        _columns(tmp_path, rows, text_column="txt")
    with pytest.raises(BadSeedFile, match="no column looks like the label"):
        _columns(tmp_path, [{"text": "one text"}, {"text": "another"}])


def test_numbers_get_the_names_that_stand_beside_them(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": number % 2, "label_text": "ab"[number % 2]} for number in range(4)]
    assert {row.target for row in _check(_written(tmp_path, "a.jsonl", rows)).rows} == {"a", "b"}
    bare = [{"text": row["text"], "label": row["label"]} for row in rows]
    found = _check(_written(tmp_path, "b.jsonl", bare)).found
    assert set(found.labels) == {"0", "1"}
    assert "numbers without names" in found.notes[0]


# folders


def _dataset(folder: Path) -> Path:
    _written(
        folder, "train.csv", "text,label\n" + "".join(f"train text {number},{number % 2}\n" for number in range(40))
    )
    _written(folder, "data/validation-00000-of-00001.jsonl", [{"text": "valid text", "label": 1}])
    _written(folder, "test/part.jsonl", [{"text": "test text", "label": 0}])
    _written(folder, "notes.csv", "nothing\nthat is data")
    _written(folder, ".cache/train.csv", "nothing\nthat is data")
    names = {"features": {"text": {"dtype": "string"}, "label": {"_type": "ClassLabel", "names": ["no", "yes"]}}}
    _written(folder, "dataset_info.json", json.dumps(names))
    return folder


def test_a_folder_is_read_with_its_splits_and_its_names_of_classes(tmp_path: Path) -> None:
    checked = _check(_dataset(tmp_path / "set"), keep_splits=True)
    assert (checked.found.taken, checked.found.problem) == (42, None)
    assert checked.found.labels == {"no": 21, "yes": 21}
    assert checked.found.splits == {"train": 40, "validation": 1, "holdout": 1}
    assert "named by the data set" in checked.found.columns
    by_hash = _check(tmp_path / "set").found
    assert by_hash.splits["train"] + by_hash.splits["validation"] + by_hash.splits["holdout"] == 42
    assert by_hash.splits["holdout"] > 1
    assert "files of holdout and validation are split by hash" in by_hash.notes[0]


def test_faults_in_a_folder_are_told_with_their_files(tmp_path: Path) -> None:
    _written(_dataset(tmp_path / "set"), "test/part.jsonl", [{"text": "x", "label": 7}, {"text": "x"}])
    assert _check(tmp_path / "set").found.first_faults == [
        "test/part.jsonl, line 1: the label is 7, but the data set names 2 labels, from 0",
        "test/part.jsonl, line 2: the field 'label' is missing",
    ]


def test_arrow_folders_and_parquet_without_its_package_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _written(tmp_path, "arrow/train/data-00000-of-00001.arrow", b"x")
    with pytest.raises(BadSeedFile, match="written by save_to_disk"):
        _check(tmp_path / "arrow")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    _written(tmp_path, "parquet/train.parquet", b"PAR1")
    with pytest.raises(BadSeedFile, match="needs the package pyarrow: install it"):
        _check(tmp_path / "parquet")


# the report


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyz")), min_size=1, max_size=30))
def test_every_row_is_counted_once(rows: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = _written(Path(folder), "a.jsonl", [{"text": f"text {text}", "label": label} for text, label in rows])
        found = _check(path).found
    assert found.taken + found.duplicates + found.conflicts == found.rows == len(rows)
    assert found.taken == sum(found.labels.values()) == sum(found.splits.values()) == len({text for text, _ in rows})
    assert found.rare_labels == {label: count for label, count in found.labels.items() if count < 5}
