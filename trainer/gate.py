"""The tests between an exported challenger and its promotion.

What may earn a promotion is the holdout alone: the seed's held-out part and uniformly drawn audits. Held-out corrections are
what the champion got wrong, so they would favour any challenger; they may veto one.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from core.bundle import Artefact, Lane
from core.events import Example
from core.runtime import Servable
from core.settings import Settings
from core.stats import PairedDifference, compare, wilson_interval

FULL_POWER: Final = 3000
"""Holdout texts from which a paired test can tell a margin of a point; below, the point estimate decides."""
_MIN_VETO: Final = 10
"""Held-out corrections below which a veto would be the vote of a handful of texts."""
_MIN_HOLDOUT: Final = 20
_LATENCY_ROUNDS: Final = 25
_SENTENCE: Final = {"text": "How long does it take until my order arrives at my address?"}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One test with its result, as a sentence."""

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Everything the gate found."""

    checks: list[Check]
    low_power: bool
    evaluation: dict[str, Any]

    @property
    def passed(self) -> bool:
        """True if every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """A sentence for each check; failures first."""
        return [check.reason for check in sorted(self.checks, key=lambda check: check.passed)]


@dataclass(frozen=True, kw_only=True)
class Incumbents:
    """Whom a challenger must not be worse than: the champion, and the best champion so far (often the same)."""

    champion: Servable
    best: Servable


