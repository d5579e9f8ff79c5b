"""Which form of a graph is served: each is made, timed on this machine and compared with fp32; the fastest that passes wins."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from core.bundle import MODEL, TOKENIZER, Artefact, Measured
from core.errors import UnservableBundle
from core.logs import get_logger
from core.runtime import Array, Encoded, Engine
from core.settings import Settings
from trainer.forms import AS_EXPORTED, FP16, INT8, INT8_NARROW, Form

_BATCH: Final = 16
_TOKENS: Final = 22
_ROUNDS: Final = 15
_FASTER: Final = 1.05
"""Throughput, in fp32's, that another form must have to be worth its rounding."""
_EQUAL: Final = 0.95
"""What is so near to the fastest counts as fast: of those the smallest file is taken, for it loads soonest."""
_ISA: Final = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Texts on which the forms are compared: holdout texts first, then others."""

    texts: list[str | tuple[str, str]]
    #: the number of the right label, for the leading holdout texts; -1 where the network does not know it
    targets: list[int]


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A form that loads, and what it answered."""

    form: Form
    path: Path
    engine: Engine
    load_seconds: float
    #: of each text by itself, and of the texts in batches at random; the same in fp32
    alone: Array
    among: Array


class ArtefactChooser:
    """Makes, measures and compares the forms of one exported graph, in a folder for scratch files."""

    def __init__(self, directory: Path, sample: Sample, settings: Settings, *, max_tokens: int) -> None:
        """Prepare.

        Args:
            directory: holds the exported fp32 graph and the tokenizer under their names in a bundle.
            sample: at least one text.
            settings: ``precision``, ``device``, ``gate_agreement``, ``gate_margin``.
            max_tokens: where texts are cut.
        """
        self._directory = directory
        self._sample = sample
        self._settings = settings
        self._max_tokens = max_tokens
        self._unusable: list[str] = []
        self.fp32, self._load_seconds = self._load(directory / MODEL)

    def choose(self, progress: Callable[[], None]) -> Artefact:
        """Replace the directory's graph by the form that is to be served. ``progress`` is told now and then; may raise."""
        exported = self._directory / MODEL
        trials = [self._try(AS_EXPORTED, exported, self.fp32, self._load_seconds)]
        for form in self._wanted():
            progress()
            trials += self._made(form)
        if len(trials) > 1 and not any(self._is_close(trial, trials[0]) for trial in trials[1:]) and self._on_cpu:
            trials += self._made(INT8_NARROW)
        progress()
        measured = self._measure(trials)
        chosen, reason = decide(measured, self._settings, texts=len(self._sample.texts), unusable=self._unusable)
        for trial, found in zip(trials, measured, strict=True):
            if found is chosen and trial.path != exported:
                trial.path.replace(exported)
            elif trial.path != exported:
                trial.path.unlink()
        get_logger().info("artefact chosen", precision=chosen.precision, variant=chosen.variant, reason=reason)
        return Artefact(
            precision=chosen.precision,
            variant=chosen.variant,
            reason=reason,
            agreement=chosen.agreement,
            provider=self.fp32.provider,
            machine=machine(),
            texts=len(self._sample.texts),
            measured=measured,
        )

    @property
    def _on_cpu(self) -> bool:
        return self.fp32.provider == "CPUExecutionProvider"

    def _wanted(self) -> Sequence[Form]:
        if self._settings.precision == "fp32":
            return ()
        if self._settings.precision == "int8" or self._on_cpu:
            return INT8
        return (FP16,)  # ONNX Runtime really runs on a GPU

    def _load(self, path: Path) -> tuple[Engine, float]:
        """With one thread, as a lane of the service runs it; and the seconds that it took."""
        tokenizer, device = self._directory / TOKENIZER, self._settings.device
        started = time.perf_counter()
        engine = Engine.load(path, tokenizer, max_tokens=self._max_tokens, threads=1, device=device)
        return engine, time.perf_counter() - started

    def _made(self, form: Form) -> list[_Trial]:
        """The form as a trial; none where it cannot be made, or does not work."""
        path = self._directory / f"trial-{form.precision}-{len(list(self._directory.iterdir()))}.onnx"
        try:
            form.make(self._directory / MODEL, path)
            return [self._try(form, path, *self._load(path))]
        except Exception as error:  # the converters raise whatever they like; fp32 is always there
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            self._unusable.append(f"{form.name} does not work: {reason}")
            get_logger().warning("a form of the graph does not work", form=form.name, reason=reason)
            path.unlink(missing_ok=True)
            return []

    def _try(self, form: Form, path: Path, engine: Engine, seconds: float) -> _Trial:
        encoded = engine.tokenize(self._sample.texts)
        if form is AS_EXPORTED:
            (among,) = engine.run_all(encoded, ["logits"])
            alone = among
        else:
            (alone,) = engine.run_all(encoded, ["logits"], batch_size=1)
            among = _in_company(engine, encoded)
        if not (np.isfinite(among).all() and np.isfinite(alone).all()):
            raise UnservableBundle("it gives values that are not finite")
        return _Trial(form=form, path=path, engine=engine, load_seconds=seconds, alone=alone, among=among)

    def _is_close(self, trial: _Trial, fp32: _Trial) -> bool:
        return _agreement(trial, fp32) >= self._settings.gate_agreement

    def _measure(self, trials: Sequence[_Trial]) -> list[Measured]:
        batch = _typical_batch(trials[0].engine.tokenize(self._sample.texts))
        many, one = _times(trials, batch), _times(trials, batch[:1])
        return [
            Measured(
                precision=trial.form.precision,
                variant=trial.form.variant,
                throughput=round(many[0] / seconds, 3),
                latency_ms=round(1000 * alone, 3),
                agreement=round(_agreement(trial, trials[0]), 4),
                stability=round(_same(trial.alone, trial.among), 4),
                logit_difference=round(_largest_difference(trial, trials[0]), 4),
                accuracy=_accuracy(trial.among, self._sample.targets),
                size=trial.path.stat().st_size,
                load_seconds=round(trial.load_seconds, 3),
            )
            for trial, seconds, alone in zip(trials, many, one, strict=True)
        ]


