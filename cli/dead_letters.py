"""``ratchet dead-letters``: the records that could not be processed, one by one or all, and back into the log.

A letter is known by where its record lay: TOPIC/PARTITION/OFFSET. What was replayed is marked in the log itself, by the
same letter with the time of the replay, so that every log can do it and nobody lists it again.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from core.errors import BadRecord, RatchetError
from core.eventlog import open_log
from core.eventlog.base import EventLog, NewRecord
from core.events import DEAD_LETTERS, DeadLetter, decode, encode, now
from core.settings import Settings

_PAGE = 1_000


class UnknownLetter(RatchetError):
    """There is no such dead letter."""


class CutLetter(RatchetError):
    """The letter holds only the beginning of its record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """A dead letter, and the key under which it lies in its topic."""

    key: str
    content: DeadLetter

    @property
    def place(self) -> str:
        """Where its record lay: the name by which commands mean it."""
        return f"{self.content.topic}/{self.content.partition}/{self.content.offset}"


class DeadLetters:
    """The dead letters of one model in a log."""

    def __init__(self, log: EventLog, model: str) -> None:
        self._log = log
        self._model = model

    def all(self) -> list[Letter]:
        """Every letter once, as it was last written, oldest first. Raises LogUnavailable."""
        found: dict[str, Letter] = {}
        positions = dict.fromkeys(self._log.ends(DEAD_LETTERS), 0)
        while page := self._log.read(DEAD_LETTERS, positions, limit=_PAGE):
            positions |= {record.partition: record.offset + 1 for record in page}
            for record in page:
                try:
                    event = decode(record.value)
                except BadRecord:  # a newer Ratchet's letter, or no letter at all: the others are shown all the same
                    continue
                if isinstance(event, DeadLetter) and event.model == self._model:
                    letter = Letter(key=record.key, content=event)
                    known = found.get(letter.place)
                    # a letter that a crash has sent again is no news of one that was replayed
                    if known is None or known.content.replayed_at is None:
                        found[letter.place] = letter
        return sorted(found.values(), key=lambda letter: (letter.content.at, letter.place))

    def waiting(self) -> list[Letter]:
        """Those that nobody has replayed yet."""
        return [letter for letter in self.all() if letter.content.replayed_at is None]

    def find(self, place: str) -> Letter:
        """One letter. Raises UnknownLetter."""
        for letter in self.all():
            if letter.place == place:
                return letter
        raise UnknownLetter(f"no dead letter {place!r}; `ratchet dead-letters list --all` says which there are")

    def replay(self, letter: Letter) -> None:
        """Append the record anew to where it came from, then mark the letter; one that is marked is left alone.

        A crash in between leaves it unmarked: it is replayed again, which the ids in the records make harmless.

        Raises:
            CutLetter: the record was too long to be kept whole.
            LogUnavailable: it is not certain that the log has it; do it again.
        """
        content = letter.content
        if content.replayed_at is not None:
            return
        if content.cut_from is not None:
            raise CutLetter(
                f"the record of {letter.place} had {content.cut_from} bytes and only its beginning was kept: "
                "it cannot be replayed; send it again from where it came"
            )
        self._log.append(content.topic, [NewRecord(key=content.key, value=content.value.encode("latin-1"))])
        marked = content.model_copy(update={"replayed_at": now()})
        self._log.append(DEAD_LETTERS, [NewRecord(key=letter.key, value=encode(marked))])


@contextmanager
def dead_letters(settings: Settings) -> Iterator[DeadLetters]:
    """The letters in the log that the settings name."""
    with closing(open_log(settings.event_log_url, partitions=settings.log_partitions)) as log:
        yield DeadLetters(log, settings.model)


def print_letters(letters: Sequence[Letter], console: Console) -> None:
    """As a table."""
    if not letters:
        console.print("no dead letters")
        return
    table = Table("letter", "at", "reason", "replayed")
    for letter in letters:
        content = letter.content
        replayed = content.replayed_at.isoformat(timespec="seconds") if content.replayed_at else ""
        table.add_row(letter.place, content.at.isoformat(timespec="seconds"), content.reason[:200], replayed)
    console.print(table)


def replay_letters(found: DeadLetters, places: Sequence[str], console: Console) -> bool:
    """Replay the named letters, or all that wait; False where some could not be.

    Raises:
        UnknownLetter: one is not there; then none is replayed.
    """
    chosen = [found.find(place) for place in places] if places else found.waiting()
    complete = True
    for letter in chosen:
        try:
            found.replay(letter)
        except CutLetter as error:
            console.print(str(error))
            complete = False
        else:
            console.print(f"replayed {letter.place}")
    return complete
