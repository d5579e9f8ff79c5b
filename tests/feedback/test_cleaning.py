"""Cleaning: what was broken on the way is mended, and what was meant is left alone."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.cleaning import clean


def _clean(text: str) -> str:
    return str(clean({"text": text})["text"])


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("where is my parcel", "where is my parcel"),
        ("  two\t\n lines \r\n", "two lines"),
        ("schÃ¶n", "schön"),
        ("&lt;b&gt; &amp; so", "<b> & so"),
        ("be\x07ll\x00", "bell"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("co\u00adoperate \u200bzero\u200b \u202eleft\u202c", "cooperate zero left"),
        ("\ufeffmark", "mark"),
        ("\u0645\u06cc\u200c\u062e\u0648", "\u0645\u06cc\u200c\u062e\u0648"),
        ("👩\u200d👧 hi", "👩\u200d👧 hi"),
        ("\u200d lone \u200c", "lone"),
        ("送金 を 取消", "送金 を 取消"),
        (" \u200b\u200d\x00 ", ""),
        ("", ""),
    ],
)
def test_a_text_is_mended_and_left_alone(text: str, cleaned: str) -> None:
    assert _clean(text) == cleaned


def test_what_is_no_text_is_left_alone() -> None:
    assert clean({"a": 3, "b": None, "c": [" x "]}) == {"a": 3, "b": None, "c": [" x "]}


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_no_text_makes_it_fail_and_none_comes_out_dirty(text: str) -> None:
    cleaned = _clean(text)
    assert cleaned == " ".join(cleaned.split())
    assert {unicodedata.category(char) for char in cleaned if char not in "\u200c\u200d"} & {"Cc", "Cf", "Cs"} == set()
    cleaned.encode()
