"""The calls that warm a servable up, and how long one text takes it: alike in the trial and in the service."""

import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from core.errors import UnservableBundle
from core.runtime import Encoded, Servable
from core.shaped import fixed_shapes

#: (texts, tokens) of the calls that warm up: what a session does once, it does in the first of them
SHAPES: Final = ((1, 16), (8, 16))
#: those that show whether it can do all that is asked of it: some texts, and the longest
TRIAL_SHAPES: Final = ((4, 16), (1, 8192))
_TIMED_TOKENS: Final = 32
_TIMED_RUNS: Final = 3


def warm_up(servable: Servable, shapes: Sequence[tuple[int, int]] = ()) -> None:
    """Call the model in the (texts, tokens) that requests will have. Raises UnservableBundle where it fails in one of them.

    Without ``shapes``, in ``SHAPES``; where calls are captured as CUDA graphs, in all that can be captured: later that
    would keep requests waiting.
    """
    for texts, tokens in shapes or _usual(servable):
        batch = [_text(servable, tokens)] * texts
        length = len(batch[0].ids)
        try:
            logits, _ = servable.run(batch)
        except Exception as error:  # ONNX Runtime raises its own kinds
            raise UnservableBundle(f"{servable.version} fails on {texts} x {length} tokens: {error}"[:500]) from error
        if not np.isfinite(logits).all():
            raise UnservableBundle(f"{servable.version} gives values that are not finite on {texts} x {length} tokens")


def _usual(servable: Servable) -> Sequence[tuple[int, int]]:
    return fixed_shapes(servable.manifest.max_tokens) if servable.engine.opened.captured else SHAPES


def time_of_one(servable: Servable) -> float:
    """CPU seconds of this thread, which does all the work, that one text of 32 tokens takes: the least of three runs.

    The processor's time and not the clock's: how busy the machine is says nothing about the model. On a GPU the clock's.
    """
    clock = time.thread_time if servable.provider == "CPUExecutionProvider" else time.perf_counter
    batch = [_text(servable, _TIMED_TOKENS)]
    taken = []
    for _ in range(_TIMED_RUNS):
        started = clock()
        servable.run(batch)
        taken.append(clock() - started)
        if sum(taken) > 1.0:  # slow enough to know
            break
    return min(taken)


def _text(servable: Servable, tokens: int) -> Encoded:
    known = servable.tokenize([dict.fromkeys(servable.task.input_fields, "ratchet")])[0].ids
    return Encoded(np.resize(known, min(tokens, servable.manifest.max_tokens)), False)
