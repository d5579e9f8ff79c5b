"""When a run starts: enough new examples, one that has waited long enough, or a command."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from core.bundle import Lane, Manifest
from core.events import Command
from core.examples.store import NewExamples
from core.registry import RunState, TrainingRun
from core.settings import Settings

RUNS_LISTED: Final = 50


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """Why a run starts, and the commands that it answers."""

    reason: str
    commands: list[str]


def find_trigger(
    *,
    champion: Manifest | None,
    runs: Sequence[TrainingRun],
    new: NewExamples,
    commands: Sequence[Command],
    settings: Settings,
    at: datetime,
) -> Trigger | None:
    """The reason to start a run now, or None.

    Args:
        champion: the live version's manifest, None before the first.
        runs: earlier runs, oldest first: what one of them has looked at without being promoted starts no other by itself.
        new: what there is behind what was looked at last (see :func:`looked_through`).
        commands: operators' commands, oldest first.
        settings: ``trigger_count`` and ``trigger_age_s``.
        at: the present time.
    """
    answered = {command for run in runs for command in run.commands if run.state != RunState.RUNNING}
    # What is older than the oldest run that is listed was answered by one that no longer is.
    horizon = runs[0].started_at if len(runs) >= RUNS_LISTED else None
    waiting = [
        command
        for command in commands
        if command.command_id not in answered and (horizon is None or command.at > horizon)
    ]
    ids = [command.command_id for command in waiting]
    if waiting and new.newest_seq:
        return Trigger(reason=f"by hand: {waiting[-1].reason or waiting[-1].actor}", commands=ids)
    if new.count == 0:
        return None
    if champion is None:
        return Trigger(reason=f"first model: {new.count} examples", commands=ids)
    if new.count >= settings.trigger_count:
        return Trigger(reason=f"count: {new.count} new examples", commands=ids)
    if new.oldest is not None and (at - new.oldest).total_seconds() >= settings.trigger_age_s:
        return Trigger(
            reason=f"age: {new.count} new examples, the oldest over {settings.trigger_age_s:g} s", commands=ids
        )
    return None


def looked_through(champion: Manifest | None, runs: Sequence[TrainingRun]) -> int:
    """The sequence number behind which examples are news: taken in by the champion, or judged with and rejected.

    The seed lane only fits a head, so to it everything is news: its encoder is fine-tuned at the first occasion.
    """
    version = champion.version if champion else None
    taken = 0 if champion is None or champion.lane == Lane.SEED else champion.training_set.through_seq
    judged = [
        run.through_seq for run in runs if run.state == RunState.REJECTED and run.judged and run.parent == version
    ]
    return max([taken, *judged])