class Gate:
    """Judges exported challengers by the settings' margins."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def judge(
        self,
        challenger: Servable,
        incumbents: Incumbents | None,
        *,
        holdout: Sequence[Example],
        corrections: Sequence[Example],
        new: Sequence[Example],
        known: Sequence[Example] = (),
        parity: float | None,
    ) -> Judgement:
        """Judge a challenger.

        Args:
            challenger: the exported artefact as the service would load it.
            incumbents: None for the first model, which has nobody to be compared with.
            holdout: what may earn a promotion.
            corrections: held-out corrections, which may only veto.
            new: what the run was to learn; reported, judged by nothing.
            known: older training examples, which stand in where there is next to no holdout.
            parity: largest difference between torch's logits and those of the exported fp32 graph; None where the graph
                is one that was judged before.
        """
        evaluation: dict[str, Any] = {
            "holdout": _score(challenger, holdout),
            "corrections": _score(challenger, corrections),
            "learned": _score(challenger, new)["accuracy"],
            "parity": parity,
            "provider": challenger.provider,
            "precision": challenger.precision,
        }
        low_power = len(holdout) < FULL_POWER
        if incumbents is not None:
            checks = self._against(challenger, incumbents, holdout, corrections, evaluation)
            if len(holdout) < _MIN_HOLDOUT:
                checks.append(self._remembers(challenger, incumbents.champion, known))
        else:
            evaluation["best"] = challenger.version
            checks = [_better_than_guessing(evaluation["holdout"], len(challenger.manifest.labels))]
        checks.append(self._parity(parity))
        if artefact := challenger.manifest.artefact:
            evaluation["agreement"] = artefact.agreement
            checks.append(self._agrees(artefact))
        return Judgement(checks=checks, low_power=low_power, evaluation=evaluation)

    def _against(
        self,
        challenger: Servable,
        incumbents: Incumbents,
        holdout: Sequence[Example],
        corrections: Sequence[Example],
        evaluation: dict[str, Any],
    ) -> list[Check]:
        champion, best = incumbents.champion, incumbents.best
        right = _right(challenger, holdout)
        against_champion = compare(right, _right(champion, holdout))
        rivals = {"the champion": against_champion}
        if best.version != champion.version:
            rivals["the best champion so far"] = compare(right, _right(best, holdout))
        vetoes = compare(_right(challenger, corrections), _right(champion, corrections))
        slower = _latency_ratio(challenger, champion)
        evaluation["champion"] = {
            "version": champion.version,
            "holdout_accuracy": evaluation["holdout"]["accuracy"] - against_champion.estimate,
            "gained": against_champion.gained,
            "negative_flips": against_champion.lost,
            "best_version": best.version,
        }
        # Whom the next challenger is measured from: a loss within the margin never lowers the bar for the one after.
        is_best = all(difference.estimate >= 0 for difference in rivals.values())
        evaluation["best"] = challenger.version if is_best else best.version
        evaluation["latency_ratio"] = round(slower, 3)
        checks = [self._non_inferior(name, difference) for name, difference in rivals.items()]
        if challenger.manifest.lane == Lane.FINETUNE:
            checks.append(_earns(against_champion))
        return [*checks, self._veto(vetoes), _labels_kept(challenger, champion), self._latency(slower)]

    def _latency(self, slower: float) -> Check:
        limit = self._settings.gate_latency_ratio
        return Check(
            name="latency",
            passed=slower <= limit,
            reason=f"latency is {slower:.2f} of the champion's (limit {limit:g})",
        )

    def _non_inferior(self, rival: str, difference: PairedDifference) -> Check:
        margin = self._margin(difference)
        points = 100 * difference.estimate
        facts = f"{difference.gained} gained, {difference.lost} lost of {difference.count} holdout texts"
        if difference.count >= FULL_POWER:
            bound = difference.lower_bound()
            passed = bound >= -margin
            ruling = f"95 % lower bound {100 * bound:+.2f} points, margin {100 * margin:g}"
        else:
            passed = difference.estimate >= -margin - 1e-12
            ruling = f"low power: the estimate decides, margin {100 * margin:.3g}"
        verb = "is no worse than" if passed else "is worse than"
        return Check(name="holdout", passed=passed, reason=f"{verb} {rival}: {points:+.2f} points ({facts}; {ruling})")

    def _margin(self, difference: PairedDifference) -> float:
        """Where one text is more than the margin, one text is the margin: on ten texts a single flip is chance."""
        if not 0 < difference.count < FULL_POWER:
            return self._settings.gate_margin
        return max(self._settings.gate_margin, 1 / difference.count)

    def _veto(self, difference: PairedDifference) -> Check:
        margin = self._settings.gate_veto_margin
        passed = difference.count < _MIN_VETO or difference.estimate >= -margin - 1e-12
        facts = f"{difference.gained} gained, {difference.lost} lost of {difference.count} held-out corrections"
        reason = (
            f"corrections do not veto: {facts}" if passed else f"corrections veto: {facts}, margin {100 * margin:g}"
        )
        return Check(name="corrections", passed=passed, reason=reason)

    def _remembers(self, challenger: Servable, champion: Servable, known: Sequence[Example]) -> Check:
        """With hardly a holdout text nothing proves that a model is as good; at least it must not have forgotten."""
        difference = compare(_right(challenger, known), _right(champion, known))
        passed = difference.estimate >= -self._settings.gate_margin - 1e-12
        facts = f"{difference.gained} gained, {difference.lost} lost of {difference.count} older training texts"
        verb = "has forgotten nothing" if passed else "has forgotten"
        return Check(name="known", passed=passed, reason=f"hardly a holdout text to judge by; {verb}: {facts}")

    def _parity(self, difference: float | None) -> Check:
        if difference is None:
            return Check(
                name="parity", passed=True, reason="the graph is the parent's, byte for byte: only the head is new"
            )
        limit = self._settings.gate_parity
        passed = difference <= limit
        verb = "match" if passed else "do not match"
        return Check(
            name="parity",
            passed=passed,
            reason=f"logits of torch and ONNX {verb}: largest difference {difference:.1e} (limit {limit:.0e})",
        )

    def _agrees(self, artefact: Artefact) -> Check:
        """The form that is served, against the fp32 graph that parity was shown for."""
        limit = self._settings.gate_agreement
        passed = artefact.agreement >= limit
        verb = "gives" if passed else "does not give"
        facts = f"{100 * artefact.agreement:.1f} % of {artefact.texts} texts, at least {100 * limit:g} %"
        return Check(name="agreement", passed=passed, reason=f"{artefact.precision} {verb} fp32's answers ({facts})")


def _earns(difference: PairedDifference) -> Check:
    """The margin is for the refitted head, which changes little; an encoder that is changed must not be lower at all."""
    passed = difference.estimate >= 0
    verb = "earns" if passed else "does not earn"
    return Check(
        name="earns", passed=passed, reason=f"fine-tuning {verb} its place: {100 * difference.estimate:+.2f} points"
    )


def _labels_kept(challenger: Servable, champion: Servable) -> Check:
    lost = sorted(set(champion.manifest.labels) - set(challenger.manifest.labels))
    reason = f"labels that the champion knows are gone: {lost}" if lost else "no label is lost"
    return Check(name="labels", passed=not lost, reason=reason)


def _better_than_guessing(score: dict[str, Any], labels: int) -> Check:
    guess = 1 / labels
    count, accuracy = score["count"], score["accuracy"]
    _, best_case = wilson_interval(round(accuracy * count), count)
    passed = best_case > guess  # a handful of texts proves nothing against a model
    reason = (
        f"first model: {100 * accuracy:.1f} % right on {count} holdout texts (guessing: {100 * guess:.1f} %)"
        if count
        else "first model: there is no holdout text to judge it on"
    )
    return Check(name="holdout", passed=passed, reason=reason)


def _score(servable: Servable, examples: Sequence[Example]) -> dict[str, Any]:
    answers = [servable.task.target_of(output) for output in servable.predict([example.inputs for example in examples])]
    return servable.task.score(answers, [example.target for example in examples])


def _right(servable: Servable, examples: Sequence[Example]) -> list[bool]:
    answers = servable.predict([example.inputs for example in examples])
    pairs = zip(answers, examples, strict=True)
    return [bool(servable.task.target_of(output) == example.target) for output, example in pairs]


def _latency_ratio(first: Servable, second: Servable) -> float:
    """Median time that the first needs for one text alone, in the second's; in turns, since machines are noisy."""
    times: dict[Servable, list[float]] = {first: [], second: []}
    encoded = {servable: servable.tokenize([_SENTENCE]) for servable in times}
    for _ in range(_LATENCY_ROUNDS):
        for servable, found in times.items():
            start = time.perf_counter()
            servable.run(encoded[servable])
            found.append(time.perf_counter() - start)
    return statistics.median(times[first]) / statistics.median(times[second])
