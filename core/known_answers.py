"""Known answers: what a version said to fixed texts when it was exported, and whether it says the same here.

A version carries in its manifest the logits that its exporter saw. Whoever loads it asks the same texts again. So permuted
labels, another tokenizer of the same size, or another model's weights are noticed although every digest is right.

How much difference is allowed. A label's *movement* is the standard deviation of its logit over the texts (the median
label's at least): the bias, which no text moves, does not count. Measured with MiniLM-L6 and 24 labels of banking77,
differences in movements (root mean square over the texts of one label, worst label; docs/decisions/0009-trial-load.md):

    fp32, another batch                            0.000
    int8, another batch (dynamic scales change)    0.26
    int8 against fp32                              0.25
    int8 against int8 of half the range            0.26    as near as this machine comes to a CPU with other int8 kernels
    int8 per channel against int8 per tensor       0.44    another graph, which should be noticed
    the two most similar labels exchanged          0.55

So 0.4 is allowed, for each label and for each text. Labels more alike than that are caught by a second rule: a label's
answers may not be those of another label, twice as exactly.
"""

import json
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.bundle import MANIFEST, ModelBundle, Probe

TEXTS: Final = (
    "where is my parcel",
    "I was charged twice for the same order, and nobody answers my mails.",
    "How do I change the address of my account?",
    "Thank you, that solved it!",
    "My card is lost; the app crashes with error 503 on my new phone.",
    "Please cancel my subscription at the end of this month.",
    "我想取消昨天的订单 什么时候能退款",
    "Last week I ordered three books, and only two of them have come. " * 20,
)
"""Made up, never a user's: short ones, one in Chinese, one longer than most models read."""

_ALLOWED: Final = 0.4
_EXACT: Final = 0.1  # below this a label is itself, whoever else it is like
_VALUES: Final = 8_000  # logits that a manifest may carry; a model of very many labels answers fewer texts
_FLOOR: Final = 1e-3  # of a movement: a model that answers everything alike still has rounding

Ask = Callable[[str], NDArray[np.float32]]
"""Logits of shape (labels,) of one text, asked alone: int8 scales depend on what shares a batch."""


def add_known_answers(bundle: ModelBundle, ask: Ask) -> ModelBundle:
    """Write what the exported artefact answers into the manifest of a bundle that is not published yet."""
    labels = bundle.manifest.labels
    texts = TEXTS[: max(2, _VALUES // len(labels))]
    probes = [
        Probe(text=text, logits={label: round(float(value), 4) for label, value in zip(labels, ask(text), strict=True)})
        for text in texts
    ]
    manifest = bundle.manifest.model_copy(update={"probes": probes})
    (bundle.directory / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    return ModelBundle(directory=bundle.directory, manifest=manifest)


def difference(probes: Sequence[Probe], labels: Sequence[str], ask: Ask) -> str | None:
    """How the answers differ from the known ones, in a sentence; None where they do not, or where none are known.

    Args:
        probes: of the manifest.
        labels: the manifest's, in the order of the logits.
        ask: the model as it was loaded here.
    """
    if not probes:
        return None
    for probe in probes:
        if probe.logits.keys() != set(labels):
            return f"its known answers are for other labels: {_some(probe.logits.keys() ^ set(labels))}"
    expected = np.array([[probe.logits[label] for label in labels] for probe in probes])
    found = np.array([ask(probe.text) for probe in probes], dtype=np.float64)
    if not np.isfinite(found).all():
        row = int(np.argmin(np.isfinite(found).all(axis=1)))
        return f"values that are not finite are its answer to {_short(probes[row].text)}"
    moves = expected.std(axis=0)
    scale = np.maximum(np.maximum(moves, np.median(moves)), _FLOOR)
    return _exchanged(expected / scale, found / scale, scale, labels) or _off(expected, found, scale, probes, labels)


def rehearse() -> None:
    """Compare made-up answers: numpy imports much of itself when a median is first asked for."""
    probes = [Probe(text=str(row), logits={"a": float(row), "b": 1.0 - row}) for row in range(2)]
    difference(probes, ["a", "b"], lambda text: np.array([0.5 - int(text), 0.3], dtype=np.float32))


def _exchanged(
    expected: NDArray[np.float64], found: NDArray[np.float64], scale: NDArray[np.float64], labels: Sequence[str]
) -> str | None:
    """Whether some label answers as another one should; both arrays of shape (texts, labels), in movements."""
    own = _rms(found - expected, axis=0)
    first = ""
    for column in np.flatnonzero(own > _EXACT).tolist():
        others = _rms(found[:, column, None] - expected * (scale / scale[column]), axis=0)
        like = int(np.argmin(others))
        if others[like] <= _ALLOWED and 2 * others[like] < own[column]:
            first = first or (
                f"it answers for the label {labels[column]!r} what was known of {labels[like]!r}: "
                f"the labels are exchanged ({own[column]:.2f} movements off, against {others[like]:.2f})"
            )
        elif own[column] > _ALLOWED:  # like no label at all: it is another model
            return None
    return first or None


def _off(
    expected: NDArray[np.float64],
    found: NDArray[np.float64],
    scale: NDArray[np.float64],
    probes: Sequence[Probe],
    labels: Sequence[str],
) -> str | None:
    """Whether some label or some text is further off than is allowed."""
    off = (found - expected) / scale
    by_label, by_text = _rms(off, axis=0), _rms(off, axis=1)
    if max(by_label.max(), by_text.max()) <= _ALLOWED:
        return None
    row, column = divmod(int(np.abs(off).argmax()), len(labels))
    return (
        f"its answers are not the known ones: {labels[column]!r} gets {found[row, column]:.4g} for "
        f"{_short(probes[row].text)}, the exporter saw {expected[row, column]:.4g} "
        f"(off by {max(by_label.max(), by_text.max()):.2f} movements, {_ALLOWED} are allowed)"
    )


def _rms(values: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
    root: NDArray[np.float64] = np.sqrt(np.square(values).mean(axis=axis))
    return root


def _short(text: str) -> str:
    return json.dumps(text if len(text) <= 40 else text[:40] + "…", ensure_ascii=False)


def _some(labels: set[str]) -> str:
    return ", ".join(repr(label) for label in sorted(labels)[:3])
