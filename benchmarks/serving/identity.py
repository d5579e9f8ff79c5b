"""Which version gave an answer: its scores beside what each version gives offline to the same text.

int8 with dynamic scales makes an answer depend on the texts that share its batch, most where the model is unsure. So the texts
are those on which any two versions differ most clearly and batches matter least; then what batches do is measured on
them anew, in other company. Half as much again must be at most a third of what any two versions differ by on any of the
texts, else the check would prove nothing; that third is the tolerance. Distances are differences of square roots of
probabilities, so that unlikely labels, which the noise moves most, do not count most.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from core.bundle import ModelBundle
from core.runtime import Servable
from core.tasks.text_classification import TOP

Array = NDArray[np.float64]
_BATCHES: Final = (1, 4, 16, 16, 32)
_FLOOR: Final = 0.002  # what rounding to six digits does to the root of a small probability, and a little more
_APART: Final = 0.7
_MARGIN: Final = 1.5
_FAR: Final = 3.0


class CannotTell(Exception):
    """Versions are too alike to tell whose an answer is."""


@dataclass(frozen=True, kw_only=True)
class Offline:
    """What every version says of every text that was chosen."""

    texts: list[str]
    labels: dict[str, int]
    #: by version: roots of probabilities, shape (texts, labels)
    expected: dict[str, Array]
    tolerance: float
    #: the least distance between two versions' answers to one text
    separation: float

    def distance(self, version: str, text: int, answer: Mapping[str, Any]) -> float:
        """How far an answer's scores are from those of a version: the largest difference of a root."""
        expected = self.expected[version][text]
        return max(
            abs(math.sqrt(item["score"]) - float(expected[self.labels[item["label"]]])) for item in answer["top"]
        )

    def judge(self, text: int, answer: Mapping[str, Any]) -> str:
        """An empty string, or what is wrong with an answer."""
        version = answer.get("model_version", "")
        if version not in self.expected:
            return f"names the version {version!r}"
        own = self.distance(version, text, answer)
        if own > self.tolerance:
            nearest = min(self.expected, key=lambda other: self.distance(other, text, answer))
            return f"{own:.3f} from what {version} says offline, nearest is {nearest}"
        return ""


def learn(bundles: Sequence[ModelBundle], texts: Sequence[str], *, count: int, seed: int = 0) -> Offline:
    """Ask every version offline, in several batches each, and choose ``count`` texts that tell them apart.

    Raises:
        CannotTell: there are not so many.
    """
    rng = np.random.default_rng(seed)
    servables = {bundle.manifest.version: Servable.load(bundle) for bundle in bundles}
    inputs = [{"text": text} for text in texts]
    first = {version: _roots(servable, inputs, rng) for version, servable in servables.items()}
    expected = {version: found.mean(axis=0) for version, found in first.items()}
    noise = np.max([_noise(found, expected[version]) for version, found in first.items()], axis=0)
    separation = _separation(list(expected.values()))
    clear = np.flatnonzero(separation >= _APART)
    chosen = clear[np.argsort(noise[clear], kind="stable")][:count]
    expected = {version: roots[chosen] for version, roots in expected.items()}
    inputs = [inputs[row] for row in chosen]
    # What they were chosen for is no measure of them: a second look, at other batches.
    again = (
        max(
            (
                float(_noise(_roots(servable, inputs, rng), expected[version]).max())
                for version, servable in servables.items()
            ),
            default=0.0,
        )
        if len(chosen)
        else np.inf
    )
    least = float(separation[chosen].min(initial=np.inf))
    if len(chosen) < count or _MARGIN * max(again, _FLOOR) * _FAR > least:
        raise CannotTell(
            f"{len(chosen)} of {count} texts tell the versions apart; batches move their answers by {again:.3f}, versions by "
            f"{least:.3f} or more: ask for fewer texts"
        )
    labels = {label: row for row, label in enumerate(bundles[0].manifest.labels)}
    kept = [texts[row] for row in chosen]
    # In a long run some batch is stranger than all of these: what is still a third of the way to another version is its own.
    return Offline(texts=kept, labels=labels, expected=expected, tolerance=least / _FAR, separation=least)


def _noise(found: Array, expected: Array) -> Array:
    """For each text, how far its answers are from what is expected, over labels and compositions."""
    most: Array = np.abs(found - expected).max(axis=(0, 2))
    return most


def _roots(servable: Servable, inputs: Sequence[dict[str, Any]], rng: np.random.Generator) -> Array:
    """Roots of the probabilities, shape (compositions, texts, labels), each time in other company."""
    encoded = servable.tokenize(inputs)
    found = np.empty((len(_BATCHES), len(inputs), len(servable.manifest.labels)))
    for index, size in enumerate(_BATCHES):
        order = rng.permutation(len(inputs))
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            logits = servable.run([encoded[row] for row in batch])[0].astype(np.float64)
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            found[index, batch] = np.sqrt(weights / weights.sum(axis=1, keepdims=True))
    return found


def _separation(versions: Sequence[Array]) -> Array:
    """For each text, the least distance between two versions' answers, as :meth:`Offline.distance` takes it."""
    least = np.full(len(versions[0]), np.inf)
    for one in versions:
        best = np.argsort(-one, axis=1)[:, :TOP]
        shown = np.take_along_axis(one, best, axis=1)
        for other in versions:
            if other is not one:
                apart = np.abs(shown - np.take_along_axis(other, best, axis=1)).max(axis=1)
                least = np.minimum(least, apart)
    return least
