"""How much a word on a text weighs, and which label a stronger or later word rejects."""

from core.events import Example, Feedback, FeedbackKind, Origin
from core.examples import ExampleBatch


def strength(event: Feedback) -> tuple[bool, bool]:
    """A person's word above an app's signal, then a trusted one above a stranger's; their time counts among equals."""
    return event.kind != FeedbackKind.IMPLICIT, event.trusted


def strength_of(example: Example) -> tuple[bool, bool]:
    """The strength of the word that set an example's target."""
    return not is_implicit(example), example.trust == 1.0


def is_implicit(example: Example) -> bool:
    """True where only an app's signal, or the model itself, says what the target is."""
    return example.origin in (Origin.IMPLICIT, Origin.PSEUDO_LABEL)


def weigh_rejections(batch: ExampleBatch) -> None:
    """Note of the batch's examples whether their target is rejected: by a word with more trust, or a later one of as much.

    A stranger's rejection outweighs an app's signal and no believed word. The target is a complementary label then, see Ishida
    et al., "Learning from Complementary Labels", NeurIPS 2017, arXiv 1705.07541; here it only takes the example out.
    """
    for rejection in batch.rejections():
        stored = batch.example(rejection.example_id)
        if stored is None:
            continue
        example, target_at, target_by = stored
        said = ((True, rejection.trusted), float(rejection.trusted), rejection.at, rejection.feedback_id)
        holds = said > (strength_of(example), example.trust, target_at, target_by)
        is_rejected = holds and rejection.target == example.target
        batch.rejected[example.example_id] = is_rejected or batch.rejected.get(example.example_id, False)
