"""Data sets as embeddings of the frozen base encoder, computed once and kept: benchmarks of judging and choosing need no more.

python -m benchmarks.embedded --data FOLDER_OF_DATA_SETS [--cache .bench/embeddings]
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.settings import load_settings
from trainer.candidates import Start

CACHE: Final = Path(".bench/embeddings")
#: the files of a data set by split
FILES: Final = {
    "banking77": {"train": "train.jsonl", "test": "test.jsonl"},
    "clinc150": {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"},
}
_OUT_OF_SCOPE: Final = "oos"  # not a label but the lack of one, and nearly absent from the train set


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Some texts: embeddings of shape (texts, size), labels of shape (texts,) as numbers, and the texts themselves."""

    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]
    texts: list[str]

    def take(self, rows: NDArray[np.int64]) -> "Embedded":
        """Some of the texts."""
        texts = [self.texts[row] for row in rows.tolist()]
        return Embedded(embeddings=self.embeddings[rows], labels=self.labels[rows], texts=texts)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set. Where the source has no validation split, a fifth of each label's train texts is taken for it."""

    name: str
    label_names: list[str]
    train: Embedded
    validation: Embedded
    test: Embedded

    @property
    def whole_train(self) -> Embedded:
        """Train set and what was taken from it for validation: what the source calls its train set."""
        return self.train if "validation" in FILES[self.name] else _join(self.train, self.validation)


def load(name: str, data: Path, cache: Path = CACHE) -> DataSet:
    """A data set from its folder below ``data``, embedded now if it has not been before."""
    splits = {split: _read(data / name / file) for split, file in FILES[name].items()}
    label_names = sorted({label for _, label in splits["train"]})
    number = {label: index for index, label in enumerate(label_names)}
    path = cache / f"{name}.npz"
    if not path.exists():
        _embed(splits, path)
    with np.load(path) as kept:
        found = {
            split: Embedded(
                embeddings=kept[split],
                labels=np.array([number[label] for _, label in rows]),
                texts=[text for text, _ in rows],
            )
            for split, rows in splits.items()
        }
    train, validation = found["train"], found.get("validation")
    if validation is None:
        held = _a_fifth(train.labels)
        train, validation = train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held))
    return DataSet(name=name, label_names=label_names, train=train, validation=validation, test=found["test"])


def _read(path: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [(row["text"], row["label"]) for row in rows if row["label"] != _OUT_OF_SCOPE]


def _embed(splits: dict[str, list[tuple[str, str]]], path: Path) -> None:
    """As a first model would see them: the trainer's own tokenizer and network, before it is exported."""
    with tempfile.TemporaryDirectory() as scratch:
        start = Start.load(None, load_settings(home=Path(scratch)), Path(scratch))
        found = {}
        for split, rows in splits.items():
            encoded = start.tokenizer.encode_batch([text for text, _ in rows])
            found[split] = start.model.embed([item.ids for item in encoded], pad=start.pad)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{path.name}")
    np.savez_compressed(part, **found)
    part.replace(path)


def _a_fifth(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    rng = np.random.default_rng(77)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        held[rows[: len(rows) // 5]] = True
    return held


def _join(first: Embedded, second: Embedded) -> Embedded:
    return Embedded(
        embeddings=np.concatenate([first.embeddings, second.embeddings]),
        labels=np.concatenate([first.labels, second.labels]),
        texts=[*first.texts, *second.texts],
    )


def main() -> None:
    """Embed every data set that there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder for each data set")
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    for name in FILES:
        found = load(name, options.data, options.cache)
        print(name, *(f"{split}: {len(getattr(found, split).labels)}" for split in ("train", "validation", "test")))


if __name__ == "__main__":
    main()
