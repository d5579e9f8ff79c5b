"""``ratchet review``: what a person types becomes the feedback that was asked for."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from cli.client import Client, RequestFailed
from cli.review import review
from core.events import Feedback, Prediction
from core.examples import ExampleStore
from core.examples.review import Waiting
from tests.service.serving import Served, champion, interactions, serving, settings_for


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    champion(tmp_path, "v-0001")
    settings = settings_for(tmp_path)
    with closing(ExampleStore(settings.example_store_url, settings.model)) as store:
        store.migrate()
        top = [{"label": label, "score": score} for label, score in (("beta", 0.6), ("alpha", 0.3), ("gamma", 0.1))]
        made = [
            Prediction(
                prediction_id=f"p{number}", model_version="v-0001", task="text_classification",
                inputs={"text": f"text [{number}]"}, output={"label": "beta", "score": 0.6, "top": top}, confidence=0.6,
            )
            for number in range(6)
        ]  # fmt: skip
        with store.transaction() as transaction:
            transaction.add_predictions(made)
            transaction.review.add(
                [
                    Waiting(
                        prediction_id=event.prediction_id, lot=0.5, probability=None, doubt=1 - place / 10, at=event.at
                    )
                    for place, event in enumerate(made)
                ]
            )
    with serving(settings) as found:
        yield found


def said(served: Served) -> dict[str | None, tuple[str, object, bool]]:
    served.program.drainer.wake()
    found = [event for event in interactions(served.program.settings) if isinstance(event, Feedback)]
    return {event.prediction_id: (event.kind.value, event.target, event.asked) for event in found}


def typing(*lines: str) -> Callable[[str], str]:
    left = iter(lines)

    def ask(_prompt: str) -> str:
        line = next(left, None)
        if line is None:
            raise EOFError
        return line

    return ask


def ask_for(served: Served, limit: int, *lines: str) -> tuple[int, str]:
    console = Console(markup=False, highlight=False, record=True, width=100)
    with Client(f"http://127.0.0.1:{served.port}", None) as client:
        given = review(client, limit=limit, console=console, ask=typing(*lines))
    served.program.stop(2.0)
    return given, console.export_text()


def test_lines_become_answers_that_were_asked_for(served: Served) -> None:
    given, shown = ask_for(served, 50, "", "2", "s", "new label", "beta")
    assert given == 4
    assert "text [0]" in shown
    assert "1) beta  2) alpha  3) gamma" in shown
    assert said(served) == {
        "p0": ("confirm", None, True),
        "p1": ("correct", "alpha", True),
        "p3": ("correct", "new label", True),
        "p4": ("confirm", None, True),
    }


def test_it_ends_at_the_limit_and_where_the_person_ends_it(served: Served) -> None:
    assert ask_for(served, 2, *["1"] * 9)[0] == 2
    assert set(said(served)) == {"p0", "p1"}


def test_what_cannot_be_sent_is_told(served: Served) -> None:
    with pytest.raises(RequestFailed, match="'label'"):
        ask_for(served, 5, "x" * 300)