def decide(
    measured: Sequence[Measured], settings: Settings, *, texts: int, unusable: Sequence[str] = ()
) -> tuple[Measured, str]:
    """The form to serve and the sentence that says why; the first measured is fp32 as exported."""
    fp32 = measured[0]
    others = measured[1:]
    faults = {index: fault for index, form in enumerate(others) if (fault := _fault(form, fp32, settings))}
    passing = [form for index, form in enumerate(others) if index not in faults]
    forced = settings.precision == "int8"
    if forced and others and not passing:
        passing = [max(others, key=lambda form: form.agreement)]  # asked for; the gate has the last word
    if not passing:
        said = [*faults.values(), *unusable] or [f"the setting precision is {settings.precision!r}"]
        return fp32, "fp32 is served: " + "; ".join(said)
    fastest = max(form.throughput for form in passing)
    chosen = min((form for form in passing if form.throughput >= _EQUAL * fastest), key=lambda form: form.size)
    reason = (
        f"{_name(chosen)} is served: {chosen.throughput:.2f} of fp32's throughput, fp32's answer on "
        f"{100 * chosen.agreement:.1f} % of {texts} texts, its own answer alone and among others on "
        f"{100 * chosen.stability:.1f} %, {chosen.size / 1e6:.1f} MB instead of {fp32.size / 1e6:.1f}"
    )
    return chosen, reason + (", as the setting precision says" if forced else "")


def _fault(form: Measured, fp32: Measured, settings: Settings) -> str:
    """Why a form is not served; empty where it may be."""
    name = _name(form)
    if form.agreement < settings.gate_agreement:
        limit = 100 * settings.gate_agreement
        return f"{name} gives fp32's answer on only {100 * form.agreement:.1f} % of the texts (at least {limit:g} %)"
    if form.accuracy is not None and fp32.accuracy is not None:
        loss = fp32.accuracy - form.accuracy
        if loss > settings.gate_margin + 1e-12:
            return f"{name} is right on {100 * loss:.1f} points fewer of the holdout texts"
    if settings.precision == "auto" and form.throughput < _FASTER:
        return f"{name} is hardly faster ({form.throughput:.2f} of fp32's throughput)"
    return ""


def _name(form: Measured) -> str:
    return f"{form.precision} ({form.variant})"


def machine() -> str:
    """What was measured on: int8 is as fast, and as exact, as the processor's instructions allow."""
    found: set[str] = set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        found = {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()}
    known = [name for name in _ISA if name in found]
    return ", ".join([platform.machine(), f"{os.cpu_count()} cores", *known])


def _in_company(engine: Engine, encoded: Sequence[Encoded]) -> Array:
    """Logits of shape (texts, labels) from batches at random: dynamic int8 scales a batch's activations by its largest."""
    order = np.random.default_rng(0).permutation(len(encoded))
    parts = [
        engine.run([encoded[row] for row in order[start : start + _BATCH]], ["logits"])[0]
        for start in range(0, len(order), _BATCH)
    ]
    return np.concatenate(parts)[np.argsort(order)]


def _same(one: Array, other: Array) -> float:
    return float((one.argmax(axis=1) == other.argmax(axis=1)).mean())


def _agreement(trial: _Trial, fp32: _Trial) -> float:
    return min(_same(trial.alone, fp32.among), _same(trial.among, fp32.among))


def _largest_difference(trial: _Trial, fp32: _Trial) -> float:
    return max(float(np.abs(logits - fp32.among).max()) for logits in (trial.alone, trial.among))


def _accuracy(logits: Array, targets: Sequence[int]) -> float | None:
    """Share of right answers among the leading texts, whose targets are known."""
    if not targets:
        return None
    return round(float((logits[: len(targets)].argmax(axis=1) == np.array(targets)).mean()), 4)


def _typical_batch(encoded: Sequence[Encoded]) -> list[Encoded]:
    """Sixteen texts of 22 tokens, made of real ones: every form calculates the same number of tokens."""
    ids = [np.resize(item.ids, _TOKENS) for item in encoded[:_BATCH]]
    return [Encoded(ids[row % len(ids)], False) for row in range(_BATCH)]


def _times(trials: Sequence[_Trial], batch: Sequence[Encoded]) -> list[float]:
    """Median seconds of one call for each trial; in turns, since machines are noisy."""
    found: list[list[float]] = [[] for _ in trials]
    for turn in range(_ROUNDS + 1):
        for trial, seconds in zip(trials, found, strict=True):
            started = time.perf_counter()
            trial.engine.run(batch, ["embedding"])
            if turn:  # the first call plans its memory
                seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in found]
