"""Which column is the text and which the label: by their names, else by what they hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from feedback.intake.rows import LABEL_STUDIO_LABEL, BadSeedFile, SeedOptions, Source

TEXT_NAMES: Final = (
    ("text",),
    ("sentence", "query", "utterance", "question", "content", "message", "body", "review", "title"),
)
"""By how sure they are: one of the first wins over all of the second."""
LABEL_NAMES: Final = (
    (LABEL_STUDIO_LABEL,),
    ("label",),
    ("intent", "category", "class", "target", "labels", "label_text", "label_name"),
)
_SIBLINGS: Final = ("_text", "_name", "_names", "_str")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where text and label are, and how that was found out."""

    text: str
    label: str
    how: str
    #: names of labels that are given by number
    names: Sequence[str] = ()
    #: the labels are whole numbers without names: their digits are the labels
    numbers: bool = False


def find_columns(name: str, source: Source, options: SeedOptions) -> Columns:
    """The columns of the data.

    Raises:
        BadSeedFile: an option names no column, no column fits, or several fit equally well.
    """
    columns = list(dict.fromkeys(column for row in source.rows for column in row.fields))
    values = {column: [row.fields.get(column) for row in source.rows] for column in columns}
    search = _Search(name, values)
    is_tasks = LABEL_STUDIO_LABEL in columns
    label = LABEL_STUDIO_LABEL if is_tasks else options.label_column
    label, by_label = search.find("label", label, LABEL_NAMES, _is_label, besides=options.text_column)
    by_label = "annotators' choices" if is_tasks else by_label
    text, by_text = search.find("text", options.text_column, TEXT_NAMES, _is_text, besides=label)
    how = f"text: {text!r} by {by_text}; label: {label!r} by {by_label}"
    if options.label_column is None and _all_numbers(values[label]):
        siblings = [label + ending for ending in _SIBLINGS if label + ending in values]
        if label not in source.names and siblings:
            return Columns(text=text, label=siblings[0], how=f"{how}, named by {siblings[0]!r}")
    numbers = _all_numbers(values[label])
    names = source.names.get(label, ()) if numbers else ()
    return Columns(
        text=text, label=label, how=how + (", named by the data set" if names else ""), names=names, numbers=numbers
    )


class _Search:
    def __init__(self, name: str, values: dict[str, list[Any]]) -> None:
        self._name = name
        self._values = values

    def find(
        self,
        what: str,
        given: str | None,
        tiers: Sequence[Sequence[str]],
        fits: Callable[[list[Any]], bool],
        *,
        besides: str | None,
    ) -> tuple[str, str]:
        """The column and how it was found. Raises BadSeedFile."""
        if given is not None:
            if given not in self._values:
                raise BadSeedFile(f"{self._name}: there is no column {given!r} for the {what}; {self._all()}")
            return given, "option"
        left = [column for column in self._values if column != besides]
        for tier in tiers:
            if named := [column for column in left if column.lower() in tier]:
                return self._only(what, named), "name"
        if found := [column for column in left if fits(self._values[column])]:
            return self._only(what, found), "content"
        raise BadSeedFile(
            f"{self._name}: no column looks like the {what}; {self._all()}; --{what}-column NAME says which it is"
        )

    def _only(self, what: str, found: list[str]) -> str:
        if len(found) > 1:
            raise BadSeedFile(
                f"{self._name}: the columns {', '.join(map(repr, found))} fit equally well as the {what}; "
                f"--{what}-column NAME says which it is"
            )
        return found[0]

    def _all(self) -> str:
        return f"the columns are {', '.join(map(repr, self._values))}"


def _is_label(values: list[Any]) -> bool:
    """Few different values: two or more, and each twice in the mean."""
    whole = all(isinstance(value, str | int) and str(value).strip() for value in values)
    return whole and 2 <= len(set(values)) <= len(values) / 2


def _is_text(values: list[Any]) -> bool:
    """Most values differ, and most have a blank or a letter that is not ASCII, as ids have not."""
    texts = [value for value in values if isinstance(value, str)]
    words = sum(" " in text.strip() or not text.isascii() for text in texts)
    return len(texts) == len(values) and 2 * len(set(texts)) > len(texts) and 2 * words > len(texts)


def _all_numbers(values: list[Any]) -> bool:
    """What is missing is a fault of its row, and says nothing of the others."""
    return all(number_of(value) is not None for value in values if value is not None)


def number_of(value: Any) -> int | None:
    """The whole number that a value is or spells, None where it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 else None
