"""Storing the first examples, with a progress bar."""

from pathlib import Path

from rich.console import Console

from cli.progress import bar
from core.examples import ExampleStore
from core.settings import Settings, id_key
from feedback.seed import SeedReport, import_seed

DEMO = Path(__file__).parent / "demo" / "intents" / "train.jsonl"


def load_seed(settings: Settings, file: Path, console: Console) -> SeedReport:
    """Check and store a labelled file. Raises BadSeedFile."""
    store = ExampleStore(settings.example_store_url, settings.model)
    try:
        store.migrate()
        with bar(console) as progress:
            task = progress.add_task(f"storing {file.name}", total=None)
            report = import_seed(
                store,
                file,
                settings,
                id_key(settings),
                lambda done, total: progress.update(task, completed=done, total=total),
            )
            progress.update(task, completed=report.rows, total=report.rows)
    finally:
        store.close()
    console.print(
        f"{file.name}: {report.rows} rows, {report.labels} labels; {report.stored} new examples, "
        f"{report.duplicates} duplicates, {report.conflicts} conflicting labels (the first holds)"
    )
    return report
