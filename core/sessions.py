"""ONNX Runtime sessions as this project runs them, on the CPU or on a GPU."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

from core.shaped import ShapedRuns

INPUTS: Final = {"input_ids", "attention_mask"}
"""What every graph takes."""
_CUDA: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_CLOSE: Final = 1e-2  # half precision on a GPU is allowed to sum in another order


def open_session(
    model: Path, *, threads: int, device: str, gpu_memory_bytes: int = 0, pad: int = 0, capture: bool = False
) -> tuple[onnxruntime.InferenceSession, ShapedRuns | None]:
    """A session and, on a GPU, the way to call it there. Raises whatever ONNX Runtime raises.

    Args:
        model: the graph.
        threads: CPU threads that one call uses.
        device: ``cpu``, ``cuda``, or ``auto`` for the GPU where there is one.
        gpu_memory_bytes: what the session may allocate there; 0: no limit.
        pad: token id of padding.
        capture: True captures CUDA graphs. Off, because ONNX Runtime keeps them for each thread, and while one is captured
            no other thread of the process may allocate on the GPU: a swap beside lanes would.
    """
    if not wants_gpu(device):
        return _session(model, threads, [_CPU]), None
    onnxruntime.preload_dlls()
    session = _session(model, threads, [(_CUDA, gpu_options(gpu_memory_bytes, capture=capture)), _CPU])
    if not _takes_text(session) or session.get_providers()[0] != _CUDA:
        return session, None
    shaped = ShapedRuns(session, pad=pad, device="cuda", capture=capture)
    prove(session, shaped)
    return session, shaped


def wants_gpu(device: str) -> bool:
    """Whether a GPU is asked for and ONNX Runtime can use one; for ``auto``, whether there is one.

    ONNX Runtime names CUDA as available wherever its wheel is; asked for without a GPU, it prints errors.
    """
    has_gpu = any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg"))
    wanted = device == "cuda" or (device == "auto" and has_gpu)
    return wanted and _CUDA in onnxruntime.get_available_providers()


def gpu_options(memory_bytes: int, *, capture: bool) -> dict[str, str]:
    """Options of ONNX Runtime's CUDA provider. By default it takes twice what it needs, up to all there is."""
    options = {"arena_extend_strategy": "kSameAsRequested", "enable_cuda_graph": str(int(capture))}
    if memory_bytes:
        options["gpu_mem_limit"] = str(memory_bytes)
    return options


def prove(session: onnxruntime.InferenceSession, shaped: ShapedRuns) -> None:
    """Raise ArithmeticError unless a repeated call says what a plain one says: a capture that fails may do so silently."""
    outputs = [item.name for item in session.get_outputs()]
    for ids in (np.array([[2, 3, 4]]), np.array([[5, 6, 7]])):  # the first call captures, the second replays
        mask = np.ones_like(ids)
        wanted = shaped.run_plain(ids, mask, outputs)
        for name, found, right in zip(outputs, shaped.run(ids, mask, outputs), wanted, strict=True):
            if not np.allclose(found, right, rtol=_CLOSE, atol=_CLOSE):
                raise ArithmeticError(f"a replayed call gives another {name} than a plain one")


def _takes_text(session: onnxruntime.InferenceSession) -> bool:
    """False for a graph that no text can be given to; whoever asked for it says what is wrong with it."""
    return {item.name for item in session.get_inputs()} == INPUTS


def _session(model: Path, threads: int, providers: list[Any]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning thread burns a core that another lane, the event loop or training could use.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(model), sess_options=options, providers=providers)
