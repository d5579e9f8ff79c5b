"""A folder of data files, laid out as the Hugging Face ``datasets`` library reads it: the names say the splits.

By the page "Structure your repository" of that library's documentation.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from core.events import Split
from feedback.intake.rows import BadSeedFile

SUFFIXES: Final = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
SPLIT_NAMES: Final = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "validation": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "val": Split.VALIDATION,
    "dev": Split.VALIDATION,
    "test": Split.HOLDOUT,
    "testing": Split.HOLDOUT,
    "eval": Split.HOLDOUT,
    "evaluation": Split.HOLDOUT,
    "holdout": Split.HOLDOUT,
}
_ABOUT: Final = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


def data_files(folder: Path) -> list[tuple[Path, Split | None]]:
    """The files with data, and the split that a part of their path names; where one names a split, the others are no data.

    Raises:
        BadSeedFile: there is none, or what is there has a form that is not read.
    """
    try:
        inside = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    except OSError as error:
        raise BadSeedFile(f"{folder} cannot be read: {error.strerror}") from error
    seen = [path for path in inside if not any(part.startswith(".") for part in path.parts)]
    files = [path for path in seen if path.suffix.lower() in SUFFIXES and path.name not in _ABOUT]
    if not files and any(path.suffix == ".arrow" for path in seen):
        raise BadSeedFile(
            f"{folder} was written by save_to_disk of the datasets library, as Arrow files that are not read; "
            "write it with to_json or to_csv instead"
        )
    if not files:
        raise BadSeedFile(f"{folder} has no data files; {', '.join(SUFFIXES)} are read")
    named = [(folder / path, _split(path)) for path in files]
    return [item for item in named if item[1] is not None] or named


def _split(path: Path) -> Split | None:
    """The last word of the path that names a split; words end at what is no letter."""
    words = re.findall(r"[a-z]+", path.with_suffix("").as_posix().lower())
    return next((SPLIT_NAMES[word] for word in reversed(words) if word in SPLIT_NAMES), None)


def class_names(folder: Path) -> dict[str, list[str]]:
    """Names of numbered classes by column, as ``dataset_info.json`` gives them; none where there is no such file.

    Raises:
        BadSeedFile: the file is no JSON.
    """
    path = folder / _ABOUT[0]
    try:
        return names_of(json.loads(path.read_bytes()).get("features"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise BadSeedFile(f"{path} cannot be read: {error}") from error


def names_of(features: Any) -> dict[str, list[str]]:
    """The names among the features that the datasets library describes; what is no class has none."""
    found = features.items() if isinstance(features, dict) else ()
    return {
        str(column): [str(name) for name in feature["names"]]
        for column, feature in found
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    }
