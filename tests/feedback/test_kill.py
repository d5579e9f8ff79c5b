"""The real consumer, killed again and again in the middle of its work."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from core.events import Event, OutcomeStatus
from tests.feedback.harness import LABELS, Running, feedback, prediction, settings_for
from tests.support import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
_KILLS = 4


class Forker:
    """The process that starts consumers."""

    def __init__(self, home: Path, errors: IO[bytes]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.feedback.killable", str(home)],
            cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        self._expect("ready")

    def start(self) -> int:
        """A consumer's process number."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._read())

    def kill(self, consumer: int) -> None:
        """SIGKILL, and wait until it is gone."""
        os.kill(consumer, signal.SIGKILL)
        self._expect("gone")

    def _expect(self, word: str) -> None:
        assert self._read() == word

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def end(self) -> None:
        """End it; its consumers are killed by then."""
        self._process.communicate(timeout=20)


@contextmanager
def _forker(home: Path) -> Iterator[Forker]:
    with (home / "consumers.log").open("wb") as errors:
        found = Forker(home, errors)
        yield found
        found.end()


def _events(draw: random.Random) -> list[Event | bytes]:
    """Predictions and feedback, doubled and out of order, with a poison record now and then."""
    events: list[Event | bytes] = []
    for number in range(60):
        label = draw.choice(LABELS)
        made = prediction(number, f"text {number % 40}", label)
        said = feedback(number, number, draw.choice(LABELS))
        events += draw.sample([made, said, said, made], draw.randint(3, 4))  # at least one of each
        if number % 20 == 10:
            events.append(b"poison %d" % number)
    return events


def test_a_consumer_that_is_killed_again_and_again_loses_nothing_and_doubles_nothing(home: Path) -> None:
    draw = random.Random(1)
    around = Running(settings_for(home))
    around.store.migrate()
    events = _events(draw)
    with closing(around.store), closing(around.log), _forker(home) as forker:
        interrupted = 0
        for part in range(_KILLS):
            around.send(*events[part * len(events) // _KILLS : (part + 1) * len(events) // _KILLS])
            consumer = forker.start()
            seen = len(around.outcomes())
            wait_until(lambda before=seen: len(around.outcomes()) > before or around.is_drained(), timeout_s=30)  # type: ignore[misc]
            time.sleep(draw.uniform(0, 0.05))
            forker.kill(consumer)
            interrupted += not around.is_drained()
        survivor = forker.start()
        around.drain(30)
        forker.kill(survivor)

        assert interrupted
        said = {f"f{number}" for number in range(60)}
        outcomes = around.store.outcomes()
        assert Counter(outcome.feedback_id for outcome in outcomes) == Counter(said)
        assert around.store.pending().count == 0
        assert {outcome.status for outcome in outcomes} <= {OutcomeStatus.ACCEPTED, OutcomeStatus.DUPLICATE}
        stored = around.store.examples()
        assert [example.seq for example in stored] == sorted({example.seq for example in stored})
        assert sorted(source for example in stored for source in example.sources) == sorted(said)
        published = {(example.example_id, example.seq) for example in around.published()}
        assert {(example.example_id, example.seq) for example in stored} <= published
        assert {letter.value for letter in around.dead_letters()} == {"poison 10", "poison 30", "poison 50"}
