"""A version on its way from the registry to a servable that is warm: fetched, verified, loaded, tried."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from core.bundle import Manifest
from core.errors import BadSettings, RegistryUnavailable, UnservableBundle
from core.registry import Registry
from core.runtime import Encoded, Servable, files_to_load
from service.metrics import SWAP_SECONDS

#: (texts, tokens) of the calls that warm up: ONNX Runtime plans its memory anew for each shape it has not seen
_SHAPES: Final = ((1, 8), (1, 32), (8, 16), (16, 32), (1, 8192))


@contextmanager
def timed(phase: str) -> Iterator[None]:
    """Measure a phase of a swap."""
    started = time.perf_counter()
    yield
    SWAP_SECONDS.labels(phase=phase).observe(time.perf_counter() - started)


class Loader:
    """Loads versions of one model and one task."""

    def __init__(self, registry: Registry, cache: Path, *, model: str, task: str, device: str = "auto") -> None:
        self._registry = registry
        self._model = model
        self._task = task
        self._device = device
        self.cache = cache

    def load(self, version: str, *, sharing: Sequence[Servable] = ()) -> Servable:
        """A warm servable. One at hand with the same graph lends its session: then only the head is fetched and loaded.

        Raises:
            UnknownVersion: no such version.
            BundleError: it must not be served.
            RegistryUnavailable: the registry or the cache cannot be reached; the version may be fine.
        """
        with timed("fetch"):
            try:
                manifest = self._registry.manifest(version)
                names = files_to_load(manifest, device=self._device, sharing=sharing)
                bundle = self._registry.fetch(version, self.cache, names=names)
            except OSError as error:
                raise RegistryUnavailable(f"{version} cannot be kept below {self.cache}: {error}") from error
        self._check(bundle.manifest)
        with timed("load"):
            try:
                servable = Servable.load(bundle, device=self._device, sharing=sharing)
            except BadSettings as error:  # its manifest names something that this program does not know
                raise UnservableBundle(f"{version}: {error}") from error
        if not any(servable.shares_session_with(other) for other in sharing):
            with timed("warmup"):
                _warm_up(servable)
        return servable

    def _check(self, manifest: Manifest) -> None:
        if manifest.task != self._task:
            raise UnservableBundle(f"{manifest.version} is for the task {manifest.task!r}, this is {self._task!r}")
        if manifest.model != self._model:
            raise UnservableBundle(f"{manifest.version} is of the model {manifest.model!r}, this is {self._model!r}")


def _warm_up(servable: Servable) -> None:
    """Call the model in the shapes that requests will have. Raises UnservableBundle where it fails in one of them."""
    known = servable.tokenize([dict.fromkeys(servable.task.input_fields, "ratchet")])[0].ids
    for texts, tokens in _SHAPES:
        ids = np.resize(known, min(tokens, servable.manifest.max_tokens))
        try:
            logits, _ = servable.run([Encoded(ids, False)] * texts)
        except Exception as error:  # ONNX Runtime raises its own kinds
            raise UnservableBundle(f"{servable.version} fails on {texts} x {len(ids)} tokens: {error}"[:500]) from error
        if not np.isfinite(logits).all():
            raise UnservableBundle(
                f"{servable.version} gives values that are not finite on {texts} x {len(ids)} tokens"
            )
