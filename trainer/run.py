"""One training run, as a story: take the examples, make candidates, export, judge, promote what passes."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.bundle import Lane, ModelBundle
from core.errors import BundleError, PromotionsPaused, UnservableBundle, VerdictVoid
from core.events import now
from core.examples import ExampleStore
from core.logs import get_logger
from core.masking import Masker
from core.registry import Promotion, Registry, RunState, TrainingRun, Verdict, forget_cached
from core.runtime import Servable
from core.settings import Settings
from trainer import metrics
from trainer.building import Builder, load
from trainer.candidates import Candidate, Candidates, Report, Start
from trainer.classifier import training_files
from trainer.gate import Gate, Incumbents, Judgement
from trainer.lease import HeldLease
from trainer.training_set import ExamplePool, make_pool, mask_examples

_VERDICTS: Final = 3
"""How often a candidate is judged anew because the champion moved, before the run gives up."""
_KNOWN: Final = 500


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
        self._loaded: dict[str, Servable] = {}
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
        examples = mask_examples(self._workshop.store.examples(), Masker.of(settings.masking_policy))
        pool = make_pool(examples, after=after)
        start = Start.load(
            parent, settings, self._scratch, servable=self._servable(parent.manifest.version) if parent else None
        )
        builder = Builder(
            start, pool, settings, self._report_checked, run_id=self._record.run_id, scratch=self._scratch
        )
        proposals: list[_Proposal] = []
        unusable: list[str] = []
        candidates = Candidates(start, pool, settings, self._report_checked).make()
        while candidate := self._next(candidates):
            try:
                proposals.append(self._propose(builder, candidate, pool))
            except BundleError as error:  # the other candidate may be fine
                unusable.append(f"{candidate.lane}: {error}")
        if not proposals:
            raise UnservableBundle(unusable[0])
        for proposal in sorted(proposals, key=_Proposal.rank, reverse=True):
            promotion = self._promote(proposal, pool)
            if promotion is not None:
                self._tidy(promotion)
                return self._finished(RunState.PROMOTED, pool, proposal.servable.version, proposal.verdict.reasons)
        self._tidy(champion)
        reasons = [*unusable, *(reason for proposal in proposals for reason in proposal.reasons())]
        judged = not any(proposal.verdict.passed for proposal in proposals)
        return self._finished(RunState.REJECTED, pool, None, reasons).model_copy(update={"judged": judged})

    def _propose(self, builder: Builder, candidate: Candidate, pool: ExamplePool) -> "_Proposal":
        """Build a candidate, publish it, judge it. Raises BundleError where it cannot be served."""
        with _timed("export"):
            built = builder.build(candidate)
        with _timed("publish"):
            self._workshop.registry.publish(built.bundle)
        verdict = self._judge(built.servable, pool, built.parity)
        return _Proposal(servable=built.servable, parity=built.parity, verdict=verdict)

    def _next(self, candidates: Iterator[Candidate]) -> Candidate | None:
        with _timed("train"):
            return next(candidates, None)

    def _judge(self, servable: Servable, pool: ExamplePool, difference: float | None) -> Verdict:
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
        servable = self._servable(champion.version)
        best_version = self._best_so_far(champion.version)
        best = servable if best_version == champion.version else self._servable_or_none(best_version)
        return Incumbents(champion=servable, best=best or servable)

    def _best_so_far(self, champion: str) -> str:
        """The version that the champion was measured from, unless it has been declared bad since."""
        registry = self._workshop.registry
        verdict = registry.verdict(champion)
        best = str(verdict.evaluation.get("best", champion)) if verdict else champion
        return champion if best in registry.promotions.bad_versions() else best

    def _servable_or_none(self, version: str) -> Servable | None:
        try:
            return self._servable(version)
        except BundleError as error:
            get_logger().warning("best champion so far not loaded", version=version, reason=str(error))
            return None

    def _servable(self, version: str) -> Servable:
        """A version as it is served; loaded once in a run, whose candidates meet the same incumbents."""
        if version not in self._loaded:
            sharing = list(self._loaded.values())
            self._loaded[version] = load(self._fetch(version), self._workshop.settings, sharing=sharing)
        return self._loaded[version]

    def _fetch(self, version: str, *, training: bool = False) -> ModelBundle:
        manifest = self._workshop.registry.manifest(version)
        names = {*manifest.serving_files, *(training_files(manifest) if training else ())}
        return self._workshop.registry.fetch(version, self._workshop.cache, names=sorted(names))

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
    parity: float | None
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
