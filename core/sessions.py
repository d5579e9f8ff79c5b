"""ONNX Runtime sessions as this project opens and calls them, on the CPU or on a GPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import onnxruntime

from core.gpu_thread import ALLOCATING
from core.logs import get_logger
from core.shaped import Array, Ids, ShapedRuns

INPUTS: Final = {"input_ids", "attention_mask"}
"""What every graph takes."""
_CUDA: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_CLOSE: Final = 1e-2  # half precision on a GPU is allowed to sum in another order


class Runs(Protocol):
    """A session, as it is called. Thread-safe."""

    def run(self, ids: Ids, mask: Ids, outputs: Sequence[str]) -> list[Array]:
        """The named outputs of one padded batch; ``ids`` and ``mask`` of shape (rows, width)."""
        ...


class PlainRuns:
    """Calls a session as it is."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    def run(self, ids: Ids, mask: Ids, outputs: Sequence[str]) -> list[Array]:
        """The named outputs of one padded batch; ``ids`` and ``mask`` of shape (rows, width)."""
        arrays: list[Array] = self._session.run(outputs, {"input_ids": ids, "attention_mask": mask})
        return arrays


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A session that is ready, and what ONNX Runtime says of it."""

    runs: Runs
    #: where it really runs: ONNX Runtime falls back to the CPU without a word
    provider: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    #: True where calls are replayed as CUDA graphs
    captured: bool = False


def open_session(model: Path, *, threads: int, device: str, gpu_memory_bytes: int = 0, pad: int = 0) -> Opened:
    """Open a graph. On a GPU its calls are captured as CUDA graphs, where two calls prove that this works.

    Raises whatever ONNX Runtime raises.

    Args:
        model: the graph.
        threads: CPU threads that one call uses.
        device: ``cpu``, ``cuda``, or ``auto`` for the GPU where there is one.
        gpu_memory_bytes: what the session may allocate there; 0: no limit.
        pad: token id of padding.
    """
    if not wants_gpu(device):
        return _opened(_session(model, threads, [_CPU]))
    onnxruntime.preload_dlls()
    try:
        return _open_captured(model, threads, gpu_memory_bytes, pad)
    except (
        Exception
    ) as error:  # ONNX Runtime raises its own kinds; what is wrong with the model is wrong without graphs, too
        get_logger().warning("no CUDA graphs for this model", reason=str(error)[:300])
        return _opened(_gpu_session(model, threads, gpu_memory_bytes, capture=False))


def wants_gpu(device: str) -> bool:
    """Whether a GPU is asked for and ONNX Runtime can use one; for ``auto``, whether there is one.

    ONNX Runtime names CUDA as available wherever its wheel is; asked for without a GPU, it prints errors.
    """
    has_gpu = any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg"))
    wanted = device == "cuda" or (device == "auto" and has_gpu)
    return wanted and _CUDA in onnxruntime.get_available_providers()


def gpu_options(memory_bytes: int, *, capture: bool) -> dict[str, str]:
    """Options of ONNX Runtime's CUDA provider.

    By default it takes twice the memory that it needs, up to all there is, and multiplies fp32 with the 10 bits of TF32: then
    an exported graph says something else than the network (1.6e-3 on a toy), and the gate's parity check refuses it.
    """
    options = {
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": str(int(capture)),
        "use_tf32": "0",
    }
    if memory_bytes:
        options["gpu_mem_limit"] = str(memory_bytes)
    return options


def prove(shaped: ShapedRuns, outputs: Sequence[str]) -> None:
    """Raise ArithmeticError unless a repeated call says what a plain one says: a capture that fails may do so silently."""
    for ids in (np.array([[2, 3, 4]]), np.array([[5, 6, 7]])):  # the first call captures, the second replays
        mask = np.ones_like(ids)
        wanted = shaped.run_plain(ids, mask, outputs)
        for name, found, right in zip(outputs, shaped.run(ids, mask, outputs), wanted, strict=True):
            if not np.allclose(found, right, rtol=_CLOSE, atol=_CLOSE):
                raise ArithmeticError(f"a replayed call gives another {name} than a plain one")
    if not shaped.shapes:
        raise ArithmeticError("no call could be captured")


def _open_captured(model: Path, threads: int, memory_bytes: int, pad: int) -> Opened:
    session = _gpu_session(model, threads, memory_bytes, capture=True)
    plain = _opened(session)
    if set(plain.inputs) != INPUTS or plain.provider != _CUDA:
        return plain  # whoever asked for it says what is wrong with it
    shaped = ShapedRuns(session, pad=pad, device="cuda")
    prove(shaped, plain.outputs)
    return Opened(runs=shaped, provider=plain.provider, inputs=plain.inputs, outputs=plain.outputs, captured=True)


def _gpu_session(model: Path, threads: int, memory_bytes: int, *, capture: bool) -> onnxruntime.InferenceSession:
    with ALLOCATING:
        return _session(model, threads, [(_CUDA, gpu_options(memory_bytes, capture=capture)), _CPU])


def _opened(session: onnxruntime.InferenceSession) -> Opened:
    return Opened(
        runs=PlainRuns(session),
        provider=str(session.get_providers()[0]),
        inputs=tuple(item.name for item in session.get_inputs()),
        outputs=tuple(item.name for item in session.get_outputs()),
    )


def _session(model: Path, threads: int, providers: list[Any]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning thread burns a core that another lane, the event loop or training could use.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(model), sess_options=options, providers=providers)
