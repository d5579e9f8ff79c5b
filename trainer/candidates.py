"""The models that a run makes: a head refitted on the encoder as it is, and encoder and head fine-tuned from the live model."""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from core.bundle import TOKENIZER, Lane, Manifest, ModelBundle
from core.events import Example
from core.settings import Settings
from core.tasks import get_task
from trainer.classifier import Classifier, save_base_tokenizer
from trainer.finetune import Recipe, finetune
from trainer.head import fit_head
from trainer.methods import Budget, get_method
from trainer.objectives import get_objective
from trainer.replay import class_balanced
from trainer.training_set import ExamplePool

Report = Callable[[str, int, int], None]
"""Told the phase, the steps done and the steps in all; raises to stop the run."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained network with what its manifest will say of it."""

    model: Classifier
    labels: list[str]
    lane: Lane
    method: str
    replayed: int
    encoder_through_seq: int


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run starts from: the network, its tokenizer, and the labels that it knows."""

    model: Classifier
    tokenizer: Tokenizer
    pad: int
    parent: Manifest | None

    @classmethod
    def load(cls, parent: ModelBundle | None, settings: Settings, scratch: Path) -> "Start":
        """From the live version, or from the base model where there is none. Raises CorruptBundle, or BadSettings."""
        if parent is None:
            path, length = scratch / TOKENIZER, settings.max_tokens
            save_base_tokenizer(settings.base_model, path)
            model = Classifier.from_base(settings.base_model, labels=1)
        else:
            path, length = parent.path(TOKENIZER), parent.manifest.max_tokens
            model = Classifier.from_bundle(parent)
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=length)
        pad = tokenizer.token_to_id("[PAD]") or 0
        return cls(model=model, tokenizer=tokenizer, pad=pad, parent=parent.manifest if parent else None)


class Candidates:
    """Makes the candidates of one run, one after the other; the gate decides which is best."""

    def __init__(self, start: Start, pool: ExamplePool, settings: Settings, report: Report) -> None:
        self._start = start
        self._pool = pool
        self._settings = settings
        self._report = report
        self._task = get_task(settings.task)
        self._objective = get_objective(settings.task)
        self.labels = pool.labels(start.parent.labels if start.parent else ())

    def make(self) -> Iterator[Candidate]:
        """The first model's head alone; later the fine-tuned challenger, and behind it the head on the live encoder."""
        parent = self._start.parent
        live = self._start.model
        self._refit_head(live)
        if parent is None:
            yield self._candidate(live, Lane.SEED, "logistic_head", replayed=0, encoder_through_seq=0)
            return
        yield self._finetuned(live)
        if self._pool.through_seq > parent.training_set.through_seq:
            through = parent.training_set.encoder_through_seq
            yield self._candidate(live, Lane.HEAD, "logistic_head", replayed=0, encoder_through_seq=through)

    def _finetuned(self, live: Classifier) -> Candidate:
        settings, pool = self._settings, self._pool
        rng = random.Random(settings.seed)  # noqa: S311  # reproducible sampling, not secrets
        method = get_method(settings.method)
        new = class_balanced(pool.new, settings.run_examples, rng)
        budget = Budget(ratio=settings.replay_ratio, minimum=settings.replay_minimum)
        old = method.choose(new, pool.old, budget=budget, rng=rng)
        chosen = new + old
        rows = [
            self._objective.row(example, ids, self.labels)
            for example, ids in zip(chosen, self._tokenize(chosen), strict=True)
        ]
        model = copy.deepcopy(live)
        finetune(
            model,
            rows,
            parent=live,
            pad=self._start.pad,
            objective=self._objective,
            method=method,
            recipe=Recipe.of(settings),
            progress=lambda done, total: self._report("fine-tuning", done, total),
        )
        method.consolidate(model, live)
        self._refit_head(model)
        return self._candidate(
            model, Lane.FINETUNE, method.name, replayed=len(old), encoder_through_seq=pool.through_seq
        )

    def _refit_head(self, model: Classifier) -> None:
        """Fit the head exactly, on all that may be trained on.

        Before fine-tuning this is LP-FT: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
        Out-of-Distribution", ICLR 2022, arXiv 2202.10054.
        """
        examples = self._pool.train
        self._report("fitting the head", 0, 1)
        embeddings = model.embed(self._tokenize(examples), pad=self._start.pad)
        weight, bias = fit_head(
            embeddings,
            [str(example.target) for example in examples],
            self.labels,
            weights=[example.weight for example in examples],
        )
        model.set_head(weight, bias)
        self._report("fitting the head", 1, 1)

    def _tokenize(self, examples: Sequence[Example]) -> list[list[int]]:
        texts = [self._task.text_of(example.inputs) for example in examples]
        return [encoding.ids for encoding in self._start.tokenizer.encode_batch_fast(texts)]

    def _candidate(
        self, model: Classifier, lane: Lane, method: str, *, replayed: int, encoder_through_seq: int
    ) -> Candidate:
        return Candidate(
            model=model,
            labels=self.labels,
            lane=lane,
            method=method,
            replayed=replayed,
            encoder_through_seq=encoder_through_seq,
        )
