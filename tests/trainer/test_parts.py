"""The parts of a run, each by itself."""

import random
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from core.bundle import Lane, Manifest, TrainingSet
from core.errors import BadSettings
from core.events import Command, Example, Origin, Split, now
from core.examples.store import NewExamples
from core.masking import Masker, Policy
from core.registry import RunState, TrainingRun
from core.settings import Settings
from tests.support_bundles import make_bundle
from tests.trainer.support import example
from trainer.classifier import Classifier
from trainer.head import fit_head
from trainer.methods import METHODS, Budget
from trainer.replay import class_balanced
from trainer.training_set import make_pool, mask_examples
from trainer.trigger import RUNS_LISTED, find_trigger, looked_through


def test_a_head_answers_what_it_was_fitted_on_and_never_a_label_without_examples() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 16))
    rows = np.repeat(centres, 20, axis=0) + rng.normal(size=(60, 16)) * 0.1
    embeddings = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    targets = ["a"] * 20 + ["b"] * 20 + ["d"] * 20
    answers = fit_head(embeddings, targets, ["a", "b", "c", "d"], weights=[1.0] * 60).logits(embeddings).argmax(axis=1)
    assert [("a", "b", "c", "d")[answer] for answer in answers] == targets


@pytest.mark.parametrize("labels", [["a"], ["a", "b"]])
def test_a_head_of_one_or_two_labels_is_a_head_like_any_other(labels: list[str]) -> None:
    embeddings = np.eye(4, dtype=np.float32)[: len(labels)].repeat(5, axis=0)
    targets = [label for label in labels for _ in range(5)]
    head = fit_head(embeddings, targets, labels, weights=[1.0] * len(targets))
    assert [labels[row] for row in head.logits(embeddings).argmax(axis=1)] == targets


def test_texts_from_before_masking_are_trained_on_masked_and_labels_stay() -> None:
    stored = [example("mail bob@example.com", "13812345678"), example("nothing here", "a")]
    masked = mask_examples(stored, Masker.of(Policy()))
    assert [item.inputs["text"] for item in masked] == ["mail [EMAIL_1]", "nothing here"]
    assert [(item.target, item.example_id) for item in masked] == [(item.target, item.example_id) for item in stored]


def test_replay_takes_from_every_label_in_turn() -> None:
    examples = [example(f"a{number}", "common") for number in range(90)]
    examples += [example(f"b{number}", "rare") for number in range(6)]
    chosen = class_balanced(examples, 12, random.Random(0))
    assert Counter(item.target for item in chosen) == {"common": 6, "rare": 6}
    assert len({item.example_id for item in chosen}) == 12
    assert len(class_balanced(examples, 40, random.Random(0))) == 40


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_keeps_its_contract(name: str, base_model: Path) -> None:
    method = METHODS[name]
    assert method.name == name
    new = [example(f"a{number}", "a") for number in range(10)]
    old = [example(f"b{number}", "b") for number in range(50)]
    budget = Budget(ratio=1.0, minimum=5)
    chosen = method.choose(new, old, budget=budget, rng=random.Random(1))
    again = method.choose(new, old, budget=budget, rng=random.Random(1))
    assert [item.example_id for item in chosen] == [item.example_id for item in again], "a seed gives the same choice"
    assert {item.example_id for item in chosen} <= {item.example_id for item in old}
    assert len(chosen) <= budget.for_new(len(new))
    model, parent = (Classifier.from_base(str(base_model), labels=2) for _ in range(2))
    penalty = method.penalty(model, parent)
    assert penalty is None or (penalty.ndim == 0 and float(penalty.detach()) == pytest.approx(0.0, abs=1e-6))
    with torch.no_grad():
        for weight in model.encoder.parameters():
            weight.add_(1.0)
    moved = method.penalty(model, parent)
    if penalty is not None:
        assert moved is not None
        assert float(moved.detach()) > 0
    before = {name: weight.clone() for name, weight in parent.state_dict().items()}
    method.consolidate(model, parent)
    assert all(torch.equal(before[name], weight) for name, weight in parent.state_dict().items()), "the parent is kept"
    for weight, start in zip(model.encoder.parameters(), parent.encoder.parameters(), strict=True):
        assert bool(((weight - start >= -1e-6) & (weight - start <= 1.0 + 1e-6)).all()), "between parent and trained"


