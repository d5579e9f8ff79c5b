"""The records: what is written can be read, and what cannot be read says why."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import MalformedEvent, UnsupportedSchema
from core.events import (
    Command,
    DeadLetter,
    Event,
    Example,
    Feedback,
    FeedbackKind,
    Origin,
    Prediction,
    Split,
    decode,
    encode,
    new_id,
)

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)
SHARE = st.floats(min_value=0, max_value=1)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=-7, minutes=-30)), timezone(timedelta(hours=14))])
AT = st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2200, 1, 1), timezones=ZONES)
COMMON = {"model": TEXT, "at": AT}
INPUTS = st.fixed_dictionaries({"text": TEXT})
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        Prediction, prediction_id=TEXT, model_version=TEXT, task=TEXT, inputs=INPUTS, confidence=SHARE, api_key_id=TEXT,
        output=st.dictionaries(TEXT, TEXT | SHARE | st.none() | st.lists(st.integers())),
        embedding=st.none() | st.lists(SHARE), audit_probability=st.none() | SHARE.filter(bool), **COMMON,
    ),
    st.builds(
        Feedback, feedback_id=TEXT, kind=st.sampled_from(FeedbackKind), prediction_id=st.none() | TEXT,
        inputs=st.none() | INPUTS, target=st.none() | TEXT | st.lists(TEXT), trusted=st.booleans(), **COMMON,
    ),
    st.builds(Command, command_id=TEXT, reason=TEXT, **COMMON),
    st.builds(
        Example, example_id=TEXT, seq=st.integers(min_value=0), task=TEXT, inputs=INPUTS, target=TEXT,
        origin=st.sampled_from(Origin), split=st.sampled_from(Split), trust=SHARE, sources=st.lists(TEXT), **COMMON,
    ),
    st.builds(
        DeadLetter, topic=TEXT, partition=st.integers(), offset=st.integers(), key=TEXT, reason=TEXT,
        value=st.binary(max_size=40).map(lambda value: value.decode("latin-1")), **COMMON,
    ),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(event=EVENTS)
def test_every_event_comes_back_as_it_was_written(event: Event) -> None:
    assert decode(encode(event)) == event


@settings(max_examples=50, deadline=None)
@given(event=EVENTS, version=st.integers(min_value=2, max_value=10**6), news=TEXT)
def test_an_event_of_a_newer_schema_is_told_apart_whatever_else_is_new_in_it(
    event: Event, version: int, news: str
) -> None:
    document = json.loads(encode(event)) | {"schema_version": version, "a field of the future": news}
    with pytest.raises(UnsupportedSchema, match=f"schema_version {version}, this program reads up to 1"):
        decode(json.dumps(document).encode())


@settings(max_examples=200, deadline=None)
@given(value=st.binary(max_size=60))
def test_garbage_is_a_malformed_event_and_nothing_else(value: bytes) -> None:
    with pytest.raises(MalformedEvent):
        decode(value)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (b"", "event: Invalid JSON"),
        (b"[" * 100_000, "event: Invalid JSON"),
        (b'"\xff"', "event: Invalid JSON"),
        (b"[]", "event: "),
        (b"{}", "event: Unable to extract tag"),
        (b'{"type": "gossip"}', "event: Input tag 'gossip'"),
        (b'{"type": "feedback"}', "feedback.feedback_id: Field required"),
        (b'{"type": "feedback", "feedback_id": "f", "kind": "applaud"}', "feedback.kind: "),
        (b'{"type": "feedback", "feedback_id": "f", "lable": "x"}', "feedback.lable: Extra inputs"),
        (b'{"type": "feedback", "feedback_id": "f", "at": "2026-01-01T00:00:00"}', "feedback.at: "),
        (b'{"type": "command", "command_id": "c", "schema_version": 0}', "command.schema_version: "),
    ],
)
def test_a_broken_event_is_refused_with_the_place_of_its_fault(value: bytes, place: str) -> None:
    with pytest.raises(MalformedEvent) as refused:
        decode(value)
    assert f"the record is not a Ratchet event: {place}" in str(refused.value)


def test_ids_are_unique_and_sort_by_the_time_they_were_made() -> None:
    ids = [new_id() for _ in range(5_000)]
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)
