"""``ratchet review``: asks in the terminal what the review queue asks for."""

from collections.abc import Callable
from typing import Any, Final

from rich.console import Console

from cli.client import Client
from core.tasks import Task

_HELP: Final = "Enter: it is right · a label or its number: it should be that · s: skip · q: end"


def review(client: Client, *, limit: int, console: Console, ask: Callable[[str], str]) -> int:
    """Ask for answers until ``limit`` are given, nothing is left or the person ends it; returns how many were given.

    Args:
        client: of the service.
        limit: answers at most.
        console: shows what is asked.
        ask: gives the person's line after a prompt; EOFError ends.
    """
    task = client.task()
    console.print(_HELP)
    given, seen = 0, set[str]()
    while given < limit:
        found = client.get(f"/v1/review?limit={min(50, limit - given + len(seen))}", field="predictions")
        items = [item for item in found["predictions"] if item["prediction_id"] not in seen]
        if not items:
            break
        for item in items[: limit - given]:
            seen.add(item["prediction_id"])
            said = _ask(item, task, console, ask)
            if said is None:
                return given
            if said:
                document = {"prediction_id": item["prediction_id"], "asked": True, **said}
                client.post("/v1/feedback", document, field="feedback_id")
                given += 1
    _print_state(client.get("/v1/review?limit=1", field="accuracy"), console)
    return given


def _ask(item: dict[str, Any], task: Task, console: Console, ask: Callable[[str], str]) -> dict[str, Any] | None:
    """The feedback's kind and target; empty where it is skipped, None where the person ends."""
    choices = [str(choice["label"]) for choice in item["output"].get("top", [])]
    console.print()
    console.print("  ".join(str(item["inputs"][name]) for name in task.input_fields if name in item["inputs"]))
    console.print("  ".join(f"{number}) {choice}" for number, choice in enumerate(choices, start=1)))
    console.print(f"({item['reason']})")
    answered = task.target_of(item["output"])
    try:
        line = ask(f"{answered}? ").strip()
    except EOFError:
        return None
    if line in ("q", "s"):
        return None if line == "q" else {}
    if line.isdigit() and 1 <= int(line) <= len(choices):
        line = choices[int(line) - 1]
    if not line or line == answered:
        return {"kind": "confirm"}
    return {"kind": "correct", task.target_field: line}


def _print_state(found: dict[str, Any], console: Console) -> None:
    """How right the model is by the answers so far."""
    accuracy = found["accuracy"]
    if accuracy["share"] is not None:
        console.print(
            f"accuracy in {accuracy['days']} days: {accuracy['share']:.1%} "
            f"(95 %: {accuracy['low']:.1%} to {accuracy['high']:.1%}, {accuracy['answers']} answers drawn by lot)"
        )
