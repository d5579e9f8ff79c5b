"""What only the live model can tell: suspect labels, coverage, and whether the texts' meaning has moved."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cli.data_report import coverage
from cli.data_report.drift import compare_meanings
from cli.data_report.record import Coverage, Drift, Far, Suspect, Suspects
from cli.data_report.suspects import FEWEST, find_suspects
from core.errors import BundleError, RegistryUnavailable
from core.events import Example, Inputs, Origin, Prediction
from core.registry import Registry
from core.runtime import Servable, files_to_load
from core.settings import Settings

SHOWN: Final = 10
_CUT: Final = 300


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What the model is asked about: labelled examples, and the newest predictions."""

    labelled: Sequence[Example]
    recent: Sequence[Prediction]
    #: examples that train by label, of all that there are
    training: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The model's part of the report."""

    version: str | None
    suspects: Suspects
    coverage: Coverage
    drift: tuple[Drift, ...]


def look(settings: Settings, texts: Texts) -> Seen:
    """Embed the texts with the live model, on one thread of the CPU; without a model, say that there is none.

    The bundle is fetched into a temporary folder: a question leaves no trace, and takes no file from a program's cache.
    """
    if not settings.registry_url and not (settings.home / "registry").exists():
        return unseen("there is no live model yet")
    try:
        registry = Registry(settings.registry_store_url, settings.model)
        champion = registry.promotions.refresh()
        if champion is None:
            return unseen("there is no live model yet")
        with tempfile.TemporaryDirectory() as folder:
            names = files_to_load(registry.manifest(champion.version), device="cpu")
            bundle = registry.fetch(champion.version, Path(folder), names=names)
            servable = Servable.load(bundle, device="cpu")
            labelled = _embed(servable, [example.inputs for example in texts.labelled])
            recent = _embed(servable, [prediction.inputs for prediction in texts.recent])
    except (BundleError, RegistryUnavailable) as error:
        return unseen(f"the live model cannot be used: {error}")
    return Seen(
        version=servable.version,
        suspects=_suspects(servable, texts, labelled),
        coverage=_coverage(servable, texts, labelled, recent),
        drift=_drift(texts, labelled, recent),
    )


def unseen(why: str) -> Seen:
    """What is left without a model."""
    return Seen(version=None, suspects=Suspects(missing=why), coverage=Coverage(missing=why), drift=())


def _embed(servable: Servable, inputs: Sequence[Inputs]) -> NDArray[np.float32]:
    return servable.infer(inputs)[1]


def text_of(inputs: Inputs) -> str:
    """A text for people, cut where it is long."""
    text = " / ".join(str(value) for value in inputs.values())
    return text if len(text) <= _CUT else f"{text[: _CUT - 1]}…"


def _suspects(servable: Servable, texts: Texts, labelled: NDArray[np.float32]) -> Suspects:
    found = find_suspects(labelled, [str(example.target) for example in texts.labelled])
    if not found.examined:
        return Suspects(
            missing=f"too few: it takes two labels with {FEWEST} examples each", passed_over=found.passed_over
        )
    most = []
    for doubted in found.rows[:SHOWN]:
        example = texts.labelled[doubted.row]
        most.append(
            Suspect(
                example_id=example.example_id,
                text=text_of(example.inputs),
                label=str(example.target),
                likely=doubted.likely,
                margin=doubted.margin,
            )
        )
    return Suspects(
        missing="", examined=found.examined, passed_over=found.passed_over, suspects=len(found.rows), most=tuple(most)
    )


def _coverage(servable: Servable, texts: Texts, labelled: NDArray[np.float32], recent: NDArray[np.float32]) -> Coverage:
    known = servable.manifest.labels
    without = tuple(label for label in known if not texts.training.get(label))
    not_known = tuple(sorted(set(texts.training) - set(known)))
    if min(len(labelled), len(recent)) < coverage.FEWEST:
        missing = f"too few: it takes {coverage.FEWEST} labelled examples and as many predictions"
        return Coverage(missing=missing, without_examples=without, not_known=not_known, predictions=len(recent))
    reached = coverage.reach(labelled, recent)
    farthest: dict[str, Far] = {}
    for row in np.argsort(reached.likeness, kind="stable"):
        if reached.likeness[row] >= reached.threshold or len(farthest) == SHOWN:
            break
        text = text_of(texts.recent[row].inputs)
        farthest.setdefault(text, Far(text=text, likeness=round(float(reached.likeness[row]), 4)))
    return Coverage(
        missing="",
        without_examples=without,
        not_known=not_known,
        predictions=len(recent),
        threshold=round(reached.threshold, 4),
        far_share=round(reached.far_share, 4),
        expected=coverage.EXPECTED,
        farthest=tuple(farthest.values()),
    )


def _drift(texts: Texts, labelled: NDArray[np.float32], recent: NDArray[np.float32]) -> tuple[Drift, ...]:
    of_seed = np.array([example.origin == Origin.SEED for example in texts.labelled], dtype=bool)
    return (
        compare_meanings(labelled[of_seed], labelled[~of_seed], of="examples since the seed"),
        compare_meanings(labelled[of_seed], recent, of="recent predictions"),
    )
