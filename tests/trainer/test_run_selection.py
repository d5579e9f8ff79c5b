"""The computing budget: what a run trains on where there is more than it may take."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from core.errors import BadSettings
from core.events import Example, Origin, Split
from core.runtime import Servable
from core.settings import load_settings
from tests.support_bundles import WORDS, make_bundle
from trainer.loop import TrainerLoop
from trainer.run_selection import choose_new

LABELS = ["alpha", "beta", "gamma"]


def an_example(number: int, label: str) -> Example:
    return Example(
        example_id=f"{number:032x}", seq=number, task="text_classification", inputs={"text": WORDS[number]}, target=label,
        origin=Origin.CORRECTION, split=Split.TRAIN,
    )  # fmt: skip


@pytest.fixture
def live(tmp_path: Path) -> Servable:
    return Servable.load(make_bundle(tmp_path / "live", LABELS, version="v-0001"), device="cpu")


def test_all_are_taken_where_they_fit_into_the_budget(live: Servable) -> None:
    examples = [an_example(number, "alpha") for number in range(5)]
    for name in ("random", "disagreement"):
        settings = load_settings(run_examples=5, run_selection=name)
        assert choose_new(examples, LABELS, settings, servable=live, rng=random.Random(0)) == examples


def test_random_takes_each_label_in_turn(live: Servable) -> None:
    examples = [an_example(number, "alpha" if number < 25 else "beta") for number in range(30)]
    settings = load_settings(run_examples=8)
    chosen = choose_new(examples, LABELS, settings, servable=live, rng=random.Random(0))
    assert Counter(example.target for example in chosen) == {"alpha": 4, "beta": 4}


def test_a_strategy_takes_what_it_finds_worth_most_new_labels_included(live: Servable) -> None:
    answers = live.predict([{"text": word} for word in WORDS[:30]])
    examples = [an_example(number, answer["label"]) for number, answer in enumerate(answers)]
    examples[7] = an_example(7, "delta")  # the live model gives it no chance at all
    settings = load_settings(run_examples=6, run_selection="disagreement")
    chosen = choose_new(examples, [*LABELS, "delta"], settings, servable=live, rng=random.Random(0))
    logits, _ = live.infer([{"text": word} for word in WORDS[:30]])
    said = np.exp(logits - logits.max(axis=1, keepdims=True))
    certain = (said / said.sum(axis=1, keepdims=True)).max(axis=1)
    certain[7] = 0.0
    assert {example.seq for example in chosen} == set(np.argsort(certain)[:6].tolist())
    assert chosen[0].target == "delta"


def test_an_unknown_strategy_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="no selection strategy 'luck'"):
        TrainerLoop(load_settings(home=tmp_path, run_selection="luck"))
