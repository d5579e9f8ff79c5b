"""The one thread of a process that captures CUDA graphs, replays them and frees them.

ONNX Runtime keeps captured graphs for each calling thread, so that whoever warms a model up must also be who answers with
it. And while CUDA captures, no other thread of the process may allocate or free GPU memory, or the capture is lost: so all
calls of captured sessions come here, and what else allocates holds ``ALLOCATING``.

Sources: ONNX Runtime, "Using CUDA Graphs"; CUDA C++ Programming Guide, "Stream Capture", prohibited and unhandled operations.
"""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

ALLOCATING: Final = threading.Lock()
"""Held while a session is made, and while a graph is captured."""
_thread: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gpu")


def on_gpu_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call in that thread; returns or raises what the call does. Never from that thread itself, which would wait for ever."""
    return _thread.submit(call, *args, **kwargs).result()


def later_on_gpu_thread(call: Callable[[], object]) -> None:
    """Call in that thread some time; when the program ends nothing more is called."""
    with contextlib.suppress(RuntimeError):
        _thread.submit(call)
