"""Whom to believe: a trusted key at once; anybody else if the model finds it possible or a second source says the same."""

from dataclasses import dataclass
from typing import Final

from core.events import Feedback
from core.examples import ExampleBatch

_RELEASED_BY: Final = "it waits until another source or a trusted key"


@dataclass(frozen=True, kw_only=True)
class Belief:
    """The decision on one claim, as it is recorded."""

    believed: bool
    #: 0 to 1: how far the claim is trusted
    trust: float
    reason: str
    #: other feedback that said the same and was not believed alone
    seconded: list[str]


def believe(
    event: Feedback,
    store: ExampleBatch,
    *,
    example_id: str,
    target: str,
    known_label: bool,
    probability: float | None,
    threshold: float,
) -> Belief:
    """Decide on a claim that an input has a target.

    Args:
        event: who claims it.
        store: what others have claimed.
        example_id: the input.
        target: the claimed target.
        known_label: False for a label that neither the live model nor the store has.
        probability: what the live model gives the target; None where it does not know it.
        threshold: the least probability that a lone untrusted source is believed at.
    """
    if event.trusted:
        # An operator who says the same confirms those who waited.
        waited = sorted(store.quarantined(target=target, example_id=example_id))
        return Belief(believed=True, trust=1.0, reason="trusted key", seconded=waited)
    # A new label needs a second source for the label, a known one for this very input.
    claims = store.quarantined(target=target, example_id=example_id if known_label else None)
    seconds = sorted(feedback_id for feedback_id, annotator in claims.items() if annotator != event.annotator)
    if seconds:
        return Belief(believed=True, trust=0.8, reason="second source", seconded=seconds if known_label else [])
    if not known_label:
        return Belief(
            believed=False,
            trust=0.0,
            reason=f"new label from one untrusted source: {_RELEASED_BY} uses it",
            seconded=[],
        )
    if probability is None:
        reason = f"a label that the live model cannot judge yet: {_RELEASED_BY} says the same of this text"
        return Belief(believed=False, trust=0.0, reason=reason, seconded=[])
    if probability < threshold:
        reason = f"contradicts a confident model: {_RELEASED_BY} says the same of this text"
        return Belief(believed=False, trust=probability, reason=reason, seconded=[])
    return Belief(believed=True, trust=0.6, reason="plausible to the model", seconded=[])
