"""How many interactions a second one feedback consumer sustains: decoded, joined, cleaned, scored, stored and published.

    python -m benchmarks.consumer [--data FOLDER_OF_BANKING77] [--events 20000] [--feedback 0.25] [--store URL] [--profile]

A log is filled with predictions on real texts and with feedback on a part of them; then one consumer, with a real model in
int8, takes it from the first record to the last, in a store that holds 3,000 seed examples already. Prints events a second,
over all and in the slowest fifth, and how the outcomes came out. To compare two states of the code, run it in a checkout of
each, in turns.
"""

import argparse
import cProfile
import itertools
import json
import pstats
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import make_url

from benchmarks.serving.bundle import fill_registry, make_bundles
from benchmarks.serving.texts import TASK, labelled
from core.eventlog import open_log
from core.eventlog.base import NewRecord
from core.events import INTERACTIONS, Event, Feedback, FeedbackKind, Prediction, encode
from core.examples import ExampleStore
from core.examples.engine import open_engine
from core.settings import Settings, id_key
from feedback.consumer import Consumer
from feedback.seed import import_seed

_SEEDS: Final = 3_000
_RIGHT: Final = 0.9
"""Share of the predictions that are right."""
_TRUSTED: Final = 0.3
_USERS: Final = 200
_FIFTHS: Final = 5
Row = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What one run came to."""

    events: int
    seconds: float
    #: events a second in the slowest fifth of them
    slowest: float
    outcomes: dict[str, int]
    splits: dict[str, int]

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


def traffic(rows: Sequence[Row], *, events: int, feedback: float, seed: int) -> Iterator[Event]:
    """Predictions on the rows in turn and feedback on some of them, a few predictions later, as people give it."""
    rng = random.Random(seed)
    labels = sorted({label for _, label in rows})
    waiting: list[Feedback] = []
    sources = itertools.cycle(rows)
    said_of = feedback / (1 - feedback)
    for number in range(events):
        if waiting and rng.random() < 0.5 and len(waiting) > rng.randrange(40):
            yield waiting.pop(rng.randrange(len(waiting)))
            continue
        content, label = next(sources)
        predicted = label if rng.random() < _RIGHT else rng.choice(labels)
        event = _prediction(number, content, predicted, rng)
        yield event
        if rng.random() < said_of:
            waiting.append(_feedback(number, event.prediction_id, label, predicted == label, rng))


def _prediction(number: int, content: str, label: str, rng: random.Random) -> Prediction:
    confidence = 0.3 + 0.7 * rng.random()
    return Prediction(
        prediction_id=f"p-{number:09}",
        model_version="bench-int8-v0",
        task=TASK,
        inputs={"text": content},
        output={"label": label, "score": confidence, "top": [{"label": label, "score": confidence}]},
        confidence=confidence,
        audit_probability=0.1 if rng.random() < 0.1 else None,
    )


def _feedback(number: int, about: str, label: str, right: bool, rng: random.Random) -> Feedback:
    kind = FeedbackKind.CONFIRM if right else FeedbackKind.CORRECT
    drawn = rng.random()
    if drawn < 0.05:
        kind = FeedbackKind.REJECT
    elif drawn < 0.15:
        kind = FeedbackKind.IMPLICIT
    trusted = rng.random() < _TRUSTED
    return Feedback(
        feedback_id=f"f-{number:09}",
        prediction_id=about,
        kind=kind,
        target=label if kind in (FeedbackKind.CORRECT, FeedbackKind.IMPLICIT) else None,
        annotator=f"user-{rng.randrange(_USERS)}",
        trusted=trusted,
        asked=trusted,
    )


def measure(settings: Settings, rows: Sequence[Row], events: Sequence[Event], profile: Path | None) -> Pace:
    """Fill store and log, and let one consumer take all of it."""
    store = ExampleStore(settings.example_store_url, settings.model)
    store.migrate()
    seeds = settings.home / "seeds.jsonl"
    seeds.write_text("".join(json.dumps({"text": line, "label": label}) + "\n" for line, label in rows[:_SEEDS]))
    import_seed(store, seeds, settings, id_key(settings), lambda _done, _total: None)
    log = open_log(settings.event_log_url, partitions=settings.log_partitions)
    for start in range(0, len(events), 1_000):
        log.append(INTERACTIONS, [_record(event) for event in events[start : start + 1_000]])
    consumer = Consumer(settings)
    marks: list[tuple[float, int]] = []
    watcher = threading.Thread(target=_watch, args=(store, settings, len(events), consumer, marks))
    consumer._live.refresh()  # the model is loaded before the clock starts
    watcher.start()
    started = time.perf_counter()
    _run(consumer, profile)
    watcher.join()
    ended = next(at for at, done in marks if done >= len(events))
    pace = Pace(
        events=len(events),
        seconds=ended - started,
        slowest=_slowest(started, marks, len(events)),
        outcomes=store.outcome_counts(),
        splits=_splits(store),
    )
    store.close()
    log.close()
    return pace


def _run(consumer: Consumer, profile: Path | None) -> None:
    if profile is None:
        consumer.run()
        return
    profiler = cProfile.Profile()
    profiler.runcall(consumer.run)
    profiler.dump_stats(profile)
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(70)


def _record(event: Event) -> NewRecord:
    assert isinstance(event, Prediction | Feedback)
    return NewRecord(key=event.prediction_id or "", value=encode(event))


def _watch(
    store: ExampleStore, settings: Settings, events: int, consumer: Consumer, marks: list[tuple[float, int]]
) -> None:
    """Note how far the consumer is, and end it when it is through and has published everything."""
    while not (marks and marks[-1][1] >= events and not store.outbox_size()):
        time.sleep(0.1)
        done = sum(store.positions(settings.consumer, INTERACTIONS).values())
        marks.append((time.perf_counter(), done))
    consumer.stop()


def _slowest(started: float, marks: Sequence[tuple[float, int]], events: int) -> float:
    rates = []
    before, at_before = 0, started
    for fifth in range(1, _FIFTHS + 1):
        at, done = next(mark for mark in marks if mark[1] >= events * fifth // _FIFTHS)
        rates.append((done - before) / (at - at_before))
        before, at_before = done, at
    return min(rates)


def _splits(store: ExampleStore) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for (_, split), count in store.example_counts().items():
        counts[str(split)] += count
    return dict(counts)


def _empty_database(url: str) -> None:
    """A schema of its own in a server's database, made anew, so that nothing of it is touched."""
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA IF EXISTS benchmark CASCADE"))
        connection.execute(text("CREATE SCHEMA benchmark"))
    engine.dispose()


