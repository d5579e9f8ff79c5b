"""What is sent: distinct texts of about 22 tokens, and a mix of lengths in which a few are long."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from cli.labelled import read_labelled
from cli.seeding import DEMO
from core.tasks import get_task

TASK: Final = "text_classification"
TYPICAL: Final = (18, 26)
SHORT: Final = (8, 16)
LONG: Final = (120, 128)
LONG_SHARE: Final = 0.1


def labelled(data: Path | None, split: str) -> list[tuple[str, str]]:
    """Texts with labels: ``data/<split>.jsonl``, or the demo data that travels with Ratchet. Raises BadFile."""
    task = get_task(TASK)
    file = data / f"{split}.jsonl" if data is not None else DEMO.with_name(f"{split}.jsonl")
    return [(str(task.text_of(row.inputs)), str(row.target)) for row in read_labelled(file, task)]


def typical(sources: Sequence[str], tokenizer: Tokenizer, *, count: int, seed: int = 0) -> list[str]:
    """Distinct texts of 18 to 26 tokens, 22 on average; short sources are joined.

    Raises:
        ValueError: the sources do not give so many.
    """
    return _distinct(sources, tokenizer, TYPICAL, count, random.Random(seed))


def skewed(sources: Sequence[str], tokenizer: Tokenizer, *, count: int, seed: int = 0) -> list[str]:
    """Distinct texts, nine of ten of 8 to 16 tokens and one of 120 to 128, in random order. Raises ValueError."""
    rng = random.Random(seed)
    long = _distinct(sources, tokenizer, LONG, round(count * LONG_SHARE), rng)
    texts = [*long, *_distinct(sources, tokenizer, SHORT, count - len(long), rng)]
    rng.shuffle(texts)
    return texts


def _distinct(
    sources: Sequence[str], tokenizer: Tokenizer, bounds: tuple[int, int], count: int, rng: random.Random
) -> list[str]:
    found: dict[str, None] = {}
    for _ in range(200):
        candidates = [_joined(sources, bounds[1], rng) for _ in range(max(1000, count))]
        for text, encoding in zip(candidates, tokenizer.encode_batch_fast(candidates), strict=True):
            if bounds[0] <= len(encoding.ids) <= bounds[1]:
                found[text] = None
            if len(found) == count:
                return list(found)
    raise ValueError(f"the data gives only {len(found)} texts of {bounds[0]} to {bounds[1]} tokens, not {count}")


def _joined(sources: Sequence[str], tokens: int, rng: random.Random) -> str:
    """Whole words of one or more sources, about so many tokens long."""
    words = list(_words(sources, rng, tokens * 2))
    length = rng.randint(max(2, tokens // 2), tokens)
    return " ".join(words[:length])


def _words(sources: Sequence[str], rng: random.Random, enough: int) -> Iterator[str]:
    given = 0
    while given < enough:
        for word in rng.choice(sources).split():
            yield word
            given += 1


def write_feedback(path: Path, data: Path | None) -> Path:
    """Corrections to send, as JSON Lines: the labelled texts of the train set."""
    return write_bodies(path, [{"text": text, "label": label} for text, label in labelled(data, "train")])


def write_bodies(path: Path, bodies: Sequence[dict[str, Any]]) -> Path:
    """Request bodies as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(body, ensure_ascii=False) + "\n" for body in bodies), encoding="utf-8")
    return path
