"""Known answers: a version that says something else than its exporter saw is noticed, rounding is not."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from core.bundle import MANIFEST, ModelBundle, parse_manifest
from core.errors import CorruptBundle, UnservableBundle
from core.known_answers import TEXTS, Ask, add_known_answers, difference
from core.runtime import Servable
from tests.support_bundles import make_bundle

LABELS = [f"label {number}" for number in range(40)]


@pytest.fixture
def exported(tmp_path: Path) -> tuple[ModelBundle, Servable]:
    bundle = make_bundle(tmp_path / "made", LABELS, version="v-0001", embedding_size=32)
    servable = Servable.load(bundle, device="cpu")
    return add_known_answers(bundle, servable.ask), servable


def drawn(seed: int = 0, *, labels: int = 40) -> dict[str, NDArray[np.float32]]:
    """Logits of a model with likes and dislikes, by text."""
    random = np.random.default_rng(seed)
    bias = random.normal(size=labels) * 5
    return {text: (bias + random.normal(size=labels)).astype(np.float32) for text in TEXTS}


def told(answers: dict[str, NDArray[np.float32]], ask: Ask, tmp_path: Path) -> str | None:
    labels = [f"label {number}" for number in range(len(answers[TEXTS[0]]))]
    bundle = make_bundle(tmp_path / "told", labels, version="v-0001")
    probes = add_known_answers(bundle, lambda text: answers[text]).manifest.probes
    return difference(probes, labels, ask)


def test_they_travel_in_the_manifest_and_the_same_version_gives_them_again(
    exported: tuple[ModelBundle, Servable],
) -> None:
    bundle, servable = exported
    read = ModelBundle.open(bundle.directory)
    assert [probe.text for probe in read.manifest.probes] == list(TEXTS)
    expected = dict(zip(LABELS, servable.ask(TEXTS[0]).tolist(), strict=True))
    assert read.manifest.probes[0].logits == pytest.approx(expected, abs=1e-4)
    Servable.load(read, device="cpu")


def test_a_manifest_without_them_loads_as_before(exported: tuple[ModelBundle, Servable]) -> None:
    bundle, servable = exported
    old = bundle.manifest.model_dump_json(exclude={"probes"}).encode()
    assert parse_manifest(old, where="old").probes == []
    assert difference([], LABELS, servable.ask) is None


def test_every_pair_of_labels_that_is_exchanged_is_noticed(exported: tuple[ModelBundle, Servable]) -> None:
    bundle, servable = exported
    for one in range(len(LABELS)):
        for other in range(one):
            labels = list(LABELS)
            labels[one], labels[other] = labels[other], labels[one]
            assert "the labels are exchanged" in str(difference(bundle.manifest.probes, labels, servable.ask))


def test_labels_that_are_much_alike_are_noticed_when_exchanged(tmp_path: Path) -> None:
    answers = drawn()
    random = np.random.default_rng(1)
    for text in TEXTS:
        answers[text][1] = answers[text][0] + np.float32(0.2 * random.normal())
    swapped = {text: row[[1, 0, *range(2, len(row))]] for text, row in answers.items()}
    assert "exchanged" in str(told(answers, lambda text: swapped[text], tmp_path))


@pytest.mark.parametrize("seed", range(10))
def test_the_rounding_of_int8_is_allowed_and_another_model_is_not(tmp_path: Path, seed: int) -> None:
    answers, random = drawn(seed), np.random.default_rng(100 + seed)
    # 0.15 movements: above what was measured between int8 and fp32 of MiniLM-L6 (0.117 over all)
    near = {text: row + random.normal(size=len(row)).astype(np.float32) * 0.15 for text, row in answers.items()}
    assert told(answers, lambda text: near[text], tmp_path) is None
    other = drawn(seed + 1)
    assert told(answers, lambda text: other[text], tmp_path) is not None


def test_one_text_that_is_read_otherwise_is_noticed(tmp_path: Path) -> None:
    answers = drawn()
    changed = {**answers, TEXTS[6]: drawn(5)[TEXTS[6]] - drawn(5)[TEXTS[0]] + answers[TEXTS[0]]}
    assert "not the known ones" in str(told(answers, lambda text: changed[text], tmp_path))


def test_a_text_that_the_graph_cannot_take_is_a_refusal(exported: tuple[ModelBundle, Servable]) -> None:
    bundle, _ = exported
    tokenizer = bundle.path("tokenizer.json")
    document = json.loads(tokenizer.read_text())
    document["model"]["vocab"]["parcel"] = 10_000  # a word of a known text and of nothing that was asked before
    tokenizer.write_text(json.dumps(document))
    bundle = ModelBundle.write(bundle.directory, **bundle.manifest.model_dump(exclude={"files"}))
    with pytest.raises(UnservableBundle, match="does not answer a known text"):
        Servable.load(bundle, device="cpu")


def test_a_model_of_very_many_labels_carries_fewer_texts(tmp_path: Path) -> None:
    labels = [f"label {number}" for number in range(3_000)]
    bundle = make_bundle(tmp_path, labels, version="v-0001")
    told_of = add_known_answers(bundle, Servable.load(bundle, device="cpu").ask)
    assert [probe.text for probe in told_of.manifest.probes] == list(TEXTS[:2])
    assert (tmp_path / MANIFEST).stat().st_size < 8 * 2**20 / 10


def test_answers_that_are_not_numbers_cannot_be_known(exported: tuple[ModelBundle, Servable]) -> None:
    bundle, _ = exported
    document = bundle.manifest.model_dump_json().replace('"label 0":', '"label 0":NaN,"x":', 1).encode()
    with pytest.raises(CorruptBundle, match="probes"):
        parse_manifest(document, where="v-0001")
