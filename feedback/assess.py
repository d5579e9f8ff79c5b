"""From joined feedback to an outcome, and to an Example where it is worth one: clean, identify, believe, score, store."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from core.errors import BadRecord
from core.events import Example, Feedback, FeedbackKind, Inputs, Origin, Outcome, OutcomeStatus, Split
from core.examples import StoreTransaction, example_id, split_of
from core.masking import Masker
from core.selection import get_score
from core.settings import Settings
from core.tasks import get_task
from feedback.answers import draws_of, note_answers
from feedback.cleaning import clean
from feedback.join import Joined
from feedback.live import LiveModel
from feedback.trust import Belief, believe

_ORIGINS = {
    FeedbackKind.CORRECT: Origin.CORRECTION,
    FeedbackKind.CONFIRM: Origin.CONFIRMATION,
    FeedbackKind.IMPLICIT: Origin.IMPLICIT,
}


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """Feedback as a claim that cleaned inputs have a target."""

    joined: Joined
    inputs: Inputs
    target: str
    identity: str
    #: the probability with which its prediction was drawn by lot; None where it was not, or where nobody asked
    draw: float | None

    @property
    def event(self) -> Feedback:
        return self.joined.feedback


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """What the live model makes of a claim; probability None for a label it does not know or before the first model."""

    probability: float | None
    score: float
    reason: str


def _strength(event: Feedback) -> tuple[bool, bool]:
    """A person's word above an app's signal, then a trusted one above a stranger's; their time counts among equals."""
    return event.kind != FeedbackKind.IMPLICIT, event.trusted


def _strength_of(example: Example) -> tuple[bool, bool]:
    return not _is_implicit(example), example.trust == 1.0


def _is_implicit(example: Example) -> bool:
    return example.origin == Origin.IMPLICIT


def _is_fair(example: Example) -> bool:
    """Drawn by chance and kept from training: what the holdout's estimates rest on, whoever corrects its target."""
    return example.split == Split.HOLDOUT and example.origin in (Origin.SEED, Origin.AUDIT)


