"""The numpy half of each task kind: inputs in, arrays through, answers and scores out. The torch half is in the trainer."""

from core.settings import entry
from core.tasks.base import Task
from core.tasks.text_classification import TextClassification

TASKS: dict[str, Task] = {task.name: task for task in (TextClassification(),)}


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        BadSettings: no such task.
    """
    return entry(TASKS, name, "task")


__all__ = ["TASKS", "Task", "get_task"]
