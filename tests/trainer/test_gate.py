"""The gate on real artefacts whose answers are known."""

import random
from pathlib import Path

import pytest

from core.bundle import Lane
from core.events import Example, Origin
from core.runtime import Servable
from core.settings import load_settings
from tests.support_bundles import make_bundle
from tests.trainer.support import example
from trainer.gate import Gate, Incumbents, Judgement

LABELS = ["yes", "no"]
GATE = Gate(load_settings(gate_latency_ratio=1000.0))


@pytest.fixture(scope="module")
def servables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Servable]:
    """``yes`` answers yes to everything, ``no`` no, and ``both`` knows a third label."""
    folder = tmp_path_factory.mktemp("gate")

    def load(name: str, labels: list[str], favour: str) -> Servable:
        return Servable.load(make_bundle(folder / name, labels, version=f"version-{name}", favour=favour))

    return {
        "yes": load("yes", LABELS, "yes"),
        "yes2": load("yes2", LABELS, "yes"),
        "no": load("no", LABELS, "no"),
        "fewer": load("fewer", ["yes"], "yes"),
    }


def judge(
    challenger: Servable,
    champion: Servable | None,
    *,
    best: Servable | None = None,
    holdout: tuple[int, int] = (0, 0),
    corrections: tuple[int, int] = (0, 0),
    parity: float = 0.0,
) -> Judgement:
    """Judge on so many texts whose answer is yes, and no."""

    def held(counts: tuple[int, int], origin: Origin) -> list[Example]:
        return [
            example(f"word{random.randrange(60)}", label, origin=origin)
            for label, count in zip(LABELS, counts, strict=True)
            for _ in range(count)
        ]

    incumbents = Incumbents(champion=champion, best=best or champion) if champion else None
    return GATE.judge(
        challenger, incumbents, holdout=held(holdout, Origin.AUDIT), corrections=held(corrections, Origin.CORRECTION),
        new=[], parity=parity,
    )  # fmt: skip


def failed(judgement: Judgement) -> set[str]:
    return {check.name for check in judgement.checks if not check.passed}


def test_an_equal_challenger_passes_and_a_worse_one_does_not(servables: dict[str, Servable]) -> None:
    assert judge(servables["yes2"], servables["yes"], holdout=(60, 40)).passed
    assert failed(judge(servables["no"], servables["yes"], holdout=(60, 40))) == {"holdout"}
    assert judge(servables["no"], servables["yes"], holdout=(40, 60)).passed


def test_below_3000_texts_the_estimate_decides_with_a_margin_and_the_verdict_says_so(
    servables: dict[str, Servable],
) -> None:
    within = judge(servables["no"], servables["yes"], holdout=(201, 199))
    assert within.passed
    assert within.low_power
    beyond = judge(servables["no"], servables["yes"], holdout=(203, 197))
    assert not beyond.passed
    assert "low power" in beyond.reasons[0]


def test_where_one_text_is_more_than_the_margin_one_text_may_be_lost_and_no_second_one(
    servables: dict[str, Servable],
) -> None:
    assert judge(servables["no"], servables["yes"], holdout=(16, 15)).passed
    assert failed(judge(servables["no"], servables["yes"], holdout=(16, 14))) == {"holdout"}
    once_lost = judge(servables["no"], servables["yes"], holdout=(16, 15)).evaluation["best"]
    assert once_lost == servables["yes"].version, "the next one is measured from the same bar"


def test_the_margin_is_not_for_fine_tuning_which_must_earn_its_place(
    servables: dict[str, Servable], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "tuned", LABELS, version="version-tuned", favour="no", lane=Lane.FINETUNE)
    tuned = Servable.load(bundle)
    assert failed(judge(tuned, servables["yes"], holdout=(201, 199))) == {"earns"}
    assert judge(tuned, servables["yes"], holdout=(200, 200)).passed


def test_from_3000_texts_a_paired_test_decides(servables: dict[str, Servable]) -> None:
    noisy = judge(servables["no"], servables["yes"], holdout=(1510, 1510))
    assert not noisy.low_power
    assert failed(noisy) == {"holdout"}, "equal by estimate, but every answer differs: it may be worse by the margin"
    assert judge(servables["yes2"], servables["yes"], holdout=(1510, 1510)).passed


def test_losses_within_the_margin_are_measured_from_the_best_champion_so_far(servables: dict[str, Servable]) -> None:
    judgement = judge(servables["yes2"], servables["yes"], best=servables["no"], holdout=(45, 55))
    assert failed(judgement) == {"holdout"}
    assert "best champion so far" in judgement.reasons[0]
    within = judge(servables["no"], servables["yes"], holdout=(201, 199))
    assert within.evaluation["best"] == servables["yes"].version, "a loss within the margin does not lower the bar"
    better = judge(servables["no"], servables["yes"], holdout=(199, 201))
    assert better.evaluation["best"] == servables["no"].version


def test_corrections_veto_and_never_earn(servables: dict[str, Servable]) -> None:
    assert failed(judge(servables["no"], servables["yes"], holdout=(50, 50), corrections=(20, 0))) == {"corrections"}
    assert failed(judge(servables["no"], servables["yes"], holdout=(60, 40), corrections=(0, 500))) == {"holdout"}
    assert judge(servables["no"], servables["yes"], holdout=(50, 50), corrections=(5, 0)).passed, "five are no slice"


def test_a_lost_label_and_a_mismatch_with_torch_are_refused(servables: dict[str, Servable]) -> None:
    assert failed(judge(servables["fewer"], servables["yes"], holdout=(10, 0))) == {"labels"}
    assert failed(judge(servables["yes2"], servables["yes"], parity=0.5)) == {"parity"}
    assert failed(judge(servables["yes2"], servables["yes"], parity=float("nan"))) == {"parity"}


def test_the_first_model_fails_only_where_it_is_proven_to_guess(servables: dict[str, Servable]) -> None:
    assert judge(servables["yes"], None, holdout=(6, 4)).passed
    assert judge(servables["yes"], None, holdout=(1, 1)).passed, "two texts prove nothing"
    assert failed(judge(servables["yes"], None, holdout=(10, 60))) == {"holdout"}
    assert judge(servables["yes"], None).passed


def test_with_hardly_a_holdout_a_challenger_must_at_least_remember(servables: dict[str, Servable]) -> None:
    known = [example("word1", "yes") for _ in range(30)]
    incumbents = Incumbents(champion=servables["yes"], best=servables["yes"])

    def judged(challenger: Servable) -> Judgement:
        return GATE.judge(challenger, incumbents, holdout=[], corrections=[], new=[], known=known, parity=0.0)

    assert judged(servables["yes2"]).passed
    assert failed(judged(servables["no"])) == {"known"}


def test_a_slow_challenger_is_refused(servables: dict[str, Servable], tmp_path: Path) -> None:
    gate = Gate(load_settings(gate_latency_ratio=1e-6))
    incumbents = Incumbents(champion=servables["yes"], best=servables["yes"])
    judgement = gate.judge(servables["yes2"], incumbents, holdout=[], corrections=[], new=[], parity=0.0)
    assert failed(judgement) == {"latency"}