def test_the_pool_never_trains_on_what_judges() -> None:
    def held(origin: Origin) -> Example:
        return example(origin, "a", seq=9, origin=origin, split=Split.HOLDOUT)

    examples = [
        example("old", "a", seq=1), example("new", "b", seq=5), example("known", "a", seq=6, selected=False),
        example("tune", "a", seq=7, split=Split.VALIDATION),
        *(example("barred", "c", seq=8, split=Split.BARRED, origin=origin) for origin in Origin),
        held(Origin.SEED), held(Origin.AUDIT), held(Origin.CORRECTION), held(Origin.CONFIRMATION),
    ]  # fmt: skip
    pool = make_pool(examples, after=4)
    assert [item.inputs["text"] for item in pool.new] == ["new"]
    assert [item.inputs["text"] for item in pool.old] == ["old", "known"]
    assert {item.origin for item in pool.holdout} == {Origin.SEED, Origin.AUDIT}
    assert {item.origin for item in pool.corrections} == {Origin.CORRECTION}
    assert pool.labels(["z", "a"]) == ["z", "a", "b"], "known labels keep their places"


def manifest(tmp_path: Path, *, lane: Lane, through: int) -> Manifest:
    training_set = TrainingSet(count=1, new=1, replayed=0, digest="0" * 64, through_seq=through)
    return make_bundle(tmp_path / "b", ["a", "b"], version="version-1", lane=lane, training_set=training_set).manifest


def run_of(state: RunState, *, parent: str | None, through: int, commands: list[str] | None = None) -> TrainingRun:
    return TrainingRun(
        run_id="r",
        lane="finetune",
        trigger="t",
        parent=parent,
        seed=0,
        state=state,
        through_seq=through,
        commands=commands or [],
    )


def test_what_was_judged_and_rejected_starts_no_second_run(tmp_path: Path) -> None:
    champion = manifest(tmp_path, lane=Lane.FINETUNE, through=10)
    assert looked_through(champion, []) == 10
    assert looked_through(champion, [run_of(RunState.REJECTED, parent="version-1", through=25)]) == 25
    assert looked_through(champion, [run_of(RunState.REJECTED, parent="another", through=25)]) == 10
    assert looked_through(champion, [run_of(RunState.FAILED, parent="version-1", through=25)]) == 10
    assert looked_through(manifest(tmp_path, lane=Lane.SEED, through=10), []) == 0, "a seed's encoder has seen nothing"


def test_runs_start_by_count_by_age_and_by_hand(tmp_path: Path, settings: Settings) -> None:
    champion = manifest(tmp_path, lane=Lane.FINETUNE, through=10)
    at = now()

    def trigger(
        count: int, age_s: float, commands: list[Command] | None = None, runs: list[TrainingRun] | None = None
    ) -> str:
        new = NewExamples(count=count, oldest=at - timedelta(seconds=age_s) if count else None, newest_seq=99)
        found = find_trigger(
            champion=champion, runs=runs or [], new=new, commands=commands or [], settings=settings, at=at
        )
        return found.reason if found else ""

    assert trigger(0, 0) == ""
    assert trigger(3, 0.01) == ""
    assert trigger(50, 0.01).startswith("count")
    assert trigger(3, 5.0).startswith("age")
    command = Command(command_id="c1", reason="now please")
    assert trigger(0, 0, [command]) == "by hand: now please"
    assert trigger(0, 0, [command], [run_of(RunState.REJECTED, parent=None, through=0, commands=["c1"])]) == ""
    assert trigger(0, 0, [command], [run_of(RunState.RUNNING, parent=None, through=0, commands=["c1"])]) != ""


def test_a_base_model_that_is_not_there_is_a_bad_setting(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="no-such-folder"):
        Classifier.from_base(str(tmp_path / "no-such-folder"), labels=2)


def test_a_run_that_was_held_up_leaves_its_examples_news_and_old_commands_stay_answered(
    tmp_path: Path, settings: Settings
) -> None:
    champion = manifest(tmp_path, lane=Lane.FINETUNE, through=10)
    held = run_of(RunState.REJECTED, parent="version-1", through=25).model_copy(update={"judged": False})
    assert looked_through(champion, [held]) == 10
    old = Command(command_id="c1", at=now() - timedelta(days=1))
    runs = [run_of(RunState.PROMOTED, parent=None, through=1) for _ in range(RUNS_LISTED)]
    nothing = NewExamples(count=0, oldest=None, newest_seq=9)
    found = find_trigger(champion=champion, runs=runs, new=nothing, commands=[old], settings=settings, at=now())
    assert found is None
