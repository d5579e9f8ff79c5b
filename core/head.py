"""The linear head on an embedding, in numpy: a version that changes only its head needs no other graph."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from core.errors import UnservableBundle

_ONE_THREAD: Final = 4 * 65_536
"""Multiplications (rows x labels x size) up to which OpenBLAS stays in its caller's thread (GEMM_MULTITHREAD_THRESHOLD)."""


@dataclass(frozen=True, eq=False, slots=True)
class LinearHead:
    """``embedding @ weight.T + bias``; ``weight`` of shape (labels, size), ``bias`` of shape (labels,)."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def logits(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shape (texts, labels) from embeddings of shape (texts, size)."""
        labels, size = self.weight.shape
        out = np.empty((len(embeddings), labels), dtype=np.float32)
        # A larger product would wake BLAS threads, which spin on the cores that the lanes need: 2 ms instead of 0.2.
        step = max(1, _ONE_THREAD // max(1, labels * size))
        for start in range(0, len(embeddings), step):
            rows = slice(start, start + step)
            np.matmul(embeddings[rows], self.weight.T, out=out[rows])
        out += self.bias
        return out

    def save(self, path: Path) -> None:
        """Write it as safetensors."""
        save_file({"weight": np.ascontiguousarray(self.weight), "bias": np.ascontiguousarray(self.bias)}, path)

    @classmethod
    def load(cls, path: Path, *, labels: int, size: int) -> Self:
        """Read a head that must have so many labels, on embeddings of that size.

        Raises:
            UnservableBundle: the file is no such head, or has values that are not finite.
        """
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise UnservableBundle(f"{path.name} cannot be read: {error}") from error
        shapes = {name: (*tensor.shape, str(tensor.dtype)) for name, tensor in tensors.items()}
        wanted = {"weight": (labels, size, "float32"), "bias": (labels, "float32")}
        if shapes != wanted:
            raise UnservableBundle(f"{path.name} holds {shapes}, the manifest means {wanted}")
        if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            raise UnservableBundle(f"{path.name} has values that are not finite")
        return cls(weight=tensors["weight"], bias=tensors["bias"])
