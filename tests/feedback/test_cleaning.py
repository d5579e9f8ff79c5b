"""Cleaning: what was broken on the way is mended, and what was meant is left alone."""

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InvalidInput
from feedback.cleaning import Cleaner


def _clean(text: str) -> str:
    return str(Cleaner().clean({"text": text})["text"])


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
        ("a < b and b > c", "a < b and b > c"),
        ("is 3<4 or 4>3?", "is 3<4 or 4>3?"),
        ("my <order number> is lost", "my <order number> is lost"),
        ("how do I close <b> in a mail", "how do I close <b> in a mail"),
        ("</p> comes first", "</p> comes first"),
        ("<p>where is<br/>my <b class='x'>parcel</b>?</p>", "where is my parcel?"),
        ("so&nbsp;<i>late</i> &amp; lost", "so late & lost"),
        ("<style>p {color: red}</style><p>lost</p><!-- <p>not</p> -->", "lost"),
        ("my card\nSent from my iPhone", "my card"),
        ("Sent from my iPhone", ""),
        ("Sent from my mobile banking app, it never came", "Sent from my mobile banking app, it never came"),
        ("sent from my savings account", "sent from my savings account"),
        ("my card is lost\n-- \nAnna Meyer\nExample Ltd", "my card is lost"),
        ("cards -- two of them\n--\n" + "line\n" * 12, "cards -- two of them -- " + "line " * 11 + "line"),
        ("我的卡丢了\n发自我的iPhone", "我的卡丢了"),
        ("lost\nThis message is confidential and only for you.", "lost"),
        ("this message is not for you", "this message is not for you"),
    ],
)
def test_a_text_is_mended_and_left_alone(text: str, cleaned: str) -> None:
    assert _clean(text) == cleaned


def test_what_is_no_text_is_left_alone() -> None:
    assert Cleaner().clean({"a": 3, "b": None, "c": [" x "]}) == {"a": 3, "b": None, "c": [" x "]}


def test_lines_of_an_operators_own_are_dropped_and_short_or_foreign_texts_refused() -> None:
    cleaner = Cleaner(boilerplate=["Example Ltd, the  bank you love"], min_chars=3, scripts=["latin", "HAN"])
    assert cleaner.clean({"text": "lost\n example ltd, the bank you LOVE \n"}) == {"text": "lost"}
    for fine in ("größe?", "送金 を 取消", "123", "hi да 送金", ""):
        assert cleaner.clean({"text": fine}) == {"text": fine}
    with pytest.raises(InvalidInput, match="'text' has 2 characters; it must have min_text_chars = 3"):
        cleaner.clean({"text": "hi"})
    with pytest.raises(InvalidInput, match="mostly in the script CYRILLIC; allowed_scripts are HAN, LATIN"):
        cleaner.clean({"text": "где моя card"})


PIECES = [
    "<p>",
    "</p>",
    "<br>",
    "&lt;",
    "&amp;",
    "<!--",
    "-->",
    "<script>",
    "\n",
    "-- \n",
    "Sent from my iPhone",
    "schÃ¶n",
    "\u200d",
]


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=40) | st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=10).map("".join))
def test_no_text_makes_it_fail_none_comes_out_dirty_and_a_clean_one_stays(text: str) -> None:
    cleaned = _clean(text)
    assert cleaned == " ".join(cleaned.split())
    assert {unicodedata.category(char) for char in cleaned if char not in "\u200c\u200d"} & {"Cc", "Cf", "Cs"} == set()
    cleaned.encode()
    assert _clean(cleaned) == cleaned


@pytest.mark.parametrize("piece", ["<!--", "<script>", "<a ", "<p", "-- \n", "&lt;p&gt;", "Sent from my mobile 1 "])
def test_texts_made_to_be_slow_are_not(piece: str) -> None:
    started = time.thread_time()
    _clean("<br>-->" + piece * (50_000 // len(piece)))
    assert time.thread_time() - started < 3
