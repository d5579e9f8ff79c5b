"""Who sends corrections: each is sent with its key again and again until it is acknowledged."""

import http.client
import json
import random
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from core.events import FeedbackKind

_SYLLABLES: Final = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "xo", "zu")
_TEXTS_SHARE: Final = 3
"""So many corrections to a text, in the mean: the same text comes again and again, with other targets, too."""
_AGAIN: Final = 0.03
"""Share of the corrections that are sent once more after their acknowledgement, as by a client that lost it."""
_PAUSE_S: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What a user has to say; all of it follows from seed and number."""

    key: str
    #: which of the texts, and how this user spells it
    text: int
    spelling: str
    kind: FeedbackKind
    target: str | None
    #: said of a prediction, which is asked for first; otherwise it brings its text along
    on_prediction: bool
    again: bool


@dataclass(frozen=True, kw_only=True)
class Acknowledged:
    """A correction that was answered 202: from here on nobody may lose it."""

    correction: Correction
    feedback_id: str
    prediction_id: str | None
    #: the label that was predicted
    label: str | None


def text_of(seed: int, number: int) -> str:
    """One of the texts: made-up words, so that no two are alike and nothing in them is masked."""
    draw = random.Random(f"{seed}/text/{number}")
    return " ".join("".join(draw.choices(_SYLLABLES, k=draw.randint(2, 4))) for _ in range(8))


def correction(seed: int, number: int, *, total: int, labels: list[str]) -> Correction:
    """The correction of a number."""
    draw = random.Random(f"{seed}/{number}")
    text = draw.randrange(max(1, total // _TEXTS_SHARE))
    words = text_of(seed, text)
    spelling = draw.choice([words, words.upper(), words.replace(" ", "  "), f"\t{words}\n", words.replace(" ", "\xa0")])
    on_prediction = draw.random() < 0.3
    kinds = [FeedbackKind.CORRECT, FeedbackKind.CORRECT, FeedbackKind.IMPLICIT]
    kind = draw.choice([*kinds, FeedbackKind.CONFIRM, FeedbackKind.REJECT] if on_prediction else kinds)
    return Correction(
        key=f"{seed}-{number}",
        text=text,
        spelling=spelling,
        kind=kind,
        target=draw.choice(labels) if kind in (FeedbackKind.CORRECT, FeedbackKind.IMPLICIT) else None,
        on_prediction=on_prediction,
        again=draw.random() < _AGAIN,
    )


class Writers:
    """Threads that send the corrections 0 to ``total``, as far as they are let."""

    def __init__(self, port: int, *, seed: int, total: int, labels: list[str], threads: int) -> None:
        self._port, self._seed, self._total, self._labels = port, seed, total, labels
        self._turn = threading.Condition()
        self._next = self._allowed = 0
        self._stopped = False
        self.acknowledged: list[Acknowledged] = []
        #: answers by status; 0: none
        self.answers: Counter[int] = Counter()
        self.faults: list[str] = []
        self._threads = [threading.Thread(target=self._write, daemon=True) for _ in range(threads)]

    def start(self) -> None:
        """Begin; nothing is sent until :meth:`allow`."""
        for thread in self._threads:
            thread.start()

    def allow(self, count: int) -> None:
        """Let the corrections below ``count`` be sent."""
        with self._turn:
            self._allowed = count
            self._turn.notify_all()

    def stop(self) -> None:
        """End the threads, whatever they wait for."""
        with self._turn:
            self._stopped = True
            self._turn.notify_all()
        for thread in self._threads:
            thread.join(30)

    def _take(self) -> int | None:
        with self._turn:
            self._turn.wait_for(lambda: self._stopped or self._next < min(self._allowed, self._total))
            if self._stopped:
                return None
            self._next += 1
            return self._next - 1

    def _write(self) -> None:
        with closing(_Client(self._port)) as client:
            while (number := self._take()) is not None:
                said = correction(self._seed, number, total=self._total, labels=self._labels)
                try:
                    self._send(client, said)
                except Exception as error:  # a fault of ours must end the run, not a thread
                    self.faults.append(f"{said.key}: {type(error).__name__}: {error}")

    def _send(self, client: "_Client", said: Correction) -> None:
        prediction: dict[str, Any] = {}
        if said.on_prediction:
            found = self._until(client, 200, "/v1/predict", {"text": said.spelling}, {})
            if found is None:
                return
            prediction = found
        body: dict[str, Any] = {"kind": said.kind.value}
        body |= {"prediction_id": prediction["prediction_id"]} if prediction else {"text": said.spelling}
        if said.target is not None:
            body["label"] = said.target
        ids = set()
        for _ in range(2 if said.again else 1):
            answer = self._until(client, 202, "/v1/feedback", body, {"Idempotency-Key": said.key})
            if answer is None:
                break
            ids.add(answer["feedback_id"])
        if len(ids) > 1:
            self.faults.append(f"{said.key}: one key, two ids: {sorted(ids)}")
        for feedback_id in ids:
            self.acknowledged.append(
                Acknowledged(
                    correction=said,
                    feedback_id=feedback_id,
                    prediction_id=prediction.get("prediction_id"),
                    label=prediction.get("label"),
                )
            )

    def _until(
        self, client: "_Client", wanted: int, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> dict[str, Any] | None:
        """Ask until the wanted answer comes; None when the run was stopped first."""
        while not self._stopped:
            status, answer = client.post(path, body, headers)
            self.answers[status] += 1
            if status == wanted:
                return answer
            if status and status not in (429, 503):
                self.faults.append(f"{path} answered {status}: {answer}")
            time.sleep(_PAUSE_S)
        return None


class _Client:
    """A connection that is made anew after every failure."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: http.client.HTTPConnection | None = None

    def post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Status and answer; status 0 where none came."""
        connection = self._connection or http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        self._connection = connection
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            return response.status, dict(json.loads(response.read()))
        except (OSError, http.client.HTTPException, ValueError):
            self.close()
            return 0, {}

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
