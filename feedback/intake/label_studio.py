"""Label Studio's JSON export: tasks with the choices that people made.

Cancelled annotations count for nothing; of one annotator the last counts; of several annotators the majority.
<https://labelstud.io/guide/export.html#Label-Studio-JSON-format-of-annotated-tasks>
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from feedback.intake.rows import LABEL_STUDIO_LABEL, BadSeedFile, RawRow, Source


def is_task(fields: Mapping[str, Any]) -> bool:
    """True for what looks like a task of Label Studio's export."""
    return isinstance(fields.get("data"), dict) and isinstance(fields.get("annotations"), list)


def read_tasks(name: str, source: Source, *, question: str | None) -> Source:
    """The labelled tasks among the rows, each as its data and ``LABEL_STUDIO_LABEL``.

    Args:
        name: of the file, for errors.
        source: the tasks as JSON.
        question: name of the choices (``from_name``) that are the label; None: there is but one.

    Raises:
        BadSeedFile: the annotators were asked several things and none is named, or the named one was not asked.
    """
    asked = sorted({said for row in source.rows for said, _ in _all_choices(row.fields)})
    if question is None and len(asked) > 1:
        raise BadSeedFile(
            f"{name}: the annotators chose {', '.join(map(repr, asked))}; --label-column NAME says which is the label"
        )
    if question is not None and question not in asked:
        raise BadSeedFile(
            f"{name}: --label-column is {question!r}, but the annotators chose {', '.join(map(repr, asked))}"
        )
    chosen = question or (asked[0] if asked else "")
    found = Source(format="Label Studio", faults=[*source.faults])
    for row in source.rows:
        try:
            _add(found, row, chosen)
        except ValueError as error:
            found.faults.append(f"{row.where}: {error}")
    return found


def _add(found: Source, row: RawRow, question: str) -> None:
    """Raises ValueError for what is no task, or has several labels."""
    if not is_task(row.fields):
        raise ValueError("not a Label Studio task: 'data' or 'annotations' is missing")
    votes = Counter(_votes(row.fields, question).values()).most_common()
    if not votes:
        found.unlabelled += 1
    elif len(votes) > 1 and votes[0][1] == votes[1][1]:
        tied = ", ".join(sorted(label for label, count in votes if count == votes[0][1]))
        found.ties.append(f"{row.where}: as many annotators say each of {tied}")
    else:
        found.rows.append(RawRow(where=row.where, fields={**row.fields["data"], LABEL_STUDIO_LABEL: votes[0][0]}))


def _votes(task: Mapping[str, Any], question: str) -> dict[str, str]:
    """The label by annotator. Raises ValueError where somebody chose several."""
    votes: dict[str, str] = {}
    for place, annotation in enumerate(_annotations(task)):
        choices = [choice for said, given in _choices(annotation) if said == question for choice in given]
        if len(choices) > 1:
            raise ValueError(f"{len(choices)} choices ({', '.join(choices)}); a text has one label")
        if choices:
            votes[_annotator(annotation, place)] = choices[0]
    return votes


def _annotator(annotation: Mapping[str, Any], place: int) -> str:
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        by = by.get("id", by.get("email"))
    return f"number {place}" if by is None else f"person {by}"


def _annotations(task: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for annotation in task["annotations"]:
        if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
            yield annotation


def _all_choices(task: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    if is_task(task):
        for annotation in _annotations(task):
            yield from _choices(annotation)


def _choices(annotation: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """What was asked, and what was chosen."""
    results = annotation.get("result")
    for result in results if isinstance(results, list) else []:
        if isinstance(result, dict) and result.get("type") == "choices" and isinstance(result.get("value"), dict):
            given = result["value"].get("choices")
            yield str(result.get("from_name", "")), [str(choice) for choice in given] if isinstance(given, list) else []
