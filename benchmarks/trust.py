"""Label trust on a stream of corrections of which some are wrong: what waits in quarantine, and what the head learns.

    OMP_NUM_THREADS=1 python -m benchmarks.trust --data FOLDER_OF_DATA_SETS [--sets banking77 clinc150] [--seeds 0 1 2]

A head is fitted on 10 texts of each label. Then the rest of the train set comes as a stream: what the live head gets wrong is
corrected, a random tenth is audited by the same people, and some of these claims are wrong. Every 250 claims all claims are
weighed, and a new head is fitted on those that are believed. Each text draws its mistakes beforehand, so all arms see the same.
Embeddings are those of the frozen base encoder (``benchmarks.embedded``).

Noise: ``random`` any other label; ``plausible`` one of the model's next three; ``annotators`` 20 people with error rates from
Beta(1, 9), half of their mistakes plausible; ``anonymous`` the same mistakes at 10 %, all from one source; ``push`` one source
pushes 50 paraphrases of a phrase to a random label, ``push-near`` to the label that the model finds next.
"""

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.embedded import CACHE, DataSet, load
from core.head import LinearHead
from feedback.evidence import THRESHOLD, Claims, claim_scores
from trainer.head import fit_head

NOISES: Final = ("random", "plausible", "annotators", "anonymous", "push", "push-near")
_SEED_TEXTS, _EVERY, _AUDITED, _WRONG, _PUSHED = 10, 250, 0.1, 0.1, 50
_PUSHER: Final = 999
Rows = NDArray[np.int64]


@dataclass(kw_only=True)
class Run:
    """One stream: the claims so far, and what was thought of them."""

    rows: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    doubts: list[float] = field(default_factory=list)  # 1 - p(target) by the live head, at arrival
    first_scores: list[float] = field(default_factory=list)  # at the first weighing, before any training on the claim
    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    trained: set[int] = field(default_factory=set)  # places of claims that any head was fitted on
    accuracy: float = 0.0


class Stream:
    """A seed, and the rest in random order with each text's mistake drawn beforehand."""

    def __init__(self, data: DataSet, noise: str, seed: int) -> None:
        self.train, self.test, self.noise = data.whole_train, data.test, noise
        self.labels, self.names = len(data.label_names), [str(number) for number in range(len(data.label_names))]
        rng = np.random.default_rng(seed)
        order, taken = rng.permutation(len(self.train.labels)), np.zeros(self.labels, dtype=int)
        known, rest = [], []
        for row in order.tolist():
            (known if taken[self.train.labels[row]] < _SEED_TEXTS else rest).append(row)
            taken[self.train.labels[row]] += 1
        self.known, self.rest = np.array(known), rest
        self.audited = rng.random(len(order)) < _AUDITED
        people = {"annotators": 20, "anonymous": 1}.get(noise, 200)
        self.source = rng.integers(people, size=len(order))
        rates = rng.beta(1, 9, size=20)[self.source % 20] if noise == "annotators" else _WRONG
        self.is_wrong = (rng.random(len(order)) < rates) & (not noise.startswith("push"))
        self.luck = rng.random((len(order), 2))
        self.pushed: dict[int, int] = {}
        if noise.startswith("push"):
            self._push(rng)

    def _push(self, rng: np.random.Generator) -> None:
        head = self.fit(self.known, self.train.labels[self.known])
        phrase = int(rng.choice(self.rest))
        label, found = self.train.labels[phrase], self.train.embeddings
        alike = [row for row in self.rest if self.train.labels[row] == label]
        alike = sorted(alike, key=lambda row: -float(found[row] @ found[phrase]))[:_PUSHED]
        ranked = [name for name in np.argsort(-head.logits(found[[phrase]])[0]).tolist() if name != label]
        goal = ranked[0] if self.noise == "push-near" else int(rng.choice(ranked))
        self.pushed = dict.fromkeys(alike, goal)
        self.source[alike] = _PUSHER
        self.is_wrong[alike] = True

    def fit(self, rows: Rows, targets: Rows) -> LinearHead:
        """The trainer's head."""
        names = [self.names[target] for target in targets.tolist()]
        return fit_head(self.train.embeddings[rows], names, self.names, weights=np.ones(len(rows)).tolist())

    def claim(self, row: int, logits: NDArray[np.float32], *, clean: bool) -> int | None:
        """The target that somebody claims for a text; None where nobody says anything."""
        truth, answer = int(self.train.labels[row]), int(logits.argmax())
        if row in self.pushed:
            return None if clean else self.pushed[row]
        if answer == truth and not self.audited[row]:
            return None
        if clean or not self.is_wrong[row]:
            return truth
        next_ones = [label for label in np.argsort(-logits)[1:4].tolist() if label != truth]
        others = [label for label in range(self.labels) if label not in (truth, answer)]
        plausibly = self.noise == "plausible" or (self.noise != "random" and self.luck[row, 0] < 0.5)
        choice = next_ones if plausibly else others
        return int(choice[int(self.luck[row, 1] * len(choice))])


