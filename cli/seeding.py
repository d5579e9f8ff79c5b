"""``ratchet seed``: first examples from files, their check as a table, and storing them with a progress bar."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from cli.progress import bar
from core.examples import ExampleStore
from core.settings import Settings, id_key
from feedback.intake import Checked, SeedOptions, Validation, check_seed
from feedback.seed import SeedReport, store_seed

DEMO = Path(__file__).parent / "demo" / "intents" / "train.jsonl"
_LABELS_SHOWN = 20


def load_seed(settings: Settings, file: Path, console: Console) -> SeedReport:
    """Check and store a labelled file or folder. Raises BadSeedFile."""
    return _store(settings, check_seed(file, settings, id_key(settings)), console)


def check_file(settings: Settings, file: Path, options: SeedOptions) -> Validation:
    """Check a file or folder, and leave no trace. Raises BadSeedFile where it cannot be read at all."""
    has_key = settings.id_key is not None or (settings.home / "id.key").exists()
    return check_seed(file, settings, id_key(settings) if has_key else None, options).found


def seed_file(settings: Settings, file: Path, options: SeedOptions, console: Console) -> tuple[Validation, SeedReport]:
    """Check and store, with what was found. Raises BadSeedFile; then nothing is stored."""
    checked = check_seed(file, settings, id_key(settings), options)
    return checked.found, _store(settings, checked, console)


def _store(settings: Settings, checked: Checked, console: Console) -> SeedReport:
    checked.whole()
    name = Path(checked.found.source).name
    store = ExampleStore(settings.example_store_url, settings.model)
    try:
        store.migrate()
        with bar(console) as progress:
            task = progress.add_task(f"storing {name}", total=None)
            report = store_seed(
                store,
                checked,
                settings,
                id_key(settings),
                lambda done, total: progress.update(task, completed=done, total=total),
            )
            progress.update(task, completed=report.rows, total=report.rows)
    finally:
        store.close()
    console.print(
        f"{name}: {report.rows} rows, {report.labels} labels; {report.stored} new examples, "
        f"{report.duplicates} duplicates, {report.conflicts} conflicting labels (the first holds)"
    )
    return report


def print_validation(found: Validation, console: Console) -> None:
    """The report as a table, then what is wrong."""
    table = Table(show_header=False)
    for name, value in _lines(found):
        table.add_row(name, value)
    console.print(table)
    for tie in found.first_ties:
        console.print(f"left out: {tie}")
    for note in found.notes:
        console.print(f"note: {note}")
    if found.problem:
        console.print(f"cannot be stored: {found.problem}")
    elif found.faults:
        console.print("left out:\n" + "\n".join(f"  - {fault}" for fault in found.first_faults))


def _lines(found: Validation) -> list[tuple[str, str]]:
    labels = [f"{label} {count}" for label, count in found.labels.items()]
    shown = ", ".join(labels[:_LABELS_SHOWN]) + (", …" if len(labels) > _LABELS_SHOWN else "")
    rare = ", ".join(f"{label} {count}" for label, count in found.rare_labels.items())
    return [
        ("data", f"{found.source} ({found.format})"),
        ("columns", found.columns),
        ("rows", str(found.rows)),
        ("taken", str(found.taken)),
        ("duplicates", str(found.duplicates)),
        ("conflicting labels (the first holds)", str(found.conflicts)),
        ("faults", str(found.faults)),
        ("empty texts, among the faults", str(found.empty_texts)),
        ("tasks without a label, divided", f"{found.unlabelled}, {found.ties}"),
        ("longest text", f"{found.longest_text_chars} characters"),
        ("splits", ", ".join(f"{split} {count}" for split, count in found.splits.items())),
        ("labels", f"{len(labels)}: {shown}"),
        ("rare labels (fewer than 5)", rare or "none"),
    ]
