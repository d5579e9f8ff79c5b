"""What masking costs, and what it changes in texts that hold nothing to mask.

    python -m benchmarks.masking [--data FOLDER_OF_BANKING77] [--rounds 7]

Prints microseconds of processor time for one text of several kinds (median of the rounds, and the slowest), milliseconds for
texts made to be slow, and precision and recall on the test set. With ``--data``: in how many texts of train.jsonl and
test.jsonl something is masked, and what.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from core.masking import Masker, Policy
from tests.core.test_masking import cases, read, score

_PLAIN = "I still have not received my new card, I ordered over a week ago and nobody answers my messages"
KINDS = {
    "without a digit, 95 characters": [_PLAIN],
    "without a digit, Chinese": ["我上个星期订的东西到现在还没有收到，客服也一直没有人回复，请尽快处理一下"],
    "with an order number and a date": [f"{_PLAIN}, order 20241125001 of 25.11.2024"],
    "with an order number, Chinese": ["订单号20241125123456三天了还没发货，请问什么时候能到"],
    "with one e-mail address": [f"{_PLAIN}, write to anna.meyer@example.com"],
    "with a phone number, Chinese": ["我的手机号是13812345678，收不到验证码，请帮我处理"],
    "everything at once": [
        "mail anna@example.com, 13812345678, 4111 1111 1111 1111, DE89370400440532013000, 身份证11010519491231002X, "
        "ip 203.0.113.7, +1 415 555 2671"
    ],
    "2,000 characters without a digit": [(_PLAIN + " ") * 21],
}
HARD = ("a", "1 ", "12 ", "a'", "a@", "1.1.", "DE89 ", "138 1234 ", "aB3", "１")


def microseconds(masker: Masker, texts: Sequence[str], rounds: int) -> list[float]:
    """Processor time of one text as the service masks it, in each round."""
    inputs = [{"text": text} for text in texts]
    repeats = max(1, 2_000 // len(texts))
    found = []
    for _ in range(rounds):
        started = time.thread_time()
        for _ in range(repeats):
            for item in inputs:
                masker.mask_inputs(item)
        found.append(1e6 * (time.thread_time() - started) / (repeats * len(texts)))
    return found


def masked_in(masker: Masker, path: Path) -> tuple[int, Counter[str]]:
    """How many texts a file of JSON Lines has, and what is found in them."""
    found: Counter[str] = Counter()
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for line in lines:
        text = json.loads(line)["text"]
        for item in masker._find(text):
            found[f"{item.kind}: {text[item.start : item.end]}"] += 1
    return len(lines), found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with train.jsonl and test.jsonl")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    masker = Masker.of(Policy())
    own = Masker.of(Policy(patterns={"CUSTOMER": r"\bC-[0-9]{6}\b"}))
    sets = {
        **KINDS,
        "the test set's negatives": [read(case)[0] for case in cases() if not case["kind"]],
        "the test set's positives": [read(case)[0] for case in cases() if case["kind"]],
    }
    print("| text | median µs | slowest round | with a pattern of one's own |\n|---|---|---|---|")
    for name, texts in sets.items():
        taken, more = microseconds(masker, texts, options.rounds), microseconds(own, texts, options.rounds)
        print(f"| {name} | {statistics.median(taken):.1f} | {max(taken):.1f} | {statistics.median(more):.1f} |")
    for piece in HARD:
        started = time.thread_time()
        masker.mask((piece * 50_000)[:50_000])
        print(f"50,000 characters of {piece!r}: {1000 * (time.thread_time() - started):.1f} ms")
    for kind, count in sorted(score().items()):
        print(f"{kind}: recall {count['found']}/{count['values']}, precision {count['right']}/{count['findings']}")
    for name in ("train.jsonl", "test.jsonl") if options.data else ():
        texts_read, found = masked_in(masker, options.data / name)
        print(f"{name}: {sum(found.values())} values in {texts_read} texts: {dict(found.most_common(20))}")


if __name__ == "__main__":
    main()
