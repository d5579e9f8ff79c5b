"""The live model as the feedback program uses it: to score and to doubt new feedback."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.bundle import MODEL
from core.cores import usable_cores
from core.errors import BundleError, Conflict, RegistryUnavailable
from core.events import Inputs
from core.logs import get_logger
from core.registry import Registry, forget_cached
from core.runtime import Servable, files_to_load
from feedback import metrics

_REFRESH_S: Final = 2.0
_MAX_THREADS: Final = 4


class LiveModel:
    """Follows the registry. A version that cannot be fetched or loaded leaves the one before in use."""

    def __init__(self, registry: Registry, cache: Path, *, device: str) -> None:
        self._registry = registry
        self._cache = cache
        self._device = device
        #: texts come in batches, and to embed them is most of a consumer's work
        self._threads = min(usable_cores(), _MAX_THREADS)
        self._servable: Servable | None = None
        self._tried = ""
        self._next = 0.0

    @property
    def labels(self) -> list[str]:
        """The labels that the live model knows; none before the first model."""
        return self._servable.manifest.labels if self._servable else []

    @property
    def version(self) -> str | None:
        """The live version's name."""
        return self._servable.version if self._servable else None

    def refresh(self) -> None:
        """Look for a newer champion, at most every other second; a fault is logged and tried again."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _REFRESH_S
        try:
            champion = self._registry.promotions.refresh()
            if champion is None or champion.version == self._tried:
                return
            sharing = [self._servable] if self._servable else []
            manifest = self._registry.manifest(champion.version)
            names = files_to_load(manifest, threads=self._threads, device=self._device, sharing=sharing)
            bundle = self._registry.fetch(champion.version, self._cache, names=names)
            self._servable = Servable.load(bundle, threads=self._threads, device=self._device, sharing=sharing)
            self._tried = champion.version
            metrics.LIVE_VERSION.clear()
            metrics.LIVE_VERSION.labels(version=champion.version).set(1)
            forget_cached(self._cache, keep=[champion.version])
        except (BundleError, Conflict) as error:
            self._tried = champion.version if champion else ""
            get_logger().warning("live model not loaded", version=self._tried, reason=str(error))
        except RegistryUnavailable as error:
            get_logger().warning("registry out of reach", reason=str(error))

    @property
    def trained_on(self) -> int:
        """How many examples the live head was fitted on."""
        return self._servable.manifest.training_set.count if self._servable else 0

    @property
    def graph(self) -> str | None:
        """The digest of the live graph; vectors of different graphs are never compared."""
        return self._servable.manifest.files[MODEL].sha256 if self._servable else None

    def probabilities(self, inputs: Sequence[Inputs]) -> NDArray[np.float64] | None:
        """Shape (inputs, labels); None before the first model."""
        return self.infer(inputs)[0] if self._servable is not None and inputs else None

    def infer(self, inputs: Sequence[Inputs]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Probabilities of shape (inputs, labels) and embeddings of shape (inputs, size).

        Raises:
            ValueError: there is no model yet.
        """
        if self._servable is None:
            raise ValueError("there is no live model yet")
        logits, embeddings = self._servable.infer(inputs)
        return _softmax(logits), embeddings

    def probabilities_of(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """What the live head makes of the live graph's embeddings; None where the graph has no head apart from it."""
        if self._servable is None or self._servable.head is None:
            return None
        return _softmax(self._servable.head.logits(embeddings))


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities
