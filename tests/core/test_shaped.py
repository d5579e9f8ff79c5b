"""Calls in fixed shapes say what plain calls say. On the CPU: the buffers and shapes are the same as on a GPU."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bundle import MODEL
from core.runtime import Engine
from core.sessions import gpu_options, prove
from core.shaped import ROWS, WIDTHS, Array, Ids, ShapedRuns, shape_for
from tests.support_bundles import make_bundle

OUTPUTS = ["logits", "embedding"]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    bundle = make_bundle(tmp_path_factory.mktemp("bundle"), ["a", "b", "c"], version="v-0001")
    return onnxruntime.InferenceSession(str(bundle.path(MODEL)), providers=["CPUExecutionProvider"])


def _batch(lengths: list[int]) -> tuple[Ids, Ids]:
    ids = np.zeros((len(lengths), max(lengths)), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = 2 + (np.arange(length) + 7 * row) % 20
        mask[row, :length] = 1
    return ids, mask


def _same(found: list[Array], wanted: list[Array]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_batches_of_any_shape_get_the_answers_of_a_plain_call(
    session: onnxruntime.InferenceSession,
) -> None:
    shaped = ShapedRuns(session, pad=0, device="cpu")
    for lengths in ([1], [3, 16], [17], [5] * 9, [40, 2, 11], [1], [600], [9] * 70):
        ids, mask = _batch(lengths)
        _same(shaped.run(ids, mask, OUTPUTS), shaped.run_plain(ids, mask, OUTPUTS))
    assert shaped.shapes == [(1, 16), (1, 32), (2, 16), (4, 48), (16, 16)], "each shape once, and none for large calls"


def test_an_answer_is_not_overwritten_by_the_next_call(session: onnxruntime.InferenceSession) -> None:
    shaped = ShapedRuns(session, pad=0, device="cpu")
    first = shaped.run(*_batch([4]), OUTPUTS)
    kept = [array.copy() for array in first]
    shaped.run(*_batch([9]), OUTPUTS)
    _same(first, kept)


def test_lanes_do_not_mix_their_batches(session: onnxruntime.InferenceSession) -> None:
    shaped = ShapedRuns(session, pad=0, device="cpu")
    faults: list[str] = []

    def work(length: int) -> None:
        ids, mask = _batch([length, length])
        (wanted,) = shaped.run_plain(ids, mask, ["embedding"])
        for _ in range(50):
            (found,) = shaped.run(ids, mask, ["embedding"])
            if not np.allclose(found, wanted, atol=1e-5):
                faults.append(f"length {length}")

    lanes = [threading.Thread(target=work, args=(length,)) for length in (3, 7, 12)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    assert not faults


def test_a_replay_that_says_something_else_is_found(session: onnxruntime.InferenceSession) -> None:
    prove(ShapedRuns(session, pad=0, device="cpu"), OUTPUTS)

    class Stale(ShapedRuns):
        """What a failed capture does: it answers the first call for ever."""

        first: list[Array] | None = None

        def run(self, ids: Ids, mask: Ids, outputs: Sequence[str]) -> list[Array]:
            self.first = self.first or super().run(ids, mask, outputs)
            return self.first

    with pytest.raises(ArithmeticError, match="a replayed call gives another"):
        prove(Stale(session, pad=0, device="cpu"), OUTPUTS)


@given(rows=st.integers(1, 100), width=st.integers(1, 700))
def test_a_shape_holds_its_batch_and_is_one_of_few(rows: int, width: int) -> None:
    shape = shape_for(rows, width)
    if shape is None:
        assert rows > ROWS[-1] or width > WIDTHS[-1] or rows * width > 1024
        return
    assert shape[0] in ROWS
    assert shape[1] in WIDTHS
    assert rows <= shape[0] < 2 * rows or shape[0] == 1
    assert width <= shape[1] <= max(16, 2 * width)


def test_a_gpu_asked_for_and_not_there_is_said(tmp_path: Path) -> None:
    if any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg")):
        pytest.skip("there is a GPU")
    bundle = make_bundle(tmp_path, ["a", "b"], version="v-0001")
    engine = Engine.load(bundle.path(MODEL), bundle.path("tokenizer.json"), max_tokens=16, device="cuda")
    assert engine.provider == "CPUExecutionProvider"
    (found,) = engine.run(engine.tokenize(["word1"]), ["embedding"])
    assert np.isfinite(found).all()


def test_the_limit_of_memory_reaches_the_provider() -> None:
    assert gpu_options(2**30, capture=True)["gpu_mem_limit"] == "1073741824"
    assert "gpu_mem_limit" not in gpu_options(0, capture=False)
