"""From joined feedback to an outcome, and to an Example where it is worth one: clean, identify, believe, score, store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import BadRecord
from core.events import Example, Feedback, FeedbackKind, Inputs, Origin, Outcome, OutcomeStatus, Split
from core.examples import ExampleBatch, ExampleStore, Rank, Rejection, Stored, StoreTransaction, split_of
from core.masking import Masker
from core.selection import get_score
from core.settings import Settings
from core.tasks import get_task
from feedback.answers import draws_of, members_of, note_answers
from feedback.join import Joined
from feedback.live import LiveModel
from feedback.near import NearDuplicates
from feedback.near.duplicates import rank_of
from feedback.reading import InputsReader
from feedback.trust import Belief, believe
from feedback.words import is_implicit, strength, strength_of, weigh_rejections

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


def _is_fair(example: Example, store: ExampleBatch) -> bool:
    """Drawn by chance to judge: what the holdout's estimates rest on, whoever corrects its target."""
    drew = store.drawn.get(example.example_id)
    return example.origin == Origin.AUDIT or (example.origin == Origin.SEED and drew == Split.HOLDOUT)


class Assessor:
    """Settles feedback: every one gets exactly one outcome."""

    def __init__(self, settings: Settings, live: LiveModel, key: bytes) -> None:
        """Raises BadSettings for an unknown task or strategy, or for what cannot mask."""
        self._settings = settings
        self._live = live
        self._task = get_task(settings.task)
        self._masker = Masker.of(settings.masking_policy)
        self._reader = InputsReader(settings, key)
        self._score_by = get_score(settings.selection)
        self._near = NearDuplicates(key, model=settings.model, copies=settings.near_copies)

    def catch_up(self, store: ExampleStore) -> bool:
        """Place some examples that an older Ratchet stored, which knew no near-duplicates; False when there are none left."""
        return self._near.catch_up(store) > 0

    def assess(self, store: StoreTransaction, joined: Sequence[Joined]) -> list[Outcome]:
        """Settle feedback, in order; outcomes and examples are written into the transaction."""
        members = members_of(store, joined)
        draws = draws_of(joined, members)
        said, refused = self._claims(joined, draws)
        note_answers(store, self._task, [claim.joined for claim in said], members=members, draws=draws)
        claims = [claim for claim in said if claim.event.kind != FeedbackKind.REJECT]
        batch = ExampleBatch(
            store, example_ids=[claim.identity for claim in said], targets=[claim.target for claim in claims]
        )
        settled, created = [], set()
        for claim, scored in zip(claims, self._score(claims), strict=True):
            was_there = batch.example(claim.identity) is not None
            settled.append(self._settle(batch, claim, scored))
            if not was_there and batch.example(claim.identity) is not None:
                created.add(claim.event.feedback_id)
        rejections = [self._reject(batch, claim) for claim in said if claim.event.kind == FeedbackKind.REJECT]
        weigh_rejections(batch)
        self._near.place(store, batch)
        settled = [_with_use(item, batch) if item.feedback_id in created else item for item in settled]
        for outcome in settled:
            if outcome.prediction_id and outcome.status != OutcomeStatus.REJECTED:
                batch.mark_answered(outcome.prediction_id)
        outcomes = [*refused, *rejections, *settled]
        for outcome in outcomes:
            batch.add_outcome(outcome)
        batch.flush()
        return outcomes

    def _claims(self, joined: Sequence[Joined], draws: Mapping[str, float]) -> tuple[list[_Claim], list[Outcome]]:
        """Feedback that says what a target is or is not, and the outcomes of what cannot be read."""
        outcomes, claims = [], []
        for item in joined:
            try:
                claims.append(self._claim(item, draws.get(item.feedback.feedback_id)))
            except BadRecord as error:
                outcomes.append(self._outcome(item, OutcomeStatus.REJECTED, self._masker.mask(str(error))))
        return claims, outcomes

    def _claim(self, item: Joined, draw: float | None) -> _Claim:
        """Clean, mask and check. Raises InvalidInput, or InvalidTarget."""
        event, prediction = item.feedback, item.prediction
        inputs, identity = self._reader.read(prediction.inputs if prediction else event.inputs or {})
        target = event.target
        if target is None and event.kind in (FeedbackKind.CONFIRM, FeedbackKind.REJECT) and prediction:
            target = self._task.target_of(prediction.output)
        return _Claim(joined=item, inputs=inputs, target=self._task.parse_target(target), identity=identity, draw=draw)

    def _reject(self, batch: ExampleBatch, claim: _Claim) -> Outcome:
        """Record that a prediction was wrong. It stays in the review queue, where somebody may know what is right."""
        event = claim.event
        batch.add_rejection(
            Rejection(
                feedback_id=event.feedback_id,
                prediction_id=event.prediction_id or "",
                example_id=claim.identity,
                target=claim.target,
                annotator=event.annotator,
                trusted=event.trusted,
                at=event.at,
            )
        )
        reason = "known to be wrong: the text is not trained on with this label, and what is right is asked in review"
        return self._outcome(claim.joined, OutcomeStatus.ACCEPTED, reason, claim.identity)

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

    def _settle(self, store: ExampleBatch, claim: _Claim, scored: _Scored) -> Outcome:
        """One claim to one outcome."""
        settings, event, counts = self._settings, claim.event, store.counts
        known_label = claim.target in counts or claim.target in self._live.labels
        if not known_label and settings.closed_labels:
            return self._outcome(
                claim.joined, OutcomeStatus.REJECTED, f"unknown label {claim.target!r}, and labels are closed"
            )
        if not known_label and len({*counts, *self._live.labels}) >= settings.max_labels:
            return self._outcome(
                claim.joined, OutcomeStatus.REJECTED, f"there are {settings.max_labels} labels already"
            )
        stored = self._audited(store, claim)
        if stored and stored[0].target == claim.target and strength(event) <= strength_of(stored[0]):
            store.add_source(stored[0], event.feedback_id)
            if strength(event) == strength_of(stored[0]):
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
        example = self._new_example(claim, scored, belief, self._draw(store, claim))
        store.put_example(example, target_at=event.at, target_by=event.feedback_id)
        store.draw(claim.identity, rank_of(example.origin, example.sources), example.split)
        reason = f"{scored.reason}; {belief.reason}"
        return self._outcome(claim.joined, OutcomeStatus.ACCEPTED, reason, claim.identity)

    def _audited(self, store: ExampleBatch, claim: _Claim) -> Stored | None:
        """The stored example; an audit of a text that only feedback brought makes an audit of it, whichever came first.

        A seed stays what it is: one that trains has trained the model that the audit would judge.
        """
        stored = store.example(claim.identity)
        if stored is None or self._origin(claim) != Origin.AUDIT:
            return stored
        example, target_at, target_by = stored
        if rank_of(example.origin, example.sources) == Rank.SEED:
            return stored
        chances = [example.sampling_probability, claim.draw]
        audit = {
            "origin": Origin.AUDIT,
            "split": Split.HOLDOUT,
            "split_reason": "",
            "sampling_probability": max(chance for chance in chances if chance is not None),
        }
        if is_implicit(example):
            audit["trust"] = 0.0  # an app's signal set its target, and a person's word holds against that
        if any(getattr(example, name) != value for name, value in audit.items()):
            store.put_example(example.model_copy(update=audit), target_at=target_at, target_by=target_by)
            store.draw(claim.identity, Rank.AUDIT, Split.HOLDOUT)
        return store.example(claim.identity)

    def _revise(
        self,
        store: ExampleBatch,
        claim: _Claim,
        scored: _Scored,
        belief: Belief,
        stored: Stored,
    ) -> Outcome:
        """The input is known: a person's word holds against an app's signal, a trusted one against another, a later one last.

        So it is in whatever order they came, and an anonymous word never moves a label that the holdout judges by.
        """
        event, (example, target_at, target_by) = claim.event, stored
        said = (strength(event), belief.trust, event.at, event.feedback_id)
        if said <= (strength_of(example), example.trust, target_at, target_by):
            store.add_source(example, event.feedback_id)
            reason = "a stronger or later word on the same text holds"
            return self._outcome(claim.joined, OutcomeStatus.ACCEPTED, reason, claim.identity)
        is_echo = example.target == claim.target and not is_implicit(example)
        revised = example.model_copy(
            update={
                "target": claim.target,
                "origin": example.origin if _is_fair(example, store) or is_echo else _ORIGINS[event.kind],
                "selected": self._is_selected(event, scored) or (is_echo and example.selected),
                "trust": belief.trust,
                "weight": self._weight(event),
                "selection_score": scored.score,
                "selection_reason": scored.reason,
                "sources": sorted({*example.sources, *belief.seconded, event.feedback_id}),
            }
        )
        store.put_example(revised, target_at=event.at, target_by=event.feedback_id)
        if rank_of(revised.origin, revised.sources) == Rank.FEEDBACK:
            store.draw(claim.identity, Rank.FEEDBACK, self._draw(store, claim))
        change = "confirms a weaker word" if example.target == claim.target else f"replaces {example.target!r}"
        reason = f"{change} on the same text; {belief.reason}"
        return self._outcome(claim.joined, OutcomeStatus.ACCEPTED, reason, claim.identity)

    def _draw(self, store: ExampleBatch, claim: _Claim) -> Split:
        """What a text draws by its id. A label that the seed lacks is learned from all that is said of it."""
        settings = self._settings
        if claim.target not in store.seeded:
            return Split.TRAIN
        return split_of(claim.identity, holdout=settings.holdout_share, validation=settings.validation_share)

    def _new_example(self, claim: _Claim, scored: _Scored, belief: Belief, split: Split) -> Example:
        event = claim.event
        origin = self._origin(claim)
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


def _with_use(outcome: Outcome, batch: ExampleBatch) -> Outcome:
    """The outcome of feedback that brought a new example, with what the example is used for."""
    stored = batch.example(outcome.example_id or "")
    if stored is None:
        return outcome
    example, use = stored[0], "selected"
    if example.split == Split.BARRED:
        use = f"kept aside: {example.split_reason}"
    elif example.split != Split.TRAIN:
        use = "held out to judge by" if example.split == Split.HOLDOUT else "held out for tuning"
    elif not example.selected:
        use = "kept, but not worth training on as new"
    return outcome.model_copy(update={"reason": f"{use}: {outcome.reason}"})
