"""The models that a run makes: a head refitted on the encoder as it is, and encoder and head fine-tuned from the live model."""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from core.bundle import TOKENIZER, Lane, Manifest, ModelBundle
from core.events import Example
from core.head import LinearHead
from core.runtime import Servable
from core.settings import Settings
from core.tasks import get_task
from trainer.classifier import Classifier, save_base_tokenizer
from trainer.finetune import Recipe, finetune
from trainer.head import fit_head_of
from trainer.methods import Budget, get_method
from trainer.objectives import get_objective
from trainer.run_selection import choose_new
from trainer.training_set import ExamplePool

Report = Callable[[str, int, int], None]
"""Told the phase, the steps done and the steps in all; raises to stop the run."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a run has trained, with what its manifest will say of it: a network or, on the parent's graph, a head."""

    #: the network to export; None: the parent's graph and weights as they are
    model: Classifier | None
    #: fitted on the embeddings of the parent's graph; None: to be fitted on the graph that will be served
    head: LinearHead | None
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
    #: the parent as it is served; None where there is none
    servable: Servable | None

    @classmethod
    def load(
        cls, parent: ModelBundle | None, settings: Settings, scratch: Path, *, servable: Servable | None = None
    ) -> "Start":
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
        manifest = parent.manifest if parent else None
        return cls(model=model, tokenizer=tokenizer, pad=pad, parent=manifest, servable=servable)


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
        """The first model's head alone; later the fine-tuned challenger, and behind it the head on the live encoder.

        The network's head is fitted first. Before fine-tuning this is LP-FT: Kumar et al., "Fine-Tuning can Distort
        Pretrained Features and Underperform Out-of-Distribution", ICLR 2022, arXiv 2202.10054.
        """
        parent = self._start.parent
        live = self._start.model
        head = self._fit_head()
        live.set_head(head)
        if parent is None:
            yield self._candidate(live, None, Lane.SEED, "logistic_head", replayed=0, encoder_through_seq=0)
            return
        yield self._finetuned(live)
        if self._pool.through_seq > parent.training_set.through_seq:
            through = parent.training_set.encoder_through_seq
            yield self._candidate(None, head, Lane.HEAD, "logistic_head", replayed=0, encoder_through_seq=through)

    def _finetuned(self, live: Classifier) -> Candidate:
        settings, pool = self._settings, self._pool
        rng = random.Random(settings.seed)  # noqa: S311  # reproducible sampling, not secrets
        method = get_method(settings.method)
        new = choose_new(pool.new, self.labels, settings, servable=self._start.servable, rng=rng)
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
        return self._candidate(
            model, None, Lane.FINETUNE, method.name, replayed=len(old), encoder_through_seq=pool.through_seq
        )

    def _fit_head(self) -> LinearHead:
        """Fit a head exactly, on all that may be trained on, as the live graph sees it."""
        examples, start = self._pool.train, self._start
        self._report("fitting the head", 0, 1)
        if start.servable is not None:
            _, embeddings = start.servable.infer([example.inputs for example in examples])
        else:
            embeddings = start.model.embed(self._tokenize(examples), pad=start.pad)
        head = fit_head_of(examples, embeddings, self.labels)
        self._report("fitting the head", 1, 1)
        return head

    def _tokenize(self, examples: Sequence[Example]) -> list[list[int]]:
        texts = [self._task.text_of(example.inputs) for example in examples]
        return [encoding.ids for encoding in self._start.tokenizer.encode_batch_fast(texts)]

    def _candidate(
        self,
        model: Classifier | None,
        head: LinearHead | None,
        lane: Lane,
        method: str,
        *,
        replayed: int,
        encoder_through_seq: int,
    ) -> Candidate:
        return Candidate(
            model=model,
            head=head,
            labels=self.labels,
            lane=lane,
            method=method,
            replayed=replayed,
            encoder_through_seq=encoder_through_seq,
        )
