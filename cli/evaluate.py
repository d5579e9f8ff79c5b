"""``ratchet evaluate``: the live model's accuracy on a labelled file, over HTTP, telling the loop nothing."""

import json
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from cli.client import Client
from cli.labelled import read_labelled
from cli.progress import bar
from core.stats import wilson_interval

_CHUNK: Final = 64
_WORST: Final = 10


def evaluate(client: Client, file: Path, console: Console) -> dict[str, Any]:
    """Score a file; nothing is sent to the feedback endpoint. Raises BadFile, or RequestFailed."""
    task = client.task()
    rows = read_labelled(file, task)
    answers: list[Any] = []
    versions: dict[str, int] = {}
    with bar(console) as progress:
        for start in progress.track(range(0, len(rows), _CHUNK), description=f"scoring {file.name}"):
            inputs = [row.inputs for row in rows[start : start + _CHUNK]]
            for answer in client.post("/v1/predict", {"inputs": inputs}, field="predictions")["predictions"]:
                answers.append(task.target_of(answer))
                versions[answer["model_version"]] = versions.get(answer["model_version"], 0) + 1
    targets = [row.target for row in rows]
    score = task.score(answers, targets)
    right = round(score["accuracy"] * len(rows))
    return {
        "file": file.name,
        "count": len(rows),
        "accuracy": score["accuracy"],
        "interval_95": list(wilson_interval(right, len(rows))),
        "macro_f1": score["macro_f1"],
        "versions": versions,
        "per_label": score["per_label"],
    }


def print_evaluation(report: dict[str, Any], console: Console, json_file: Path | None) -> None:
    """The figures and the labels that fare worst."""
    if json_file:
        json_file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    low, high = report["interval_95"]
    console.print(
        f"{report['file']}: accuracy {100 * report['accuracy']:.2f} % "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f}), macro F1 {100 * report['macro_f1']:.2f} %, "
        f"{report['count']} texts, by {', '.join(report['versions'])}"
    )
    table = Table("label", "recall", "texts", title="the labels that fare worst")
    worst = sorted(report["per_label"].items(), key=lambda item: item[1]["recall"])[:_WORST]
    for label, found in worst:
        table.add_row(label, f"{100 * found['recall']:.0f} %", str(found["support"]))
    console.print(table)
