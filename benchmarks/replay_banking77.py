"""The whole loop on a real stream: banking77, from 10 texts a label of 50 of the 77 labels to the end of its train set.

    python -m benchmarks.replay_banking77 --data FOLDER_OF_BANKING77 --home WORK_FOLDER [--rate 10]

Starts ``ratchet up``, plays the stream with ``ratchet replay``, waits until everything is learned, scores the test set once
with ``ratchet evaluate``; then, with the loop ended, scores every version that went live and one model trained at once on all
the same examples. The test set is never shown to the loop before the end.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx

from core.examples import ExampleStore
from core.head import LinearHead
from core.registry import Registry
from core.runtime import Servable
from core.settings import Settings, load_settings
from core.status import StatusFile, read_status
from core.tasks import get_task
from trainer.candidates import Candidates, Start
from trainer.classifier import Classifier
from trainer.finetune import Recipe, finetune, limit_threads
from trainer.head import fit_head_of
from trainer.methods import get_method
from trainer.objectives import get_objective
from trainer.training_set import make_pool

SEED_LABELS, SEED_TEXTS = 50, 10
Rows = list[dict[str, str]]


def read(path: Path) -> Rows:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write(path: Path, rows: Rows) -> Path:
    """Write JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def split(rows: Rows, seed: int) -> tuple[Rows, Rows]:
    """The seed (10 texts of each of 50 labels), and all other rows, shuffled."""
    rng = random.Random(seed)
    by_label: dict[str, Rows] = defaultdict(list)
    for row in rng.sample(rows, len(rows)):
        by_label[row["label"]].append(row)
    known = rng.sample(sorted(by_label), SEED_LABELS)
    first = [row for label in known for row in by_label[label][:SEED_TEXTS]]
    taken = {id(row) for row in first}
    rest = [row for found in by_label.values() for row in found if id(row) not in taken]
    rng.shuffle(first)
    rng.shuffle(rest)
    return first, rest


def wait_for(url: str, home: Path, *, quiet_s: float) -> None:
    """Until the service is ready and the trainer has been idle for a while."""
    idle_since = None
    while idle_since is None or time.monotonic() - idle_since < quiet_s:
        status = read_status(home, "trainer")
        try:
            ready = httpx.get(f"{url}/readyz").is_success
        except httpx.HTTPError:
            ready = False
        is_idle = ready and status is not None and status.state == "idle" and not status.facts.get("new")
        idle_since = (idle_since or time.monotonic()) if is_idle else None
        time.sleep(1.0)


def ratchet(*arguments: str) -> None:
    """Run a command, and fail with it."""
    subprocess.run([sys.executable, "-m", "cli", *arguments], check=True)


def score(servable: Servable, rows: Rows) -> float:
    """Accuracy of a version."""
    answers = servable.predict([{"text": row["text"]} for row in rows])
    return sum(answer["label"] == row["label"] for answer, row in zip(answers, rows, strict=True)) / len(rows)


def score_versions(settings: Settings, test: Rows) -> list[dict[str, Any]]:
    """Test accuracy of every version in the order in which they went live."""
    registry = Registry(settings.registry_store_url, settings.model)
    found = []
    for version in dict.fromkeys(entry.version for entry in registry.promotions.entries()):
        servable = Servable.load(registry.fetch(version, settings.home / "cache" / "bench"), threads=2)
        manifest = servable.manifest
        found.append(
            {
                "version": version, "lane": manifest.lane, "labels": len(manifest.labels),
                "trained_on": manifest.training_set.count, "test_accuracy": score(servable, test),
            }
        )  # fmt: skip
    return found


