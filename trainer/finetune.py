"""One fine-tuning run of encoder and head, on a GPU where there is one, through ``transformers.Trainer``."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from core.cores import usable_cores
from core.settings import Settings
from trainer.classifier import Classifier
from trainer.methods import ContinualMethod
from trainer.objectives import Objective
from trainer.objectives.base import Batch, Row

Progress = Callable[[int, int], None]
"""Told how many steps are done, of how many; may raise to stop the run."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The hyperparameters of a run."""

    epochs: int
    learning_rate: float
    batch_size: int
    seed: int

    @classmethod
    def of(cls, settings: Settings) -> "Recipe":
        """What the settings say."""
        return cls(
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            seed=settings.seed,
        )


class _Rows(Dataset[Row]):
    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._rows[index]


class _Trainer(Trainer):
    """The library's trainer with the task's loss and the method's penalty."""

    def __init__(
        self, *args: Any, objective: Objective, method: ContinualMethod, parent: Classifier, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._objective = objective
        self._method = method
        self._parent = parent

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The loss of one step; ``return_outputs`` is never asked for, since nothing is evaluated in here."""
        loss = self._objective.loss(model, inputs)
        penalty = self._method.penalty(model, self._parent)
        return loss if penalty is None else loss + penalty


class _Report(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._progress(state.global_step, state.max_steps)


def finetune(
    model: Classifier,
    rows: Sequence[Row],
    *,
    parent: Classifier,
    pad: int,
    objective: Objective,
    method: ContinualMethod,
    recipe: Recipe,
    progress: Progress,
) -> None:
    """Train ``model`` in place on the rows; on return it is on the CPU again, in evaluation mode.

    ``progress`` is called after every step, and whatever it raises ends the run.
    """
    with tempfile.TemporaryDirectory(prefix="ratchet-train-") as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=recipe.epochs,
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=max(1, len(rows) * recipe.epochs // recipe.batch_size // 10),
            weight_decay=0.01,
            seed=recipe.seed,
            data_seed=recipe.seed,
            bf16=_has_fast_bf16(),
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
        )
        device = arguments.device
        trainer = _Trainer(
            model=model,
            args=arguments,
            train_dataset=_Rows(rows),
            data_collator=lambda batch: objective.collate(batch, pad=pad),
            callbacks=[_Report(progress)],
            objective=objective,
            method=method,
            parent=parent.to(device),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.to("cpu").eval()
    parent.to("cpu")


def limit_threads(threads: int) -> None:
    """Let torch use so many CPU threads (0: all cores)."""
    torch.set_num_threads(threads or usable_cores())


def _has_fast_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
