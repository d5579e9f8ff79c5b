"""Calls of a session in few fixed shapes, with inputs and outputs in buffers that stay where they are: for a GPU.

There a small model is done sooner than the hundreds of kernels of one call are launched. A CUDA graph launches them all at
once, but only for arrays of the same shape at the same place. So a batch is filled up to the next of a few shapes, written
into that shape's buffers and read from them; where graphs are captured, the first call in a shape does it. On the CPU
filling up costs more than it saves, so there the session is called as it is.

Sources: ONNX Runtime, "Using CUDA Graphs" and "I/O Binding" (CUDA execution provider and performance documentation).
"""

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

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


class ShapedRuns:
    """Runs batches in fixed shapes. Thread-safe, one call at a time: a captured graph has one set of buffers."""

    def __init__(self, session: onnxruntime.InferenceSession, *, pad: int, device: str, capture: bool) -> None:
        """Prepare; buffers are made when a shape comes first.

        Args:
            session: made with ``enable_cuda_graph`` where ``capture`` is True.
            pad: token id that rows are filled up with.
            device: where the buffers are, ``cuda`` or ``cpu``.
            capture: True captures a CUDA graph for each shape.
        """
        self._session = session
        self._pad = pad
        self._device = device
        self._capture = capture
        self._slots: dict[_Key, _Slot | None] = {}  # None: that shape fails
        self._lock = threading.Lock()

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The (rows, tokens) that have buffers."""
        return sorted({(rows, width) for _, rows, width in self._slots})

    def run(self, ids: Ids, mask: Ids, outputs: Sequence[str]) -> list[Array]:
        """The named outputs of a batch, each of shape (rows, …).

        Args:
            ids: token ids, shape (rows, width).
            mask: 1 for a token and 0 for padding, of the same shape.
            outputs: names of the graph's outputs, each of shape (rows, columns).
        """
        shape = shape_for(*ids.shape)
        with self._lock:  # where graphs are captured, ONNX Runtime allows one call at a time, of whatever kind
            if shape is None:
                return self.run_plain(ids, mask, outputs)
            key = (tuple(outputs), *shape)
            if key not in self._slots:
                # Its columns are known by a call without a graph, which also does what cannot be captured: allocating.
                sizes = [array.shape[1:] for array in self.run_plain(ids[:1], mask[:1], outputs)]
                self._slots[key] = self._bind(key, sizes)
            slot = self._slots[key]
            if slot is None:
                return self.run_plain(ids, mask, outputs)
            try:
                return self._run_in(slot, ids, mask, shape)
            except Exception:  # ONNX Runtime raises its own kinds
                self._slots[key] = None
                return self.run_plain(ids, mask, outputs)

    def _run_in(self, slot: _Slot, ids: Ids, mask: Ids, shape: tuple[int, int]) -> list[Array]:
        slot.inputs["input_ids"].update_inplace(_filled(ids, shape, self._pad, column=self._pad))
        # A row without any token would divide by zero.
        slot.inputs["attention_mask"].update_inplace(_filled(mask, shape, 0, column=1))
        self._session.run_with_iobinding(slot.binding, slot.options)
        return [np.array(value.numpy()[: len(ids)]) for value in slot.outputs]

    def run_plain(self, ids: Ids, mask: Ids, outputs: Sequence[str]) -> list[Array]:
        """The same without fixed shapes and without a graph."""
        options = onnxruntime.RunOptions()
        if self._capture:
            options.add_run_config_entry(_GRAPH, _NO_GRAPH)
        arrays: list[Array] = self._session.run(outputs, {"input_ids": ids, "attention_mask": mask}, options)
        return arrays

    def _bind(self, key: _Key, sizes: Sequence[tuple[int, ...]]) -> _Slot:
        names, rows, width = key
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        binding = self._session.io_binding()
        inputs = {name: make([rows, width], np.int64, self._device) for name in ("input_ids", "attention_mask")}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        outputs = [make([rows, *size], np.float32, self._device) for size in sizes]
        for name, value in zip(names, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        options = onnxruntime.RunOptions()
        if self._capture:
            options.add_run_config_entry(_GRAPH, str(len(self._slots) + 1))
        return _Slot(inputs, outputs, binding, options)


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
