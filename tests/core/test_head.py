"""The linear head that a bundle may bring beside its graph."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from core.errors import UnservableBundle
from core.head import LinearHead


def a_head(labels: int, size: int) -> LinearHead:
    random = np.random.default_rng(0)
    return LinearHead(
        random.normal(size=(labels, size)).astype(np.float32), random.normal(size=labels).astype(np.float32)
    )


@pytest.mark.parametrize(("texts", "labels", "size"), [(0, 3, 8), (1, 3, 8), (100, 77, 384), (5, 1000, 384)])
def test_logits_are_those_of_the_formula_in_however_many_pieces(texts: int, labels: int, size: int) -> None:
    head = a_head(labels, size)
    embeddings = np.random.default_rng(1).normal(size=(texts, size)).astype(np.float32)
    expected = embeddings.astype(np.float64) @ head.weight.T.astype(np.float64) + head.bias
    found = head.logits(embeddings)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_head_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    head = a_head(3, 8)
    head.save(tmp_path / "head.safetensors")
    found = LinearHead.load(tmp_path / "head.safetensors", labels=3, size=8)
    np.testing.assert_array_equal(found.weight, head.weight)
    np.testing.assert_array_equal(found.bias, head.bias)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"weight": np.zeros((3, 8), np.float32)}, "the manifest means"),
        ({"weight": np.zeros((3, 9), np.float32), "bias": np.zeros(3, np.float32)}, "the manifest means"),
        ({"weight": np.zeros((3, 8), np.float16), "bias": np.zeros(3, np.float16)}, "the manifest means"),
        ({"weight": np.full((3, 8), np.inf, np.float32), "bias": np.zeros(3, np.float32)}, "not finite"),
    ],
)
def test_a_file_that_is_no_such_head_is_refused(tmp_path: Path, tensors: dict[str, np.ndarray], told: str) -> None:
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(UnservableBundle, match=told):
        LinearHead.load(tmp_path / "head.safetensors", labels=3, size=8)


def test_rubbish_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    with pytest.raises(UnservableBundle, match="cannot be read"):
        LinearHead.load(path, labels=3, size=8)
    path.write_bytes(b"rubbish")
    with pytest.raises(UnservableBundle, match="cannot be read"):
        LinearHead.load(path, labels=3, size=8)