def play(stream: Stream, *, clean: bool = False, treated: bool = False) -> Run:
    """The stream from its start to its end."""
    run, train = Run(), stream.train
    head = stream.fit(stream.known, train.labels[stream.known])
    logits = head.logits(train.embeddings)
    for row in stream.rest:
        target = stream.claim(row, logits[row], clean=clean)
        if target is None:
            continue
        raised = np.exp(logits[row] - logits[row].max())
        run.rows.append(row)
        run.targets.append(target)
        run.answers.append(int(logits[row].argmax()))
        run.sources.append(int(stream.source[row]))
        run.doubts.append(1 - float(raised[target] / raised.sum()))
        if len(run.rows) % _EVERY == 0:
            head = learn(stream, run, treated=treated)
            logits = head.logits(train.embeddings)
    head = learn(stream, run, treated=treated)
    run.accuracy = float((head.logits(stream.test.embeddings).argmax(axis=1) == stream.test.labels).mean())
    return run


def learn(stream: Stream, run: Run, *, treated: bool) -> LinearHead:
    """A head on the seed and the claims that are believed."""
    rows, targets = np.array(run.rows), np.array(run.targets)
    believed = np.ones(len(rows), dtype=bool)
    if treated:
        run.scores = claim_scores(
            Claims(
                embeddings=stream.train.embeddings[np.concatenate([stream.known, rows])],
                targets=np.concatenate([stream.train.labels[stream.known], targets]),
                answers=np.array(run.answers),
                sources=np.unique(run.sources, return_inverse=True)[1],
                labels=stream.labels,
            )
        )
        run.first_scores += run.scores[len(run.first_scores) :].tolist()
        believed = run.scores <= THRESHOLD
        run.trained |= set(np.flatnonzero(believed).tolist())
    return stream.fit(
        np.concatenate([stream.known, rows[believed]]),
        np.concatenate([stream.train.labels[stream.known], targets[believed]]),
    )


def caught(scores: NDArray[np.float64], wrong: NDArray[np.bool_], threshold: float | None) -> tuple[float, float]:
    """Shares (%) of wrong and of right claims above a threshold; None: where 5 % of the right ones are above it."""
    limit = float(np.quantile(scores[~wrong], 0.95)) if threshold is None else threshold
    return 100 * float((scores[wrong] > limit).mean()), 100 * float((scores[~wrong] > limit).mean())


def measure(data: DataSet, noise: str, seed: int) -> dict[str, float]:
    """All figures of one stream."""
    stream = Stream(data, noise, seed)
    clean, untreated, treated = play(stream, clean=True), play(stream), play(stream, treated=True)
    wrong = np.array(treated.targets) != stream.train.labels[treated.rows]
    figures = {"claims": float(len(wrong)), "wrong %": 100 * float(wrong.mean())}
    probe, first = np.array(treated.doubts), np.array(treated.first_scores)
    figures["1-p at arrival, at 5 %"] = caught(probe, wrong, None)[0]
    figures["first weighing, at 5 %"] = caught(first, wrong, None)[0]
    figures["at the end, at 5 %"] = caught(treated.scores, wrong, None)[0]
    figures["as set: wrong waiting"], figures["as set: right waiting"] = caught(treated.scores, wrong, THRESHOLD)
    for name, run in (("clean", clean), ("untreated", untreated), ("treated", treated)):
        figures[f"accuracy {name}"] = 100 * run.accuracy
    if stream.pushed:
        pushed = {place for place, row in enumerate(treated.rows) if row in stream.pushed}
        figures["pushed, ever trained"] = float(len(pushed & treated.trained))
    return figures


def main() -> None:
    """Print the figures, mean of the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder for each data set")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--sets", nargs="+", default=["banking77", "clinc150"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--noises", nargs="+", choices=NOISES, default=NOISES)
    parser.add_argument("--tune", action="store_true", help="judge by the validation split, not by the test set")
    options = parser.parse_args()
    for name in options.sets:
        data = load(name, options.data, options.cache)
        if options.tune:
            data = DataSet(
                name="clinc150", label_names=data.label_names, train=data.train, validation=data.validation,
                test=data.validation,
            )  # fmt: skip
        for noise in options.noises:
            began, found = time.monotonic(), defaultdict(list)
            for seed in options.seeds:
                for figure, value in measure(data, noise, seed).items():
                    found[figure].append(value)
            print(f"{name}, {noise} ({time.monotonic() - began:.0f} s)", flush=True)
            for figure, values in found.items():
                shown = " ".join(f"{value:.1f}" for value in values)
                print(f"  {figure}: {np.mean(values):.1f}   ({shown})", flush=True)


if __name__ == "__main__":
    main()
