"""A process that starts real consumers, one after the other, for a test that kills them.

It imports everything once and forks for each line on its standard input; the answer is the process number.

    python -m tests.feedback.killable HOME
"""

import os
import sys
import threading
from pathlib import Path

from core.eventlog.base import EventLog
from core.logs import configure_logs
from feedback import consumer
from tests.contracts.eventlog_worker import open_fast
from tests.feedback.harness import settings_for


def main(home: Path) -> None:
    """Fork a consumer for each line read; end with the input."""
    configure_logs(program="feedback", level="warning")

    def open_log(url: str, *, partitions: int) -> EventLog:
        return open_fast(url)  # a dead member's share is free soon

    consumer.open_log = open_log  # type: ignore[attr-defined,assignment]
    settings = settings_for(home, consumer_batch=5, feedback_port=0)
    print("ready", flush=True)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            consumer.run_feedback(settings, threading.Event())
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