class Assessor:
    """Settles feedback: every one gets exactly one outcome."""

    def __init__(self, settings: Settings, live: LiveModel, key: bytes) -> None:
        """Raises BadSettings for an unknown task or strategy, or for what cannot mask."""
        self._settings = settings
        self._live = live
        self._key = key
        self._task = get_task(settings.task)
        self._masker = Masker.of(settings.masking_policy)
        self._score_by = get_score(settings.selection)

    def assess(self, store: StoreTransaction, joined: Sequence[Joined]) -> list[Outcome]:
        """Settle feedback, in order; outcomes and examples are written into the transaction."""
        outcomes: list[Outcome] = []
        claims: list[_Claim] = []
        draws = draws_of(store, joined)
        heard: list[Joined] = []
        for item in joined:
            if item.feedback.kind == FeedbackKind.REJECT:
                reason = "known to be wrong; it names no better answer, so nothing is trained on it"
                outcomes.append(self._outcome(item, OutcomeStatus.ACCEPTED, reason))
                heard.append(item)
                continue
            try:
                claims.append(self._claim(item, draws.get(item.feedback.feedback_id)))
            except BadRecord as error:
                outcomes.append(self._outcome(item, OutcomeStatus.REJECTED, self._masker.mask(str(error))))
        counts = store.label_counts() if claims else {}
        for claim, scored in zip(claims, self._score(claims), strict=True):
            outcomes.append(self._settle(store, claim, scored, counts))
        note_answers(store, self._task, [*heard, *(claim.joined for claim in claims)], draws)
        for outcome in outcomes:
            store.add_outcome(outcome)
        return outcomes

    def _claim(self, item: Joined, draw: float | None) -> _Claim:
        """Clean, mask and check. Raises InvalidInput, or InvalidTarget."""
        event, prediction = item.feedback, item.prediction
        raw = prediction.inputs if prediction else event.inputs or {}
        # Masked again: what the cleaning brings to light was hidden from those before.
        masked = self._masker.mask_inputs(clean(raw))
        inputs = self._task.parse_inputs(masked, max_chars=self._settings.max_text_chars)
        target = event.target
        if target is None and event.kind == FeedbackKind.CONFIRM and prediction:
            target = self._task.target_of(prediction.output)
        identity = example_id(self._key, model=event.model, task=self._task.name, inputs=inputs)
        return _Claim(joined=item, inputs=inputs, target=self._task.parse_target(target), identity=identity, draw=draw)

    def _score(self, claims: Sequence[_Claim]) -> list[_Scored]:
        probabilities = self._live.probabilities([claim.inputs for claim in claims])
        if probabilities is None:
            return [_Scored(probability=None, score=1.0, reason="no live model yet") for _ in claims]
        seeds: NDArray[np.uint64] = np.array([int(claim.identity[:15], 16) for claim in claims], dtype=np.uint64)
        scores = self._score_by(probabilities, seeds=seeds)
        column = {label: index for index, label in enumerate(self._live.labels)}
        found = []
        for row, claim in enumerate(claims):
            known = claim.target in column
            probability = float(probabilities[row, column[claim.target]]) if known else None
            reason = f"{self._settings.selection} {scores[row]:.3f} by {self._live.version}"
            found.append(_Scored(probability=probability, score=float(scores[row]), reason=reason))
        return found

    def _settle(self, store: StoreTransaction, claim: _Claim, scored: _Scored, counts: dict[str, int]) -> Outcome:
        """One claim to one outcome; ``counts`` (examples by label) is kept up to date."""
        settings, event = self._settings, claim.event
        known_label = claim.target in counts or claim.target in self._live.labels
        if not known_label and settings.closed_labels:
            return self._outcome(
                claim.joined, OutcomeStatus.REJECTED, f"unknown label {claim.target!r}, and labels are closed"
            )
        if not known_label and len({*counts, *self._live.labels}) >= settings.max_labels:
            return self._outcome(
                claim.joined, OutcomeStatus.REJECTED, f"there are {settings.max_labels} labels already"
            )
        stored = store.example(claim.identity)
        if stored and stored[0].target == claim.target and _strength(event) <= _strength_of(stored[0]):
            store.add_source(stored[0], event.feedback_id)
            if _strength(event) == _strength_of(stored[0]):
                store.renew_target(stored[0], target_at=event.at, target_by=event.feedback_id)
            reason = "the same text with the same target is known"
            return self._outcome(claim.joined, OutcomeStatus.DUPLICATE, reason, claim.identity)
        belief = believe(
            event,
            store,
            example_id=claim.identity,
            target=claim.target,
            known_label=known_label,
            probability=scored.probability,
            threshold=settings.trust_threshold,
        )
        if not belief.believed:
            store.add_quarantined(event, example_id=claim.identity)
            return self._outcome(claim.joined, OutcomeStatus.QUARANTINED, belief.reason, claim.identity)
        if stored:
            return self._revise(store, claim, scored, belief, stored)
        example = self._new_example(claim, scored, belief, label_count=store.trained_count(claim.target))
        store.put_example(example, target_at=event.at, target_by=event.feedback_id)
        counts[claim.target] = counts.get(claim.target, 0) + 1
        use = "selected" if example.selected else "kept, but not worth training on as new"
        if example.split != Split.TRAIN:
            use = "held out to judge by" if example.split == Split.HOLDOUT else "held out for tuning"
        return self._outcome(
            claim.joined, OutcomeStatus.ACCEPTED, f"{use}: {scored.reason}; {belief.reason}", claim.identity
        )

    def _revise(
        self,
        store: StoreTransaction,
        claim: _Claim,
        scored: _Scored,
        belief: Belief,
        stored: tuple[Example, datetime, str],
    ) -> Outcome:
        """The input is known: a person's word holds against an app's signal, a trusted one against another, a later one last.

        So it is in whatever order they came, and an anonymous word never moves a label that the holdout judges by.
        """
        event, (example, target_at, target_by) = claim.event, stored
        said = (_strength(event), belief.trust, event.at, event.feedback_id)
        if said <= (_strength_of(example), example.trust, target_at, target_by):
            store.add_source(example, event.feedback_id)
            reason = "a stronger or later word on the same text holds"
            return self._outcome(claim.joined, OutcomeStatus.ACCEPTED, reason, claim.identity)
        is_echo = example.target == claim.target and not _is_implicit(example)
        revised = example.model_copy(
            update={
                "target": claim.target,
                "origin": example.origin if _is_fair(example) or is_echo else _ORIGINS[event.kind],
                "selected": self._is_selected(event, scored) or (is_echo and example.selected),
                "trust": belief.trust,
                "weight": self._weight(event),
                "selection_score": scored.score,
                "selection_reason": scored.reason,
                "sources": sorted({*example.sources, *belief.seconded, event.feedback_id}),
            }
        )
        store.put_example(revised, target_at=event.at, target_by=event.feedback_id)
        change = "confirms a weaker word" if example.target == claim.target else f"replaces {example.target!r}"
        reason = f"{change} on the same text; {belief.reason}"
        return self._outcome(claim.joined, OutcomeStatus.ACCEPTED, reason, claim.identity)

    def _new_example(self, claim: _Claim, scored: _Scored, belief: Belief, *, label_count: int) -> Example:
        settings, event = self._settings, claim.event
        origin = self._origin(claim)
        split = split_of(
            claim.identity,
            label_count=label_count,
            holdout=settings.holdout_share,
            validation=settings.validation_share,
        )
        return Example(
            model=event.model,
            example_id=claim.identity,
            seq=0,
            task=self._task.name,
            inputs=claim.inputs,
            target=claim.target,
            origin=origin,
            # An audit is a random draw, and judges; trained on, it would be neither.
            split=Split.HOLDOUT if origin == Origin.AUDIT else split,
            selected=self._is_selected(event, scored),
            sampling_probability=claim.draw,
            weight=self._weight(event),
            trust=belief.trust,
            selection_score=scored.score,
            selection_reason=scored.reason,
            sources=sorted({*belief.seconded, event.feedback_id}),
        )

    def _origin(self, claim: _Claim) -> Origin:
        """An answer that was asked for on a randomly drawn prediction is an audit; volunteered ones are biased."""
        return _ORIGINS[claim.event.kind] if claim.draw is None else Origin.AUDIT

    def _is_selected(self, event: Feedback, scored: _Scored) -> bool:
        return event.kind == FeedbackKind.CORRECT or scored.score >= self._settings.selection_min_score

    def _weight(self, event: Feedback) -> float:
        return self._settings.implicit_weight if event.kind == FeedbackKind.IMPLICIT else 1.0

    @staticmethod
    def _outcome(item: Joined, status: OutcomeStatus, reason: str, identity: str | None = None) -> Outcome:
        return Outcome(
            model=item.feedback.model,
            feedback_id=item.feedback.feedback_id,
            prediction_id=item.feedback.prediction_id,
            example_id=identity,
            status=status,
            reason=reason,
        )
