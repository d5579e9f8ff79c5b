"""What the form of a graph is worth: int8 against fp32 on banking77, what a text's company in a batch changes, head-only swaps.

    python -m benchmarks.artefact --data FOLDER_OF_BANKING77 --home WORK_FOLDER [--texts 3000]

Makes a first model from the train set as the trainer does (head on the frozen encoder); it prints what the trainer measured
when it chose the form. Then it scores the test set in fp32 and in the chosen form, each with its own graph's head;
asks for the same texts alone and in random batches; and lets a service's swapper follow head-only versions.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from core.bundle import HEAD, Lane, ModelBundle
from core.events import Example, Split, new_id
from core.head import LinearHead
from core.registry import Registry
from core.runtime import Array, Servable
from core.settings import Settings, load_settings
from service.loading import Loader
from service.swap import Swapper
from trainer.building import Builder, Built
from trainer.candidates import Candidates, Start
from trainer.finetune import limit_threads
from trainer.training_set import ExamplePool, make_pool

_SWAPS = 20


def read(path: Path, count: int | None, split: Split) -> list[Example]:
    """Examples from JSON Lines, in random order."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    random.Random(0).shuffle(rows)
    return [
        Example(
            example_id=new_id().replace("-", ""), seq=seq + 1, task="text_classification", inputs={"text": row["text"]},
            target=row["label"], origin="seed", split=split, selected=True,
        )
        for seq, row in enumerate(rows[:count])
    ]  # fmt: skip


def train(pool: ExamplePool, settings: Settings, folder: Path) -> Built:
    """A first model of those examples."""
    folder.mkdir(parents=True, exist_ok=True)

    def report(phase: str, done: int, total: int) -> None:
        print(f"{phase} {done}/{total}", flush=True)

    start = Start.load(None, settings, folder)
    candidate = next(Candidates(start, pool, settings, report).make())
    return Builder(start, pool, settings, report, run_id=new_id(), scratch=folder).build(candidate)


def accuracy(logits: Array, labels: list[str], test: list[Example]) -> float:
    """Share of right answers."""
    answers = [labels[row] for row in logits.argmax(axis=1)]
    return sum(answer == example.target for answer, example in zip(answers, test, strict=True)) / len(test)


def company(servable: Servable, test: list[Example], *, rounds: int = 3) -> dict[str, Any]:
    """The same texts alone and in batches of 16 random ones: answers that differ, and the largest change of a logit."""
    encoded = servable.tokenize([example.inputs for example in test])
    alone = np.concatenate([servable.run([item])[0] for item in encoded])
    changed, largest, confidence = [], 0.0, 0.0
    for turn in range(rounds):
        order = list(range(len(encoded)))
        random.Random(turn).shuffle(order)
        logits = np.empty_like(alone)
        for start in range(0, len(order), 16):
            rows = order[start : start + 16]
            logits[rows] = servable.run([encoded[row] for row in rows])[0]
        changed.append(float((logits.argmax(axis=1) != alone.argmax(axis=1)).mean()))
        largest = max(largest, float(np.abs(logits - alone).max()))
        confidence = max(confidence, float(np.abs(softmax(logits) - softmax(alone)).max()))
    return {
        "texts": len(test),
        "answers_changed": round(statistics.mean(changed), 4),
        "largest_logit_change": float(f"{largest:.3g}"),
        "largest_change_of_a_probability": float(f"{confidence:.3g}"),
        "accuracy_alone": round(accuracy(alone, servable.manifest.labels, test), 4),
        "accuracy_in_batches": round(accuracy(logits, servable.manifest.labels, test), 4),
    }


