"""Answers that were asked for: which tell of all predictions (drawn by lot), and what they said of the model."""

from collections.abc import Mapping, Sequence

from core.events import Feedback, FeedbackKind
from core.examples import StoreTransaction
from core.examples.review import ReviewAnswer
from core.tasks import Task
from feedback.join import Joined


def members_of(store: StoreTransaction, joined: Sequence[Joined]) -> dict[str, float | None]:
    """Of the predictions that somebody was asked about those in the review queue, with the probability of their draw."""
    return store.review.members(item.feedback.prediction_id or "" for item in joined if is_asked(item))


def draws_of(joined: Sequence[Joined], members: Mapping[str, float | None]) -> dict[str, float]:
    """The probability of the draw, by feedback id, for answers that tell of all predictions alike.

    Those were asked for, of a trusted source, about a prediction that a lot had drawn: the review queue's, or the service's
    for an audit. Volunteered answers are biased, and so are answers about predictions that a strategy chose.
    """
    asked = [item for item in joined if is_asked(item)]
    found = {}
    for item in asked:
        prediction = item.prediction
        if prediction is not None:
            draw = members.get(prediction.prediction_id, prediction.audit_probability)
            if draw is not None:
                found[item.feedback.feedback_id] = draw
    return found


def is_asked(item: Joined) -> bool:
    """True for the answer of a trusted person that was asked about this prediction."""
    event = item.feedback
    return event.asked and event.trusted and item.prediction is not None and event.kind != FeedbackKind.IMPLICIT


def note_answers(
    store: StoreTransaction,
    task: Task,
    joined: Sequence[Joined],
    *,
    members: Mapping[str, float | None],
    draws: Mapping[str, float],
) -> None:
    """Take what was answered off the review queue, and keep whether the model had been right where somebody was asked."""
    # A rejected one stays in the queue: somebody may know what is right.
    settled = [item for item in joined if item.feedback.kind != FeedbackKind.REJECT]
    answered = {item.feedback.prediction_id for item in settled if item.feedback.prediction_id}
    asked = [item for item in joined if is_asked(item)]
    if answered:
        store.review.answered(answered, asked=False)
        store.review.answered({item.feedback.prediction_id or "" for item in settled if is_asked(item)}, asked=True)
    store.review.add_answers(
        [
            ReviewAnswer(
                prediction_id=item.prediction.prediction_id,
                model_version=item.prediction.model_version,
                probability=draws.get(item.feedback.feedback_id),
                queued=item.prediction.prediction_id in members,
                correct=_was_right(task, item.feedback, item.prediction.output),
                at=item.feedback.at,
            )
            for item in asked
            if item.prediction is not None
        ]
    )


def _was_right(task: Task, event: Feedback, output: dict[str, object]) -> bool:
    if event.kind == FeedbackKind.CORRECT:
        return bool(task.parse_target(event.target) == task.target_of(output))
    return event.kind == FeedbackKind.CONFIRM
