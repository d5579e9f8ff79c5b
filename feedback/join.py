"""Feedback meets the prediction it speaks of, in whatever order the two come, and however often."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from core.events import Command, Event, Feedback, Outcome, OutcomeStatus, Prediction, now
from core.examples import StoreTransaction


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Feedback with the prediction it speaks of; None where it brought its own inputs."""

    feedback: Feedback
    prediction: Prediction | None


@dataclass(kw_only=True)
class Batch:
    """Events of one poll, by kind, in the order they came."""

    predictions: list[Prediction] = field(default_factory=list)
    feedback: list[Feedback] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)

    @classmethod
    def of(cls, events: Iterable[Event], *, model: str) -> "Batch":
        """Sort events; those of other models are somebody else's."""
        batch = cls()
        for event in events:
            if event.model != model:
                continue
            if isinstance(event, Prediction):
                batch.predictions.append(event)
            elif isinstance(event, Feedback):
                batch.feedback.append(event)
            elif isinstance(event, Command):
                batch.commands.append(event)
        return batch


def join(store: StoreTransaction, batch: Batch) -> list[Joined]:
    """Keep the predictions, and return all feedback that is complete now, in the order it came; the rest waits.

    Feedback that has an outcome or waits already was delivered before and is dropped.
    """
    store.add_predictions(batch.predictions)
    settled = store.settled(event.feedback_id for event in batch.feedback)
    fresh: dict[str, Feedback] = {}
    for event in batch.feedback:
        if event.feedback_id not in settled:
            fresh.setdefault(event.feedback_id, event)
    early = store.take_pending(event.prediction_id for event in batch.predictions)
    complete = [*early, *fresh.values()]
    predictions = store.predictions(event.prediction_id for event in complete if event.prediction_id)
    joined = []
    for event in complete:
        prediction = predictions.get(event.prediction_id or "")
        if prediction is None and event.inputs is None:
            store.add_pending(event)
        else:
            joined.append(Joined(feedback=event, prediction=prediction if event.inputs is None else None))
    return joined


def give_up_on(store: StoreTransaction, event: Event, *, model: str, reason: str) -> Sequence[Outcome]:
    """Settle the feedback that an event holds, or that has waited for it, where the event cannot be processed."""
    batch = Batch.of([event], model=model)
    lost = [*batch.feedback, *store.take_pending(prediction.prediction_id for prediction in batch.predictions)]
    outcomes = [
        Outcome(
            model=model,
            feedback_id=event.feedback_id,
            prediction_id=event.prediction_id,
            status=OutcomeStatus.REJECTED,
            reason=f"it could not be processed: {reason}",
        )
        for event in lost
    ]
    store.add_outcome(*outcomes)
    return outcomes


def give_up(store: StoreTransaction, *, timeout_s: float) -> Sequence[Outcome]:
    """Settle feedback whose prediction has not come in time."""
    outcomes = [
        Outcome(
            model=event.model,
            feedback_id=event.feedback_id,
            prediction_id=event.prediction_id,
            status=OutcomeStatus.UNMATCHED,
            reason=f"no prediction of this id came within {timeout_s:g} s",
        )
        for event in store.take_expired(before=now() - timedelta(seconds=timeout_s))
    ]
    store.add_outcome(*outcomes)
    return outcomes
