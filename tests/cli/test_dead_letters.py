"""Dead letters are listed with reason and place, and replayed once; what is still poison comes back as another letter."""

from pathlib import Path

from typer.testing import CliRunner

from cli.dead_letters import DeadLetters
from cli.main import app
from core.eventlog.base import NewRecord
from core.events import DEAD_LETTERS, DeadLetter, OutcomeStatus, encode
from tests.feedback.harness import Running, feedback, running, settings_for

RUNNER = CliRunner()


def _letter(around: Running, value: bytes, **fields: object) -> str:
    """A letter as the consumer writes it; returns its place."""
    usual = {"topic": "interactions", "partition": 1, "offset": 7, "key": "k", "reason": "a fault since mended"}
    letter = DeadLetter.model_validate({**usual, "value": value.decode("latin-1"), **fields})
    around.log.append(DEAD_LETTERS, [NewRecord(key="k", value=encode(letter))])
    return f"{letter.topic}/{letter.partition}/{letter.offset}"


def test_poison_is_listed_with_its_place_and_comes_back_as_another_letter_when_replayed(tmp_path: Path) -> None:
    with running(settings_for(tmp_path)) as around:
        around.send(b"poison", feedback(1, None, "alpha", text="a text of mine"))
        around.drain()
        found = DeadLetters(around.log, "default")
        (before,) = found.waiting()
        assert "not a Ratchet event" in before.content.reason
        listed = RUNNER.invoke(app, ["dead-letters", "list", "--home", str(tmp_path)], env={"COLUMNS": "200"})
        assert before.place in listed.output
        shown = RUNNER.invoke(app, ["dead-letters", "show", before.place, "--home", str(tmp_path)])
        assert '"value": "poison"' in shown.output
        assert RUNNER.invoke(app, ["dead-letters", "replay", "--home", str(tmp_path)]).exit_code == 0
        around.drain()
        (after,) = found.waiting()
        assert after.place != before.place
        assert (after.content.value, after.content.key) == (before.content.value, before.content.key)
        assert {letter.place for letter in found.all()} == {before.place, after.place}


def test_a_record_whose_fault_is_mended_is_settled_once_however_often_it_is_replayed(tmp_path: Path) -> None:
    with running(settings_for(tmp_path)) as around:
        place = _letter(around, encode(feedback(1, None, "alpha", text="a text of mine")))
        for _ in range(2):
            assert RUNNER.invoke(app, ["dead-letters", "replay", place, "--home", str(tmp_path)]).exit_code == 0
        around.drain()
        assert [outcome.status for outcome in around.store.outcomes()] == [OutcomeStatus.ACCEPTED]
        assert sum(around.log.ends("interactions").values()) == 1
        _letter(around, b"sent again by a crash of the consumer")
        assert not DeadLetters(around.log, "default").waiting()


def test_a_record_that_was_kept_in_part_is_not_replayed(tmp_path: Path) -> None:
    with running(settings_for(tmp_path)) as around:
        place = _letter(around, b"the beginning", cut_from=500_000)
        refused = RUNNER.invoke(app, ["dead-letters", "replay", "--home", str(tmp_path)])
        assert refused.exit_code == 1
        assert "500000 bytes" in refused.output
        assert [letter.place for letter in DeadLetters(around.log, "default").waiting()] == [place]
        assert sum(around.log.ends("interactions").values()) == 0