def train_jointly(settings: Settings, test: Rows, *, epochs: int) -> dict[str, Any]:
    """One model trained at once, from the base model, on all that the loop's last version was trained on."""
    store = ExampleStore(settings.example_store_url, settings.model)
    pool = make_pool(store.examples(), after=0)
    store.close()
    scratch = settings.home / "joint"
    scratch.mkdir(exist_ok=True)
    start = Start.load(None, settings, scratch)
    candidates = Candidates(start, pool, settings, lambda *_: None)
    next(candidates.make())  # the head on the base model's own encoder, from which fine-tuning starts
    frozen = accuracy(start.model, start, candidates.labels, test)
    objective, examples = get_objective(settings.task), pool.train
    task = get_task(settings.task)
    ids = [item.ids for item in start.tokenizer.encode_batch([task.text_of(item.inputs) for item in examples])]
    rows = [objective.row(item, tokens, candidates.labels) for item, tokens in zip(examples, ids, strict=True)]
    model = Classifier.from_base(settings.base_model, labels=1)
    model.set_head(LinearHead(start.model.head.weight.detach().numpy(), start.model.head.bias.detach().numpy()))
    status = StatusFile(settings.home, "joint")
    finetune(
        model, rows, parent=start.model, pad=start.pad, objective=objective, method=get_method("sequential"),
        recipe=Recipe(epochs=epochs, learning_rate=settings.learning_rate, batch_size=settings.batch_size, seed=0),
        progress=lambda done, total: status.write("joint training", done=done, total=total),
    )  # fmt: skip
    model.set_head(fit_head_of(examples, model.embed(ids, pad=start.pad), candidates.labels))
    tuned = accuracy(model, start, candidates.labels, test)
    return {"examples": len(examples), "epochs": epochs, "frozen_encoder": frozen, "fine_tuned": tuned}


def accuracy(model: Classifier, start: Start, labels: list[str], test: Rows) -> float:
    """Test accuracy of a torch model."""
    ids = [item.ids for item in start.tokenizer.encode_batch([row["text"] for row in test])]
    weight, bias = model.head.weight.detach().numpy(), model.head.bias.detach().numpy()
    answers = (model.embed(ids, pad=start.pad) @ weight.T + bias).argmax(axis=1)
    return sum(labels[answer] == row["label"] for answer, row in zip(answers, test, strict=True)) / len(test)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def play(options: argparse.Namespace, home: Path) -> None:
    """The loop: start, play, wait until all is learned, score the test set over HTTP, end."""
    first, stream = split(read(options.data / "train.jsonl"), seed=0)
    seed_file, stream_file = write(home / "seed.jsonl", first), write(home / "stream.jsonl", stream[: options.limit])
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    os.environ["RATCHET_KEEP_VERSIONS"] = "1000"  # every version is scored at the end
    command = [sys.executable, "-m", "cli", "up", "--home", str(home / "state"), "--port", str(port)]
    loop = subprocess.Popen([*command, "--seed", str(seed_file)])
    report = str(home / "replay.json")
    try:
        wait_for(url, home / "state", quiet_s=3)
        ratchet("replay", str(stream_file), "--url", url, "--rate", str(options.rate), "--json", report)
        wait_for(url, home / "state", quiet_s=45)
        ratchet("evaluate", str(options.data / "test.jsonl"), "--url", url, "--json", str(home / "evaluate.json"))
    finally:
        loop.send_signal(signal.SIGINT)
        loop.wait(timeout=60)


def main() -> None:
    """Run it all, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl and test.jsonl")
    parser.add_argument("--home", type=Path, required=True, help="an empty folder for all state")
    parser.add_argument("--rate", type=float, default=10.0, help="texts a second")
    parser.add_argument("--limit", type=int, default=None, help="play only so many texts")
    parser.add_argument("--joint-epochs", type=int, default=3)
    parser.add_argument("--score-only", action="store_true", help="the loop has been played into --home before")
    options = parser.parse_args()
    home: Path = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    if not options.score_only:
        play(options, home)
    settings = load_settings(home=home / "state")
    limit_threads(0)
    test = read(options.data / "test.jsonl")
    result = {
        "replay": without(home / "replay.json", "failures"),
        "evaluate": without(home / "evaluate.json", "per_label"),
        "versions": score_versions(settings, test),
        "joint": train_jointly(settings, test, epochs=options.joint_epochs),
    }
    (home / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def without(report: Path, long: str) -> dict[str, Any]:
    """A JSON report without its longest part."""
    return {key: value for key, value in json.loads(report.read_text(encoding="utf-8")).items() if key != long}


if __name__ == "__main__":
    main()
