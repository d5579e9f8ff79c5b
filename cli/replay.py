"""``ratchet replay``: a labelled stream played as users would: predict, then correct what was wrong, and answer audits."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cli.client import Client, RequestFailed
from cli.labelled import Labelled, read_labelled
from cli.progress import bar
from core.events import new_id
from core.tasks import Task


@dataclass(kw_only=True)
class Window:
    """What happened to a run of texts; ``right`` counts the first answers, before any correction."""

    first: int
    texts: int = 0
    right: int = 0
    corrections: int = 0
    audits: int = 0
    failed: int = 0
    version: str = ""


@dataclass(kw_only=True)
class Report:
    """A whole replay."""

    file: str
    windows: list[Window] = field(default_factory=list)
    #: versions in the order in which they answered, with the number of the first text that they did
    versions: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def total(self, name: str) -> int:
        """A count over all windows."""
        return sum(getattr(window, name) for window in self.windows)

    @property
    def accuracy(self) -> float:
        """Share of first answers that were right."""
        answered = self.total("texts") - self.total("failed")
        return self.total("right") / answered if answered else 0.0


class Replay:
    """Plays a stream against a running service."""

    def __init__(self, client: Client, *, rate: float, window: int, audits: bool) -> None:
        self._client = client
        self._rate = rate
        self._window = window
        self._audits = audits

    def run(self, file: Path, *, limit: int | None, console: Console) -> Report:
        """Play a file. A request that fails is counted and told; only a service that is not there at all is an error.

        Raises:
            BadFile: the file cannot be used.
            RequestFailed: the service does not answer at the start.
        """
        task = self._client.task()
        rows = read_labelled(file, task, limit=limit)
        report = Report(file=file.name)
        started = time.monotonic()
        with bar(console) as progress:
            bar_id = progress.add_task(f"playing {file.name}", total=len(rows))
            for number, row in enumerate(rows):
                self._wait(started, number)
                if number % self._window == 0:
                    report.windows.append(Window(first=number))
                self._play(row, number, task, report)
                shown = f"playing {file.name}: {100 * report.accuracy:.1f} % right, {len(report.versions)} versions"
                progress.update(bar_id, advance=1, description=shown)
        report.seconds = time.monotonic() - started
        return report

    def _wait(self, started: float, number: int) -> None:
        if self._rate:
            time.sleep(max(0.0, started + number / self._rate - time.monotonic()))

    def _play(self, row: Labelled, number: int, task: Task, report: Report) -> None:
        window = report.windows[-1]
        window.texts += 1
        try:
            answer = self._client.post("/v1/predict", row.inputs, field="model_version")
            window.version = answer["model_version"]
            report.versions.setdefault(answer["model_version"], number)
            is_right = task.target_of(answer) == row.target
            window.right += is_right
            asked = self._audits and answer["audit"]
            if is_right and not asked:
                return
            window.audits += asked
            window.corrections += not is_right
            kind = {"kind": "confirm"} if is_right else {"kind": "correct", task.target_field: row.target}
            self._tell({"prediction_id": answer["prediction_id"], "asked": asked, **kind})
        except RequestFailed as error:
            window.failed += 1
            report.failures.append(f"text {number}: {error}")

    def _tell(self, feedback: dict[str, Any]) -> None:
        """Send feedback, once more where the first try fails: the key makes that safe."""
        key = new_id()
        try:
            self._client.post("/v1/feedback", feedback, idempotency_key=key)
        except RequestFailed:
            time.sleep(0.5)
            self._client.post("/v1/feedback", feedback, idempotency_key=key)


def print_report(report: Report, console: Console, json_file: Path | None) -> None:
    """The report as a table, and as JSON where a file is named."""
    if json_file:
        document = {**asdict(report), "accuracy": report.accuracy}
        json_file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    table = Table("texts", "right at first", "corrected", "audited", "failed", "version at the end")
    for window in report.windows:
        answered = max(window.texts - window.failed, 1)
        table.add_row(
            f"{window.first}-{window.first + window.texts - 1}",
            f"{100 * window.right / answered:.1f} %",
            str(window.corrections),
            str(window.audits),
            str(window.failed),
            window.version,
        )
    console.print(table)
    console.print(
        f"{report.total('texts')} texts in {report.seconds:.0f} s: {100 * report.accuracy:.1f} % right at first, "
        f"{report.total('corrections')} corrected, {report.total('audits')} audited, "
        f"{len(report.versions)} versions, {report.total('failed')} failed"
    )
    for failure in report.failures[:10]:
        console.print(f"  {failure}")
