"""Masking: what it finds and what it leaves, on a set written for it; placeholders; time; one's own patterns."""

import json
import re
import time
from collections import Counter, defaultdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bundle import parse_manifest
from core.errors import BadSettings, UnservableBundle
from core.events import Feedback
from core.logs import _masking
from core.masking import Masker, Policy
from core.masking.checksums import IBAN_LENGTHS, is_card, is_chinese_id, is_iban, luhn
from core.masking.records import mask_annotator, mask_bytes, mask_event
from core.runtime import Servable
from core.settings import load_settings
from tests.support_bundles import make_bundle

CASES = Path(__file__).with_name("masking_cases.jsonl")
KINDS = {"MOBILE": "PHONE"}
#: at least so many of a kind's values are found, and so many of those found are of the kind
LEAST_RECALL, LEAST_PRECISION = 0.97, 0.97
MASKER = Masker.of(Policy())


def cases() -> list[dict[str, Any]]:
    """The set: ``text`` with each value in braces, its ``kind`` ("" where there is nothing to find), its ``lang``.

    The sign ¦ is taken out: it keeps made-up keys from being taken for real ones by those who look for such.
    """
    lines = CASES.read_text(encoding="utf-8").replace("¦", "").splitlines()
    return [json.loads(line) for line in lines]


def read(case: dict[str, Any]) -> tuple[str, list[tuple[int, int]]]:
    """A case's text without the braces, and where its values are."""
    if not case["kind"]:
        return case["text"], []
    text, spans, start = "", [], 0
    for piece in re.split("([{}])", case["text"]):
        if piece == "{":
            start = len(text)
        elif piece == "}":
            spans.append((start, len(text)))
        else:
            text += piece
    return text, spans


