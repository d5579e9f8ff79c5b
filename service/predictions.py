"""From answers of the model to the records that are kept and the objects that are shown, the same for every interface."""

from collections.abc import Sequence

from core.events import Inputs, Prediction, new_id
from service.auth import Caller
from service.batcher import Answer
from service.program import Program
from service.recorder import is_audit


def make_predictions(
    program: Program, inputs: Sequence[Inputs], answers: Sequence[Answer], caller: Caller
) -> list[Prediction]:
    """A record for each answer, in order, with an id of its own; whoever shows them puts them into the recorder.

    The inputs are masked here, so that no interface can forget it, and nothing waits for the log that may not be in it.
    """
    return [_prediction(program, item, answer, caller) for item, answer in zip(inputs, answers, strict=True)]


def _prediction(program: Program, inputs: Inputs, answer: Answer, caller: Caller) -> Prediction:
    prediction_id = new_id()
    rate = program.settings.audit_rate
    return Prediction(
        model=program.settings.model,
        prediction_id=prediction_id,
        model_version=answer.version,
        task=program.task.name,
        inputs=program.masker.mask_inputs(inputs),
        output=answer.output,
        confidence=answer.confidence,
        truncated=answer.truncated,
        api_key_id=caller.id,
        audit_probability=rate if is_audit(prediction_id, rate) else None,
    )


def show_prediction(made: Prediction) -> dict[str, object]:
    """What the caller gets of a record."""
    return {
        "prediction_id": made.prediction_id,
        "model_version": made.model_version,
        **made.output,
        "truncated": made.truncated,
        "audit": made.audit_probability is not None,
    }
