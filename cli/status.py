"""``ratchet status``: what each part is doing, from the files and stores that it leaves; it asks no program anything."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from core.errors import RatchetError
from core.eventlog import open_log
from core.events import INTERACTIONS, now
from core.examples import ExampleStore
from core.examples.review_report import DAY, estimate_accuracy
from core.registry import Registry
from core.settings import Settings
from core.status import PROGRAMS, read_status


def collect_status(settings: Settings) -> dict[str, Any]:
    """Everything as JSON; a part that is out of reach says so and holds up no other."""
    return {
        "home": str(settings.home.resolve()),
        "programs": {name: _program(settings, name) for name in PROGRAMS},
        "registry": _guarded(lambda: _registry(settings)),
        "examples": _guarded(lambda: _examples(settings)),
        "review": _guarded(lambda: _review(settings)),
        "log": _guarded(lambda: _log(settings)),
    }


def _guarded(ask: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = ask()
    except RatchetError as error:
        return {"error": str(error)}
    return found


def _program(settings: Settings, name: str) -> dict[str, Any]:
    status = read_status(settings.home, name)
    if status is None:
        return {"state": "not started"}
    alive = status.is_alive()
    return {
        "state": status.state if alive or status.state == "stopped" else "died",
        "detail": status.detail,
        "pid": status.pid if alive else None,
        "done": status.done,
        "total": status.total,
        "age_s": round(status.age_s(now()), 1),
        **status.facts,
    }


def _is_missing(url: str, embedded: Path) -> bool:
    """True where an embedded store was never begun: opening it would make it, and a question must leave no trace."""
    return not url and not embedded.exists()


def _registry(settings: Settings) -> dict[str, Any]:
    if _is_missing(settings.registry_url, settings.home / "registry"):
        return {"version": None, "promotions": 0, "versions": 0}
    registry = Registry(settings.registry_store_url, settings.model)
    newest = registry.promotions.refresh()
    if newest is None:
        return {"version": None, "promotions": 0, "versions": len(registry.versions())}
    runs = registry.runs(newest=1)
    verdict = registry.verdict(newest.version)
    return {
        "version": newest.version,
        "parent": registry.manifest(newest.version).parent,
        "labels": len(registry.manifest(newest.version).labels),
        "promotions": newest.number,
        "versions": len(registry.versions()),
        "promotions_held": newest.holds(now()),
        "holdout_accuracy": (verdict.evaluation.get("holdout") or {}).get("accuracy") if verdict else None,
        "last_run": runs[-1].model_dump(mode="json", include={"state", "trigger", "version", "reasons"})
        if runs
        else None,
    }


def _examples(settings: Settings) -> dict[str, Any]:
    if _is_missing(settings.examples_url, settings.home / "examples.db"):
        return {"stored": 0}
    store = ExampleStore(settings.example_store_url, settings.model)
    try:
        counts = store.example_counts()
        pending = store.pending()
        return {
            "stored": sum(counts.values()),
            "by_origin": _sum(counts, 0),
            "by_split": _sum(counts, 1),
            "feedback": store.outcome_counts(),
            "waiting_for_prediction": pending.count,
            "outbox": store.outbox_size(),
            "parked_until_upgraded": store.parked_count(),
        }
    finally:
        store.close()


def _review(settings: Settings) -> dict[str, Any]:
    """What waits for people, and how right the model is by their answers."""
    if _is_missing(settings.examples_url, settings.home / "examples.db"):
        return {"waiting": 0}
    store = ExampleStore(settings.example_store_url, settings.model)
    try:
        with store.review() as review:
            counts = review.counts(since=now() - DAY)
            accuracy = estimate_accuracy(review)
        return {
            "waiting": counts.chosen + counts.drawn,
            "answered_in_24_hours": counts.answered,
            "accuracy": None
            if accuracy["share"] is None
            else f"{accuracy['share']:.1%} (95 %: {accuracy['low']:.1%} to {accuracy['high']:.1%})",
            "accuracy_answers": accuracy["answers"],
        }
    finally:
        store.close()


def _sum(counts: dict[Any, int], place: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, count in counts.items():
        found[str(key[place])] = found.get(str(key[place]), 0) + count
    return found


def _log(settings: Settings) -> dict[str, Any]:
    if _is_missing(settings.log_url, settings.home / "log.db"):
        return {"kind": "sqlite", "records": 0, "behind": 0}
    log = open_log(settings.event_log_url, partitions=settings.log_partitions)
    store = ExampleStore(settings.example_store_url, settings.model)
    try:
        ends = log.ends(INTERACTIONS)
        begun = not _is_missing(settings.examples_url, settings.home / "examples.db")
        positions = store.positions(settings.consumer, INTERACTIONS) if begun else {}
        behind = sum(end - positions.get(partition, 0) for partition, end in ends.items())
        return {
            "kind": settings.event_log_url.split(":", maxsplit=1)[0],
            "records": sum(ends.values()),
            "behind": behind,
        }
    finally:
        store.close()
        log.close()


def print_status(found: dict[str, Any], console: Console) -> None:
    """The same as a table."""
    table = Table("part", "state", "detail")
    for name, program in found["programs"].items():
        progress = f" {program['done']}/{program['total']}" if program.get("total") else ""
        table.add_row(name, program["state"], f"{program.get('detail', '')}{progress}")
    for name in ("registry", "examples", "review", "log"):
        part = found[name]
        facts = ", ".join(f"{key} {value}" for key, value in part.items() if not isinstance(value, dict))
        table.add_row(name, "out of reach" if "error" in part else "ok", facts)
    console.print(table)
