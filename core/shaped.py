"""Calls of a session on a GPU: in few fixed shapes, each captured as a CUDA graph and replayed.

There a small model is done sooner than the hundreds of kernels of one call are launched. A CUDA graph launches them all at
once, but only for arrays of the same shape at the same place. So a batch is filled up to the next of a few shapes, written
into that shape's buffers and read from them; the first call in a shape captures its graph. Without graphs, and on the CPU,
filling up costs more than it saves (benchmarks/LOG.md). All calls are made in the thread of :mod:`core.gpu_thread`.

Sources: ONNX Runtime, "Using CUDA Graphs" and "I/O Binding" (CUDA execution provider and performance documentation).
"""

import weakref
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from core.gpu_thread import ALLOCATING, later_on_gpu_thread, on_gpu_thread

Array = NDArray[np.float32]
Ids = NDArray[np.int64]

ROWS: Final = (1, 2, 4, 8, 16, 32, 64)
WIDTHS: Final = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_MOST_TOKENS: Final = 4096
"""A larger call keeps the GPU busy longer than it takes to launch it."""
_GRAPH: Final = "gpu_graph_id"
_NO_GRAPH: Final = "-1"


@dataclass(frozen=True, slots=True)
class _Slot:
    """The buffers of one shape, bound to the session for good."""

    inputs: dict[str, Any]
    outputs: list[Any]
    binding: Any
    options: onnxruntime.RunOptions


_Key = tuple[tuple[str, ...], int, int]


class _Held:
    """A session and the buffers bound to it: whatever must be let go in one place."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session: Any = session
        self.slots: dict[_Key, _Slot | None] = {}  # None: that shape fails

    def release(self) -> None:
        self.slots.clear()
        self.session = None


class ShapedRuns:
    """Runs batches in fixed shapes. Thread-safe."""

    def __init__(self, session: onnxruntime.InferenceSession, *, pad: int, device: str) -> None:
        """Prepare; buffers are made when a shape comes first.

        Args:
            session: made with ``enable_cuda_graph``; nobody else may hold it.
            pad: token id that rows are filled up with.
            device: where the buffers are, ``cuda`` or ``cpu``.
        """
        self._held = _Held(session)
        self._pad = pad
        self._device = device
        weakref.finalize(self, later_on_gpu_thread, self._held.release)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The (rows, tokens) that are replayed."""
        return sorted({key[1:] for key, slot in self._held.slots.items() if slot is not None})

    def run(self, ids: Ids, mask: Ids, outputs: Sequence[str]) -> list[Array]:
        """The named outputs of a batch, each of shape (rows, …).

        Args:
            ids: token ids, shape (rows, width).
            mask: 1 for a token and 0 for padding, of the same shape.
            outputs: names of the graph's outputs, each of shape (rows, columns).
        """
        return on_gpu_thread(self._run, ids, mask, outputs)

    def run_plain(self, ids: Ids, mask: Ids, outputs: Sequence[str]) -> list[Array]:
        """The same without fixed shapes and without a graph."""
        return on_gpu_thread(self._run_plain, ids, mask, outputs)

    def _run(self, ids: Ids, mask: Ids, outputs: Sequence[str]) -> list[Array]:
        shape = shape_for(*ids.shape)
        if shape is None:
            return self._run_plain(ids, mask, outputs)
        key = (tuple(outputs), *shape)
        try:
            if key not in self._held.slots:
                return self._run_first(key, ids, mask)
            slot = self._held.slots[key]
            if slot is not None:
                return self._run_in(slot, ids, mask, shape)
        except Exception:  # ONNX Runtime raises its own kinds
            self._held.slots[key] = None
        return self._run_plain(ids, mask, outputs)

    def _run_first(self, key: _Key, ids: Ids, mask: Ids) -> list[Array]:
        """Make the buffers of a shape and, with the first call, its graph: but not while another session is being made."""
        if not ALLOCATING.acquire(blocking=False):
            return self._run_plain(ids, mask, key[0])
        try:
            # Its columns are known by a call without a graph, which also does what cannot be captured: allocating.
            sizes = [array.shape[1:] for array in self._run_plain(ids[:1], mask[:1], key[0])]
            slot = self._bind(key, sizes)
            found = self._run_in(slot, ids, mask, key[1:])
            self._held.slots[key] = slot
            return found
        finally:
            ALLOCATING.release()

    def _run_in(self, slot: _Slot, ids: Ids, mask: Ids, shape: tuple[int, int]) -> list[Array]:
        slot.inputs["input_ids"].update_inplace(_filled(ids, shape, self._pad, column=self._pad))
        # A row without any token would divide by zero.
        slot.inputs["attention_mask"].update_inplace(_filled(mask, shape, 0, column=1))
        self._held.session.run_with_iobinding(slot.binding, slot.options)
        return [np.array(value.numpy()[: len(ids)]) for value in slot.outputs]

    def _run_plain(self, ids: Ids, mask: Ids, outputs: Sequence[str]) -> list[Array]:
        options = onnxruntime.RunOptions()
        options.add_run_config_entry(_GRAPH, _NO_GRAPH)
        feed = {"input_ids": ids, "attention_mask": mask}
        arrays: list[Array] = self._held.session.run(list(outputs), feed, options)
        return arrays

    def _bind(self, key: _Key, sizes: Sequence[tuple[int, ...]]) -> _Slot:
        names, rows, width = key
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        binding = self._held.session.io_binding()
        inputs = {name: make([rows, width], np.int64, self._device) for name in ("input_ids", "attention_mask")}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        outputs = [make([rows, *size], np.float32, self._device) for size in sizes]
        for name, value in zip(names, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry(_GRAPH, str(len(self._held.slots) + 1))
        return _Slot(inputs, outputs, binding, options)


def fixed_shapes(most_tokens: int) -> list[tuple[int, int]]:
    """All fixed (rows, tokens) for texts of at most ``most_tokens`` tokens."""
    widths = WIDTHS[: bisect_left(WIDTHS, most_tokens) + 1]
    return [(rows, width) for width in widths for rows in ROWS if rows * width <= _MOST_TOKENS]


def shape_for(rows: int, width: int) -> tuple[int, int] | None:
    """The least of the fixed shapes that holds a batch; None for one that is large enough to be run as it is."""
    if rows > ROWS[-1] or width > WIDTHS[-1]:
        return None
    shape = ROWS[bisect_left(ROWS, rows)], WIDTHS[bisect_left(WIDTHS, width)]
    return shape if shape[0] * shape[1] <= _MOST_TOKENS else None


def _filled(array: Ids, shape: tuple[int, int], value: int, *, column: int) -> Ids:
    """The array in the upper left of a larger one; ``column`` stands first in the rows below it, ``value`` elsewhere."""
    filled = np.full(shape, value, dtype=np.int64)
    filled[len(array) :, 0] = column
    filled[: array.shape[0], : array.shape[1]] = array
    return filled
