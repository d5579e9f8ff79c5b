"""Many feedbacks settled as one: what they need is read at once, what comes of them is written at once.

Settling one feedback takes some ten small statements; for five hundred of them the database's round trips are nearly all of
the time. A batch asks once for all of them, keeps what changes in memory, and writes each table once.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from core.events import Example, Feedback, Origin, Outcome, Split
from core.examples.near import Rank
from core.examples.transaction import QuarantinedClaim, Rejection, Stored, StoreTransaction


class ExampleBatch:
    """The examples, claims and counts that some feedback is about, as they are in the transaction after each step.

    Nothing is written before :meth:`flush`.
    """

    def __init__(self, store: StoreTransaction, *, example_ids: Iterable[str], targets: Iterable[str]) -> None:
        """Read what claims of these targets for these examples need."""
        #: of the examples that are new, or an audit now: what they drew
        self.draws: dict[str, tuple[Rank, Split]] = {}
        #: examples that were there and have another target now
        self.retargeted: set[str] = set()
        #: examples of which a target was rejected, and whether it is the one that they have
        self.rejected: dict[str, bool] = {}
        targets = set(targets)
        #: those of the targets that the seed has
        self.seeded = store.seeded(targets)
        ids, known = set(example_ids), Counter(store.label_counts())
        #: examples by label
        self.counts = known
        self._store = store
        self._stored = store.examples(ids)
        seeds = [name for name, (example, *_) in self._stored.items() if example.origin == Origin.SEED]
        #: what the seeds among the examples drew, whatever they are used for
        self.drawn = {name: text.drawn for name, text in store.near.texts(seeds).items()}
        self._claims = {
            claim.feedback_id: claim for claim in store.claims(targets=targets - known.keys(), example_ids=ids)
        }
        self._rejections = {item.feedback_id: item for item in store.rejections(ids)}
        self._rejected: list[Rejection] = []
        self._news: dict[str, None] = {}
        self._noted: dict[str, None] = {}
        self._quarantined: list[QuarantinedClaim] = []
        self._answered: set[str] = set()
        self._outcomes: list[Outcome] = []

    def example(self, example_id: str) -> Stored | None:
        """An example with the time and the id of the feedback that set its target."""
        return self._stored.get(example_id)

    def load(self, example_ids: Iterable[str]) -> dict[str, Stored]:
        """Examples, read as far as they were not yet, in the order asked."""
        ids = list(example_ids)
        if missing := [name for name in ids if name not in self._stored]:
            self._stored |= self._store.examples(missing)
        return {name: self._stored[name] for name in ids if name in self._stored}

    def draw(self, example_id: str, rank: Rank, drawn: Split) -> None:
        """Note what a new example drew, or that one is an audit now."""
        self.draws[example_id] = (rank, drawn)

    def put_example(self, example: Example, *, target_at: datetime, target_by: str) -> None:
        """A new example, or a new state of one; of several states only the last one is published."""
        before = self._stored.get(example.example_id)
        if before is None:
            self.counts[example.target] += 1
        elif before[0].target != example.target:
            self.retargeted.add(example.example_id)
            self.counts[example.target] += 1
            self.counts[before[0].target] -= 1
            self.counts = +self.counts  # labels without examples are not known
        self._stored[example.example_id] = (example, target_at, target_by)
        self._news[example.example_id] = None

    def add_source(self, example: Example, source: str) -> None:
        """Note one more source of an example; that is no news to anybody."""
        held, target_at, target_by = self._stored[example.example_id]
        sources = sorted({*held.sources, source})
        self._stored[held.example_id] = (held.model_copy(update={"sources": sources}), target_at, target_by)
        self._noted[held.example_id] = None

    def renew_target(self, example: Example, *, target_at: datetime, target_by: str) -> None:
        """Note that the target was said again: what was said before that, but comes later, does not replace it."""
        held, at, by = self._stored[example.example_id]
        latest = max((at, by), (target_at, target_by))
        self._stored[held.example_id] = (held, *latest)
        self._noted[held.example_id] = None

    def add_quarantined(self, event: Feedback, *, example_id: str) -> None:
        """Remember that an annotator claims a target that is not believed yet."""
        claim = QuarantinedClaim.of(event, example_id=example_id)
        self._claims[event.feedback_id] = claim
        self._quarantined.append(claim)

    def quarantined(self, *, target: str, example_id: str | None = None) -> dict[str, str]:
        """Claims of a target (for one example, or for any) that were not believed alone: annotator by feedback id."""
        return {
            claim.feedback_id: claim.annotator
            for claim in self._claims.values()
            if claim.target == target and example_id in (None, claim.example_id)
        }

    def add_rejection(self, rejection: Rejection) -> None:
        """Remember a target that somebody says is wrong."""
        self._rejections[rejection.feedback_id] = rejection
        self._rejected.append(rejection)

    def rejections(self) -> list[Rejection]:
        """What was rejected of the batch's examples."""
        return list(self._rejections.values())

    def mark_answered(self, prediction_id: str) -> None:
        """Take a prediction off the review queue."""
        self._answered.add(prediction_id)

    def add_outcome(self, outcome: Outcome) -> None:
        """Write a row of the ledger; one that is there stays as it is."""
        self._outcomes.append(outcome)

    def flush(self) -> None:
        """Write everything into the transaction."""
        store = self._store
        store.put_examples([self._stored[name] for name in self._news])
        store.note([self._stored[name] for name in self._noted if name not in self._news])
        store.add_claims(*self._quarantined)
        store.add_rejections(*self._rejected)
        store.mark_answered(*self._answered)
        store.add_outcome(*self._outcomes)
