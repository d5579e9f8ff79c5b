"""What selection is worth: test accuracy by strategy and budget, against random choice, margin, and all of the data.

    python -m benchmarks.selection --data FOLDER_OF_DATA_SETS [--strategies combined,margin,random] [--budgets 10,25,50]

Frozen encoder, logistic head. A pool of unlabelled texts; in rounds, as in the product, a strategy chooses, a person answers,
and the head is fitted again: ten rounds to a tenth of the pool, ten more to a quarter, five to a half.

``--wrong 10`` gives so many per cent of the pool wrong labels, drawn evenly. Then an answer is learned only if the head, which
has not seen it, gives it at least ``trust_threshold`` of what it gives its own answer; the others are looked at again in every
round. At each budget a cross-validation throws out what five heads, none of which has seen it, think less likely than that.

``--tune`` uses train and validation sets and leaves the test set alone.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.embedded import CACHE, FILES, Embedded, load
from core.head import LinearHead
from core.selection import STRATEGIES, Candidates, SelectionStrategy, get_strategy
from core.settings import load_settings
from trainer.finetune import limit_threads
from trainer.head import fit_head

_ROUNDS: Final = (*range(1, 11), 11.5, 13, 14.5, 16, 17.5, 19, 20.5, 22, 23.5, 25, 30, 35, 40, 45, 50)
"""Per cent of the pool that is labelled after each round."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A pool whose labels are asked for one by one, and what accuracy is measured on."""

    pool: Embedded
    test: Embedded
    label_names: Sequence[str]

    def fit(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> LinearHead:
        """The head of some rows with the labels that people gave them."""
        targets = [self.label_names[label] for label in labels]
        return fit_head(self.pool.embeddings[rows], targets, self.label_names, weights=np.ones(len(rows)).tolist())

    def score(self, head: LinearHead) -> float:
        """Accuracy in per cent."""
        return 100 * float((head.logits(self.test.embeddings).argmax(axis=1) == self.test.labels).mean())


def probabilities(head: LinearHead, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shape (texts, labels)."""
    logits = head.logits(embeddings).astype(np.float64)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return found


def mislabel(labels: NDArray[np.int64], kinds: int, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """The labels, a share of them replaced by any other."""
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    given = labels.copy()
    given[wrong] = (labels[wrong] + rng.integers(1, kinds, len(wrong))) % kinds
    return given


def likely(
    said: NDArray[np.float64], labels: NDArray[np.int64], known: NDArray[np.int64], threshold: float
) -> NDArray[np.bool_]:
    """Whether the head gives a label at least so much of its own answer; of a label that it has not seen it knows nothing."""
    own = said[np.arange(len(said)), labels]
    found: NDArray[np.bool_] = (own >= threshold * said.max(axis=1)) | ~np.isin(labels, known)
    return found


def cross_validated(
    task: Task, rows: NDArray[np.int64], given: NDArray[np.int64], threshold: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The rows whose labels a head of the other four fifths thinks likely."""
    fold = rng.permutation(len(rows)) % 5
    kept = []
    for number in range(5):
        train, held = rows[fold != number], rows[fold == number]
        said = probabilities(task.fit(train, given[train]), task.pool.embeddings[held])
        kept.append(held[likely(said, given[held], given[train], threshold)])
    return np.sort(np.concatenate(kept))


def play(
    task: Task, strategy: SelectionStrategy, budgets: Sequence[float], *, seed: int, wrong: float
) -> dict[str, float]:
    """Choose, answer and fit in rounds; the accuracy at each budget in per cent."""
    rng = np.random.default_rng(seed)
    size, kinds = len(task.pool.labels), len(task.label_names)
    seeds = rng.integers(0, 2**60, size).astype(np.uint64)
    given = mislabel(task.pool.labels, kinds, wrong, rng)
    threshold = load_settings().trust_threshold if wrong else 0.0
    asked = np.zeros(size, dtype=bool)
    said, earlier, head = np.full((size, kinds), 1.0 / kinds), None, None
    found: dict[str, float] = {}
    learned = np.empty(0, np.int64)
    for share in (step for step in _ROUNDS if step <= max(budgets)):
        free = np.flatnonzero(~asked)
        candidates = Candidates(
            probabilities=said[free], embeddings=task.pool.embeddings[free], seeds=seeds[free],
            labelled=task.pool.embeddings[learned], labelled_targets=given[learned],
            earlier=None if earlier is None else earlier[free],
        )  # fmt: skip
        budget = round(size * share / 100) - int(asked.sum())
        asked[free[strategy(candidates, budget).rows]] = True
        waiting = np.setdiff1d(np.flatnonzero(asked), learned)
        believed = (
            waiting if head is None else waiting[likely(said[waiting], given[waiting], given[learned], threshold)]
        )
        learned = np.union1d(learned, believed)
        earlier = None if head is None else said
        head = task.fit(learned, given[learned])
        said = probabilities(head, task.pool.embeddings)
        if share in budgets:
            judged = cross_validated(task, learned, given, threshold, rng) if wrong else learned
            found[f"{share:g}"] = round(task.score(task.fit(judged, given[judged])), 2)
    return found


def main() -> None:
    """Run it, print a line for each strategy as it comes, and one JSON object at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder for each data set")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--sets", default=",".join(FILES))
    parser.add_argument("--strategies", default=",".join(sorted(STRATEGIES)))
    parser.add_argument("--budgets", default="10,25,50", help="per cent of the pool; each the end of a round")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--wrong", type=float, default=0.0, help="per cent of the pool's labels that are wrong")
    parser.add_argument("--tune", action="store_true", help="score the validation set")
    options = parser.parse_args()
    limit_threads(1)
    warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
    budgets = [float(budget) for budget in options.budgets.split(",")]
    result: dict[str, Any] = {}
    for name in options.sets.split(","):
        found = load(name, options.data, options.cache)
        pool, test = (found.train, found.validation) if options.tune else (found.whole_train, found.test)
        task = Task(pool=pool, test=test, label_names=found.label_names)
        everything = task.score(task.fit(np.arange(len(pool.labels)), pool.labels))
        result[name] = {"pool": len(pool.labels), "all_data": round(everything, 2), "strategies": {}}
        print(
            f"{name}: {len(pool.labels)} texts in the pool; all of them, labelled right: {everything:.2f} %", flush=True
        )
        for chosen in options.strategies.split(","):
            began = time.perf_counter()
            runs = [
                play(task, get_strategy(chosen), budgets, seed=seed, wrong=options.wrong / 100)
                for seed in range(options.seeds)
            ]
            result[name]["strategies"][chosen] = runs
            means = "  ".join(f"{size} %: {statistics.mean(run[size] for run in runs):.2f}" for size in runs[0])
            print(f"{name}  {chosen:17}{means}  ({time.perf_counter() - began:.0f} s)", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
