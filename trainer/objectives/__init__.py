"""The torch half of each task kind: from examples to tensors, and the loss."""

from core.settings import entry
from trainer.objectives.base import Objective
from trainer.objectives.text_classification import TextClassificationObjective

OBJECTIVES: dict[str, Objective] = {objective.task: objective for objective in (TextClassificationObjective(),)}


def get_objective(task: str) -> Objective:
    """The objective of that task.

    Raises:
        BadSettings: the task cannot be trained.
    """
    return entry(OBJECTIVES, task, "objective for task")


__all__ = ["OBJECTIVES", "Objective", "get_objective"]
