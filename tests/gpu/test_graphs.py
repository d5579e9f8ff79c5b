"""On a real GPU: answers of captured calls are those of the CPU, also while other versions come and go."""

import threading
from pathlib import Path

import numpy as np
import pytest

from core.bundle import MODEL, ModelBundle
from core.errors import UnservableBundle
from core.runtime import Engine
from core.sessions import wants_gpu
from core.shaped import fixed_shapes
from tests.support_bundles import WORDS, make_bundle

pytestmark = pytest.mark.skipif(not wants_gpu("auto"), reason="there is no GPU")
OUTPUTS = ["logits", "embedding"]


@pytest.fixture
def bundle(tmp_path: Path) -> ModelBundle:
    return make_bundle(tmp_path, ["a", "b", "c"], version="v-0001")


def _load(bundle: ModelBundle, device: str, **more: int) -> Engine:
    tokenizer = bundle.path("tokenizer.json")
    return Engine.load(bundle.path(MODEL), tokenizer, max_tokens=64, device=device, **more)


def _texts(count: int, words: int) -> list[str | tuple[str, str]]:
    return [" ".join(WORDS[(row * 7 + word) % len(WORDS)] for word in range(words)) for row in range(count)]


def test_captured_calls_answer_as_the_cpu_does(bundle: ModelBundle) -> None:
    gpu, cpu = _load(bundle, "cuda"), _load(bundle, "cpu")
    assert gpu.provider == "CUDAExecutionProvider"
    assert gpu.opened.captured
    for rows, width in fixed_shapes(64):
        for texts in (_texts(rows, width), _texts(max(1, rows - 1), max(1, width - 3))):
            encoded = gpu.tokenize(texts)
            for found, wanted in zip(gpu.run(encoded, OUTPUTS), cpu.run(encoded, OUTPUTS), strict=True):
                np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_lanes_answer_right_while_versions_come_and_go(bundle: ModelBundle, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", ["a", "b", "c"], version="v-0002", seed=5)
    gpu, cpu = _load(bundle, "cuda"), _load(bundle, "cpu")
    faults: list[str] = []
    ended = threading.Event()

    def lane(number: int) -> None:
        count = 0
        while not ended.is_set():
            count += 1
            encoded = gpu.tokenize(_texts(1 + (count * (number + 3)) % 40, 1 + count % 60))
            (found,) = gpu.run(encoded, ["embedding"])
            (wanted,) = cpu.run(encoded, ["embedding"])
            if not np.allclose(found, wanted, atol=1e-3):
                faults.append(f"lane {number}, call {count}")

    lanes = [threading.Thread(target=lane, args=(number,)) for number in range(2)]
    for thread in lanes:
        thread.start()
    try:
        for _ in range(15):
            swapped = _load(other, "cuda")
            assert swapped.opened.captured
            for rows, width in fixed_shapes(64)[::5]:
                swapped.run(swapped.tokenize(_texts(rows, width)), OUTPUTS)
            del swapped
    finally:
        ended.set()
        for thread in lanes:
            thread.join()
    assert not faults


def test_a_model_that_its_share_of_the_memory_does_not_hold_is_refused(bundle: ModelBundle) -> None:
    with pytest.raises(UnservableBundle):
        _load(bundle, "cuda", gpu_memory_bytes=256)