def _options(url: str) -> dict[str, Any]:
    if not url:
        return {}
    _empty_database(url)
    own = make_url(url).update_query_dict({"options": "-csearch_path=benchmark"})
    return {"examples_url": own.render_as_string(hide_password=False)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with train.jsonl")
    parser.add_argument("--work", type=Path, default=Path(".bench"), help="where the model is cached")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--feedback", type=float, default=0.25, help="share of feedback among the events")
    parser.add_argument("--store", default="", help="postgresql+psycopg://… (its schema `benchmark` is made anew)")
    parser.add_argument("--batch", type=int, default=500, help="consumer_batch")
    parser.add_argument("--profile", type=Path, help="profile into this file; the pace is lower then")
    options = parser.parse_args()
    rows = labelled(options.data, "train")
    random.Random(0).shuffle(rows)
    bundles = make_bundles(options.work, options.data)
    events = list(traffic(rows[_SEEDS:], events=options.events, feedback=options.feedback, seed=1))
    home = Path(tempfile.mkdtemp(prefix="ratchet-consumer-"))
    try:
        fill_registry(home, bundles, "int8")
        settings = Settings(home=home, device="cpu", consumer_batch=options.batch, **_options(options.store))
        pace = measure(settings, rows, events, options.profile)
    finally:
        shutil.rmtree(home)
    print(
        f"{pace.events} events in {pace.seconds:.1f} s: {pace.rate:.0f}/s, slowest fifth {pace.slowest:.0f}/s; "
        f"outcomes {pace.outcomes}; splits {pace.splits}"
    )


if __name__ == "__main__":
    main()