def softmax(logits: Array) -> Array:
    """Probabilities."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return found


def head_only(parent: ModelBundle, folder: Path, number: int) -> ModelBundle:
    """A version that differs from its parent in the last digits of its head."""
    manifest = parent.manifest
    folder.mkdir(parents=True)
    head = LinearHead.load(parent.path(HEAD), labels=len(manifest.labels), size=manifest.embedding_size)
    LinearHead(head.weight, head.bias + np.float32(number * 1e-6)).save(folder / HEAD)
    fields = {
        **manifest.model_dump(exclude={"files"}),
        "version": f"head-only-{number:04}", "parent": manifest.version, "lane": Lane.HEAD,
    }  # fmt: skip
    shared = {name: entry for name, entry in manifest.files.items() if name != HEAD}
    return ModelBundle.write(folder, shared=shared, **fields)


def swaps(parent: ModelBundle, home: Path) -> dict[str, Any]:
    """How long the swapper takes from its look at the registry until a head-only version is live, and all done."""
    registry = Registry((home / "registry").as_uri(), "default")
    loader = Loader(registry, home / "cache", model="default", task="text_classification", device="cpu")
    swapper = Swapper(registry, loader, poll_s=1.0)
    registry.publish(parent)
    registry.promotions.promote_by_operator(parent.manifest.version, reason="first", actor="benchmark")
    started = time.perf_counter()
    swapper.step()
    first = time.perf_counter() - started
    before = swapper.servable
    assert before is not None
    live: list[float] = []
    original = swapper._on_change

    def noted() -> None:
        live.append(time.perf_counter())
        original()

    swapper._on_change = noted
    until_live, whole = [], []
    for number in range(1, _SWAPS + 1):
        bundle = head_only(parent, home / "made" / str(number), number)
        registry.publish(bundle)
        registry.promotions.promote_by_operator(bundle.manifest.version, reason="head", actor="benchmark")
        live.clear()
        started = time.perf_counter()
        swapper.step()
        whole.append(time.perf_counter() - started)
        until_live.append(live[0] - started)
        now = swapper.servable
        assert now is not None
        assert now.version == bundle.manifest.version
        assert now.shares_session_with(before)
    milliseconds = [1000 * seconds for seconds in until_live]
    return {
        "first_version_seconds": round(first, 3),
        "head_only_ms_until_live": {
            "median": round(statistics.median(milliseconds), 1), "worst": round(max(milliseconds), 1)
        },
        "head_only_ms_with_tidying_up": round(1000 * statistics.median(whole), 1),
        "swaps": _SWAPS,
    }  # fmt: skip


def main() -> None:
    """Run it all, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl and test.jsonl")
    parser.add_argument("--home", type=Path, required=True, help="an empty folder")
    parser.add_argument("--texts", type=int, default=None, help="train on so many texts only")
    options = parser.parse_args()
    home: Path = options.home.resolve()
    limit_threads(0)
    found = read(options.data / "train.jsonl", options.texts, Split.TRAIN)
    for position in range(0, len(found), 7):  # a holdout, as the feedback program would keep one
        found[position] = found[position].model_copy(update={"split": Split.HOLDOUT})
    pool, test = make_pool(found, after=0), read(options.data / "test.jsonl", None, Split.HOLDOUT)
    inputs = [example.inputs for example in test]
    result: dict[str, Any] = {"trained_on": len(pool.train)}
    for precision in ("auto", "fp32"):
        built = train(pool, load_settings(home=home, device="cpu", precision=precision), home / precision)
        servable, artefact = built.servable, built.bundle.manifest.artefact
        assert artefact is not None
        logits, _ = servable.infer(inputs)
        one_thread = Servable.load(built.bundle, device="cpu")
        result[precision] = {
            "artefact": artefact.model_dump(mode="json"),
            "parity": built.parity,
            "test_accuracy": round(accuracy(logits, servable.manifest.labels, test), 4),
            "company": company(one_thread, test),
        }
        if precision == "auto":
            result["swaps"], auto = swaps(built.bundle, home / "swaps"), logits
        else:
            result["same_answers_each_with_its_own_head"] = float((auto.argmax(axis=1) == logits.argmax(axis=1)).mean())
    (home / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
