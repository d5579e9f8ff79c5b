"""Gathering the report: counts by the database, samples of bounded size for what needs the texts."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any, Final

import numpy as np

from cli.data_report.drift import compare_labels, compare_lengths
from cli.data_report.model import Seen, Texts, look
from cli.data_report.record import RARE, Count, Drift, Duplicates, LabelCount, Refused, Report, Scripts
from core.errors import RatchetError
from core.events import Example, Inputs, OutcomeStatus, Prediction, Split, now
from core.examples import ExampleStore
from core.examples.content import ContentReader
from core.settings import Settings
from core.tasks import get_task
from feedback.scripts import scripts_of

EMBEDDED: Final = 2_000
"""Labelled examples that the live model looks at; so many of the seed, and of what came since, are compared in length."""
RECENT: Final = 1_000
"""Predictions that are compared with the examples."""
_READ: Final = 5_000
"""Texts whose script is looked at."""
_REASONS: Final = 500
_SHOWN: Final = 20
_NUMBER: Final = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")


class NothingStored(RatchetError):
    """There is no example store to report on."""


def collect_report(settings: Settings) -> Report:
    """Read the store and the live model; nothing is written.

    Raises:
        NothingStored: no store was ever begun here.
        StoreUnavailable: the database cannot be used.
    """
    embedded = settings.home / "examples.db"
    if not settings.examples_url and not embedded.exists():
        raise NothingStored(f"there is no example store at {embedded}; `ratchet up` and `ratchet seed` begin one")
    with closing(ExampleStore(settings.example_store_url, settings.model)) as store, store.content() as content:
        labels = _labels(content)
        recent = content.recent(limit=RECENT)
        drift = _drift(settings, content, recent)
        counted = _counted(content)
        labelled = _labelled(content)
    # the store is let go before the model's work, which takes longer
    texts = Texts(labelled=labelled, recent=recent, training={row.label: row.train for row in labels})
    seen = look(settings, texts)
    return _report(settings, labels, counted, drift, seen)


def _report(
    settings: Settings, labels: tuple[LabelCount, ...], counted: dict[str, Any], drift: tuple[Drift, ...], seen: Seen
) -> Report:
    return Report(
        model=settings.model,
        at=now().isoformat(timespec="seconds"),
        version=seen.version,
        examples=sum(row.total for row in labels),
        labels=labels,
        suspects=seen.suspects,
        coverage=seen.coverage,
        drift=(*drift, *seen.drift),
        **counted,
    )


def _counted(content: ContentReader) -> dict[str, Any]:
    """The parts that are counts alone."""
    return {
        "origins": _counts(content.origins()),
        "trust": _counts(content.trust()),
        "scripts": _scripts(content.sample(limit=_READ)),
        "duplicates": _duplicates(content),
        "refused": _refused(content),
    }


def _labels(content: ContentReader) -> tuple[LabelCount, ...]:
    rows = [
        LabelCount(
            label=label,
            train=splits.get(Split.TRAIN, 0),
            validation=splits.get(Split.VALIDATION, 0),
            holdout=splits.get(Split.HOLDOUT, 0),
            barred=splits.get(Split.BARRED, 0),
            rare=splits.get(Split.TRAIN, 0) < RARE,
        )
        for label, splits in content.labels().items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.total, row.label)))


def _labelled(content: ContentReader) -> list[Example]:
    """Half of the seed and half of what came since, or more of one where there is less of the other."""
    seed = content.sample(limit=EMBEDDED, seed=True, barred=False)
    since = content.sample(limit=EMBEDDED, seed=False, barred=False)
    since = since[: max(EMBEDDED // 2, EMBEDDED - len(seed))]
    return [*seed[: EMBEDDED - len(since)], *since]


def _duplicates(content: ContentReader) -> Duplicates:
    near = content.near()
    return Duplicates(
        exact=content.outcomes().get(OutcomeStatus.DUPLICATE, 0),
        near_pairs=near.pairs,
        near_texts=near.texts,
        barred=_counts(content.barred(limit=_REASONS)),
    )


def _refused(content: ContentReader) -> Refused:
    totals, held = content.outcomes(), content.held()
    return Refused(
        quarantined=_reasons(content, OutcomeStatus.QUARANTINED, totals),
        claims=held.claims,
        confirmed=held.confirmed,
        rejected=_reasons(content, OutcomeStatus.REJECTED, totals),
        unmatched=totals.get(OutcomeStatus.UNMATCHED, 0),
    )


def _reasons(content: ContentReader, status: OutcomeStatus, totals: Mapping[OutcomeStatus, int]) -> tuple[Count, ...]:
    """Reasons that differ only in numbers are one; the rarest are together."""
    found: Counter[str] = Counter()
    for reason, count in content.reasons(status, limit=_REASONS).items():
        found[_NUMBER.sub("N", reason)] += count
    shown = dict(found.most_common(_SHOWN))
    if rest := totals.get(status, 0) - sum(shown.values()):
        shown["other reasons"] = rest
    return _counts(shown)


def _scripts(examples: Iterable[Example]) -> Scripts:
    found: Counter[str] = Counter()
    for example in examples:
        commonest = scripts_of(_whole(example.inputs)).most_common(1)
        found[commonest[0][0].capitalize() if commonest else "no letters"] += 1
    return Scripts(looked_at=found.total(), counts=_counts(found))


def _drift(settings: Settings, content: ContentReader, recent: list[Prediction]) -> tuple[Drift, ...]:
    task = get_task(settings.task)
    seed, since = content.labels_of(seed=True), content.labels_of(seed=False)
    answered = Counter(str(task.target_of(prediction.output)) for prediction in recent)
    lengths = _lengths(example.inputs for example in content.sample(limit=EMBEDDED, seed=True))
    later = _lengths(example.inputs for example in content.sample(limit=EMBEDDED, seed=False))
    asked = _lengths(prediction.inputs for prediction in recent)
    return (
        compare_labels(seed, since, of="examples since the seed"),
        compare_labels(seed, answered, of="recent predictions"),
        compare_lengths(lengths, later, of="examples since the seed"),
        compare_lengths(lengths, asked, of="recent predictions"),
    )


def _lengths(inputs: Iterable[Inputs]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([len(_whole(item)) for item in inputs], dtype=np.int64)


def _whole(inputs: Inputs) -> str:
    return " ".join(str(value) for value in inputs.values())


def _counts(found: Mapping[Any, int]) -> tuple[Count, ...]:
    """The largest first; those of one size by name."""
    order = sorted(found.items(), key=lambda item: (-item[1], str(item[0])))
    return tuple(Count(name=str(name), count=count) for name, count in order)