def score() -> dict[str, Counter[str]]:
    """By kind: values to be found, those of them that left no character behind, findings, and those that are right."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases():
        text, spans = read(case)
        kind = KINDS.get(case["kind"], case["kind"])
        found = MASKER._find(text)
        for start, end in spans:
            covered = any(item.start <= start and end <= item.end and item.kind == kind for item in found)
            counts[case["kind"]].update(values=1, found=covered)
        for item in found:
            right = item.kind == kind and any(item.start < end and start < item.end for start, end in spans)
            name = case["kind"] if item.kind == kind else item.kind
            counts[name].update(findings=1, right=right)
    return counts


# the test set


def test_the_set_is_large_enough_in_both_languages() -> None:
    sizes = Counter((bool(case["kind"]), case["lang"]) for case in cases())
    assert sizes[True, "en"] + sizes[True, "zh"] >= 200
    assert sizes[False, "en"] + sizes[False, "zh"] >= 200
    assert min(sizes.values()) >= 60
    assert {case["kind"] for case in cases()} == {"", "EMAIL", "PHONE", "MOBILE", "CARD", "IBAN", "CN_ID", "IP", "KEY"}


def test_precision_and_recall_of_each_kind() -> None:
    counts = score()
    lines = [
        f"{kind:7} recall {count['found']:3}/{count['values']:3}  precision {count['right']:3}/{count['findings']:3}"
        for kind, count in sorted(counts.items())
    ]
    table = "\n" + "\n".join(lines)
    print(table)
    for count in counts.values():
        assert count["found"] >= LEAST_RECALL * count["values"], table
        assert count["right"] >= LEAST_PRECISION * count["findings"], table


def test_what_the_masker_leaves_of_a_case_is_all_but_the_value() -> None:
    """The rest of a text is what a model learns from: words beside a value must not go with it."""
    good = total = 0
    for case in cases():
        if case["kind"]:
            text, spans = read(case)
            total += 1
            edges = [0, *(edge for span in spans for edge in span), len(text)]
            rest = "\0".join(text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))
            good += re.sub(r"\[[A-Z_]+_\d+\]", "\0", MASKER.mask(text)) == rest
    assert good >= 0.9 * total, f"{good} of {total}"


# placeholders


def test_the_same_value_is_the_same_placeholder_and_another_one_is_another() -> None:
    text = "Bob@example.com, bob@example.com and eve@example.com; 138 1234 5678 or 13812345678"
    assert MASKER.mask(text) == "[EMAIL_1], [EMAIL_1] and [EMAIL_2]; [PHONE_1] or [PHONE_1]"


def test_new_values_are_numbered_behind_placeholders_that_are_there() -> None:
    assert MASKER.mask("[EMAIL_2] and bob@example.com") == "[EMAIL_2] and [EMAIL_3]"


PIECES = st.sampled_from([read(case)[0] for case in cases()])
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=12)), max_size=5).map("".join)


@given(TEXTS)
def test_masking_what_is_masked_changes_nothing(text: str) -> None:
    masked = MASKER.mask(text)
    assert MASKER.mask(masked) == masked


def test_a_text_without_anything_comes_back_as_it_is() -> None:
    for inputs in ({"text": "where is my parcel"}, {"text": "订单号20241125123456没发货", "other": 5}):
        assert MASKER.mask_inputs(inputs) == inputs
    plain = {"text": "where are my 2 parcels"}
    assert MASKER.mask_inputs(plain) is plain


def test_fields_of_one_record_share_their_numbers() -> None:
    masked = MASKER.mask_inputs({"first": "a@example.com", "second": "b@example.com and a@example.com"})
    assert masked == {"first": "[EMAIL_1]", "second": "[EMAIL_2] and [EMAIL_1]"}


def test_without_a_policy_nothing_is_masked() -> None:
    assert Masker.of(None).mask_document({"text": "bob@example.com"}) == {"text": "bob@example.com"}
    assert load_settings(masking=False).masking_policy is None


# time


@pytest.mark.parametrize(
    "piece",
    ["1", "1 ", "12 ", "a", "a'", "a@", "a@b.", "@.", "::", "1:", "[A_", "-----BEGIN PRIVATE KEY-----", "+1-", "(1", "eyJ",
     "aB3", "DE89", "DE89 ", "1.1.", "138 1234 ", "a.b@c.d@", "１", "中1", "\u200b1", "0 1-", "key ", "call "],
)  # fmt: skip
def test_no_text_takes_more_than_its_length(piece: str) -> None:
    def seconds(length: int) -> float:
        text = (piece * length)[:length]
        taken = []
        for _ in range(2):
            started = time.thread_time()
            MASKER.mask(text)
            taken.append(time.thread_time() - started)
        return min(taken)

    short, long = seconds(2_500), seconds(20_000)
    assert long < 1.0
    assert long < 8 * 3 * max(short, 0.001)


# checksums


@pytest.mark.parametrize(
    "number", ["4111111111111111", "5500005555555559", "378282246310005", "6011111111111117", "30569309025904"]
)
def test_a_card_with_one_digit_changed_or_two_exchanged_is_none(number: str) -> None:
    assert is_card(number)
    for place, digit in enumerate(number):
        assert not luhn(f"{number[:place]}{(int(digit) + 1) % 10}{number[place + 1 :]}")
    assert not luhn(f"{number[:-2]}{number[-1]}{number[-2]}") or number[-1] == number[-2]


def test_ibans_and_identity_numbers_are_known_by_their_checksums() -> None:
    assert is_iban("DE89370400440532013000")
    assert not is_iban("DE89370400440532013001")
    assert not is_iban("DE8937040044053201300")
    assert all(15 <= length <= 33 for length in IBAN_LENGTHS.values())
    assert is_chinese_id("11010519491231002X")
    assert not is_chinese_id("110105194912310021")


# one's own


def test_own_patterns_come_first_and_have_their_own_placeholders() -> None:
    policy = load_settings(masking_patterns={"CUSTOMER": r"\bC-[0-9]{6}\b"}).masking_policy
    masker = Masker.of(policy)
    assert masker.mask("C-123456 and bob@example.com, not C-12345") == "[CUSTOMER_1] and [EMAIL_1], not C-12345"
    assert masker.mask("客户 C-123456") == "客户 [CUSTOMER_1]"


@pytest.mark.parametrize(
    ("name", "pattern", "told"),
    [
        ("customer", "C-[0-9]+", "capitals"),
        ("A_1", "x", "capitals"),
        ("A", "C-[0-9", "is not a regular expression: unterminated character set"),
        ("A", "(?i)c-[0-9]", "is not a regular expression: global flags"),
        ("A", "a)|(?:b", "is not a regular expression: unbalanced parenthesis"),
        ("A", "C-([0-9])", "has a group that captures"),
        ("A", "(?P<email>C)", "has a group that captures"),
        ("A", "[0-9]*", "matches an empty text"),
        ("A", r"\[.*\]", "or a placeholder"),
        ("A", "(?:a+)+b", "is too slow"),
        ("A", "(?:a|a)*b", "is too slow"),
        ("A", r"(?:\w+\s?)*!", "is too slow"),
        ("A", r"(?:\d\s?)+-x", "is too slow"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_told_with_its_reason(name: str, pattern: str, told: str) -> None:
    started = time.thread_time()
    with pytest.raises(BadSettings) as refused:
        load_settings(masking_patterns={name: pattern})
    assert f"masking_patterns: {name}: " in str(refused.value)
    assert told in str(refused.value)
    assert time.thread_time() - started < 3


@pytest.mark.parametrize(
    "pattern", [r"C-[0-9]{6}", r"\b[A-Z]{2}[0-9]{4,8}\b", "客户[0-9]{1,9}", r"(?<![0-9])7[0-9]{8}"]
)
def test_a_good_pattern_is_taken(pattern: str) -> None:
    assert load_settings(masking_patterns={"OWN": pattern}).masking_patterns == {"OWN": pattern}


NAMES = """
class Names:
    def find(self, text):
        from core.masking.recogniser import Found
        start = text.find("Alice")
        return [Found(start, start + 5, "NAME"), Found(start, start + 2, "PART")] if start >= 0 else []
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with a recogniser, and one that does not load."""
    (tmp_path / "masking_names.py").write_text(NAMES)
    info = tmp_path / "masking_names-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: masking-names\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[ratchet.recognisers]\nnames = masking_names:Names\nbroken = masking_names:Nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert entry_points(group="ratchet.recognisers", name="names")


@pytest.mark.usefixtures("installed")
def test_a_recogniser_of_another_package_finds_more_beside_the_built_in_kinds() -> None:
    masker = Masker.of(load_settings(masking_recogniser="names").masking_policy)
    masked = masker.mask("Alice wrote to alice@example.com, Alice")
    assert masked == "[NAME_1] wrote to [EMAIL_1], [NAME_1]"
    assert Masker.of(Policy(recogniser="names")).mask("[NAME_1] and nobody") == "[NAME_1] and nobody"
    with pytest.raises(BadSettings, match="'broken' does not load: AttributeError"):
        Masker.of(Policy(recogniser="broken"))


def test_a_recogniser_that_is_not_installed_is_told() -> None:
    with pytest.raises(BadSettings, match="no recogniser 'nobody' is installed"):
        Masker.of(Policy(recogniser="nobody"))


# records


def test_people_stay_apart_and_nobody_is_named() -> None:
    ann, bob = (mask_annotator(name, MASKER, b"k") for name in ("ann@example.com", "bob@example.com"))
    assert ann != bob
    assert re.fullmatch(r"\[EMAIL_[0-9a-f]{16}\]", ann)
    assert mask_annotator("Ann@Example.com", MASKER, b"k") == ann
    assert mask_annotator(ann, MASKER, b"another") == ann  # masked by a service, then by the consumer
    assert mask_annotator("worker-7", MASKER, b"k") == "worker-7"


def test_feedback_is_masked_in_every_text_that_people_wrote() -> None:
    said = Feedback(
        feedback_id="f1", inputs={"text": "mail bob@example.com"}, target="13812345678", annotator="bob@example.com"
    )
    masked = mask_event(said, MASKER, b"k")
    assert (masked.inputs, masked.target) == ({"text": "mail [EMAIL_1]"}, "[PHONE_1]")
    assert "bob" not in masked.model_dump_json()
    assert mask_event(masked, MASKER, b"k") is masked


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        (b'{"a":"bob@example.com"', b'{"a":"[EMAIL_1]"'),
        (b'{"a":"bob\\u0040example.com"', b'{"a":"[EMAIL_1]"'),
        (b'{"a": "bob\\u0040example.com", "n": 1}', b'{"a": "[EMAIL_1]", "n": 1}'),
        (b'{"bob@example.com": [13812345678, 5.5, null]}', b'{"[EMAIL_1]": ["[PHONE_1]", 5.5, null]}'),
        (b"\x00\xff bob@example.com \xfe", b"\x00\xff [EMAIL_1] \xfe"),
        (b'{"a": "\xff bob@example.com"}', b'{"a": "\xff [EMAIL_1]"}'),
        (b'{"a": "\\ud800 bob@example.com"}', b'{"a": "\xed\xa0\x80 [EMAIL_1]"}'),
    ],
)
def test_a_record_that_nobody_can_read_is_masked_as_far_as_it_is_text(value: bytes, masked: bytes) -> None:
    assert mask_bytes(value, MASKER) == masked


@pytest.mark.parametrize("value", [b"\x00\xffgarbage", b'{"a" :  "\\u00e9 1.0"}', b"[" * 100_000, b"1" * 5_000])
def test_a_record_without_anything_stays_as_it_came(value: bytes) -> None:
    assert mask_bytes(value, MASKER) == value


def test_a_log_line_hides_what_an_error_quotes_and_shows_the_servers() -> None:
    mask = _masking(Masker.of(Policy(), keep=frozenset({"IP"})))
    line = {
        "event": "failed",
        "exception": "ValueError: 'bob@example.com'",
        "reason": "10.0.0.7:9092 is away",
        "count": 3,
    }
    masked = mask(None, "error", dict(line))
    assert masked == {**line, "exception": "ValueError: '[EMAIL_1]'"}


# the model


def test_a_version_trained_on_masked_texts_reads_every_text_masked(tmp_path: Path) -> None:
    plain = Servable.load(make_bundle(tmp_path / "a", ["a", "b"], version="v-0001"), device="cpu")
    masked = Servable.load(make_bundle(tmp_path / "b", ["a", "b"], version="v-0002", masking=Policy()), device="cpu")
    raw, placeholder = {"text": "where is 13812345678"}, {"text": "where is [PHONE_1]"}
    read = [list(item.ids) for item in masked.tokenize([raw, placeholder])]
    assert read[0] == read[1] == list(plain.tokenize([placeholder])[0].ids)
    assert list(plain.tokenize([raw])[0].ids) != read[0]
    assert masked.text_of(raw) == placeholder["text"]


def test_a_manifest_from_before_masking_means_texts_as_they_come(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, ["a", "b"], version="v-0001")
    document = json.loads((tmp_path / "manifest.json").read_text())
    del document["masking"]
    assert parse_manifest(json.dumps(document).encode(), where="here") == bundle.manifest
    assert bundle.manifest.masking is None


@pytest.mark.parametrize("policy", [Policy(patterns={"A": "(?:a+)+b"}), Policy(recogniser="nobody")])
def test_a_version_whose_masking_cannot_be_kept_is_refused(tmp_path: Path, policy: Policy) -> None:
    bundle = make_bundle(tmp_path, ["a", "b"], version="v-0001", masking=policy)
    with pytest.raises(UnservableBundle, match="v-0001 does not load: "):
        Servable.load(bundle, device="cpu")
