"""The files of one model version, their digests, and the manifest that names them.

A bundle on disk is a folder with ``manifest.json``, ``model.onnx`` (outputs ``logits`` and ``embedding``),
``tokenizer.json``, often ``head.safetensors`` (a linear head on ``embedding`` that takes the place of the graph's own) and,
for the trainer, ``weights/`` and ``training_set.json``. No file is a pickle.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import AwareDatetime, Field, FiniteFloat, ValidationError, field_validator

from core.errors import CorruptBundle
from core.events import Record, new_id, now
from core.masking.policy import Policy

MANIFEST: Final = "manifest.json"
MODEL: Final = "model.onnx"
TOKENIZER: Final = "tokenizer.json"
HEAD: Final = "head.safetensors"
TRAINING_SET: Final = "training_set.json"
GRAPH_FILES: Final = (MODEL, TOKENIZER)
"""What turns a text into an embedding; versions that share both by digest can share one session."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99})?")
_VERSION: Final = re.compile(r"[a-z0-9][a-z0-9-]{3,63}")


class Lane(StrEnum):
    """The speed of learning that made a version."""

    SEED = "seed"
    HEAD = "head"
    FINETUNE = "finetune"


class FileEntry(Record):
    """One file of a bundle."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class TrainingSet(Record):
    """What a version was trained on; the ids are in the bundle's ``training_set.json``."""

    count: int = Field(ge=0)
    new: int = Field(ge=0)
    replayed: int = Field(ge=0)
    #: SHA-256 of the sorted example ids
    digest: str
    #: the store's sequence number up to which the head has taken examples in
    through_seq: int = Field(ge=0)
    #: the same for the encoder; 0 while it is the base model's own
    encoder_through_seq: int = Field(default=0, ge=0)


class Precision(StrEnum):
    """The numbers that a graph calculates with."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Measured(Record):
    """One form of a graph as the trainer's machine measured it."""

    precision: Precision
    #: which of its kind: ``graph`` as exported, or what was quantised
    variant: str
    #: in fp32's, texts a second in batches
    throughput: float = Field(ge=0)
    #: milliseconds that one text alone takes
    latency_ms: float = Field(ge=0)
    #: share of texts with fp32's answer under the same head: alone or among other texts, whichever is lower
    agreement: float = Field(ge=0, le=1)
    #: share of texts that get the same answer alone and among others
    stability: float = Field(default=1.0, ge=0, le=1)
    #: largest difference from fp32's logits
    logit_difference: float = Field(ge=0)
    #: share of right answers on holdout texts; None without any
    accuracy: float | None = Field(default=None, ge=0, le=1)
    #: bytes of ``model.onnx``
    size: int = Field(ge=0)
    load_seconds: float = Field(ge=0)


class Artefact(Record):
    """Which form of the graph is served, and why; a head-only version has its parent's."""

    precision: Precision
    variant: str
    #: a sentence with the figures that decided
    reason: str
    #: share of texts with fp32's answer
    agreement: float = Field(default=1.0, ge=0, le=1)
    #: where it was measured
    provider: str
    machine: str
    #: texts that were compared
    texts: int = Field(ge=0)
    measured: list[Measured] = Field(default_factory=list)


class Probe(Record):
    """A fixed text and the logits that the exporter saw for it: see core/known_answers.py."""

    text: str = Field(max_length=10_000)
    logits: dict[str, FiniteFloat]


class Manifest(Record):
    """The record of a model version."""

    schema_version: Literal[1] = 1
    version: str
    model: str
    task: str
    labels: list[str] = Field(min_length=1)
    lane: Lane
    method: str
    parent: str | None = None
    base_model: str
    created_at: AwareDatetime = Field(default_factory=now)
    max_tokens: int = Field(ge=8, le=8192)
    embedding_size: int = Field(ge=1)
    training_set: TrainingSet
    run_id: str
    seed: int
    settings: dict[str, Any] = Field(default_factory=dict)
    libraries: dict[str, str] = Field(default_factory=dict)
    #: None in versions made before it was measured: fp32 as exported
    artefact: Artefact | None = None
    #: how the texts that it was trained on were masked, and so those that it is asked must be; None: as they come
    masking: Policy | None = None
    files: dict[str, FileEntry]
    #: known answers; older versions have none
    probes: list[Probe] = Field(default_factory=list, max_length=32)

    @field_validator("version")
    @classmethod
    def _version_is_a_name(cls, version: str) -> str:
        if not is_version_name(version):
            raise ValueError(f"{version!r} is not a version name")
        return version

    @field_validator("files")
    @classmethod
    def _files_stay_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            if not _NAME.fullmatch(name) or name == MANIFEST:
                raise ValueError(f"{name!r} is not allowed as a file name")
        for name in GRAPH_FILES:
            if name not in files:
                raise ValueError(f"{name!r} is missing")
        return files

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: list[str]) -> list[str]:
        if len(set(labels)) != len(labels):
            raise ValueError("labels must differ")
        return labels

    @property
    def serving_files(self) -> tuple[str, ...]:
        """What the service needs; the rest is the trainer's."""
        return (*GRAPH_FILES, HEAD) if HEAD in self.files else GRAPH_FILES


def is_version_name(name: str) -> bool:
    """True for names that :func:`new_version` could have made: safe as a path and in a URL."""
    return _VERSION.fullmatch(name) is not None


def new_version(at: datetime | None = None) -> str:
    """A name that sorts by time and tells it: ``20261123-101502-3f9c``."""
    return f"{(at or now()):%Y%m%d-%H%M%S}-{new_id()[-4:]}"


def parse_manifest(document: bytes, *, where: str) -> Manifest:
    """Read a manifest. Raises CorruptBundle that names the place and the first fault."""
    try:
        return Manifest.model_validate_json(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        raise CorruptBundle(f"{where}: manifest.json: {place}: {first['msg']}") from error


@dataclass(frozen=True, kw_only=True)
class ModelBundle:
    """A manifest with the folder that holds (some of) its files."""

    directory: Path
    manifest: Manifest

    @classmethod
    def write(cls, directory: Path, *, shared: Mapping[str, FileEntry] | None = None, **fields: Any) -> Self:
        """Write the manifest of a folder whose files are complete; digests are taken here.

        ``shared`` names files that are another version's, byte for byte: the registry has them, the folder need not.
        """
        files = dict(shared or {}) | {
            path.relative_to(directory).as_posix(): FileEntry(sha256=sha256_of(path), size=path.stat().st_size)
            for path in sorted(directory.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        }
        manifest = Manifest(files=files, **fields)
        (directory / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        return cls(directory=directory, manifest=manifest)

    @classmethod
    def open(cls, directory: Path, *, names: Iterable[str] | None = None) -> Self:
        """Read the manifest and verify the named files (None: all that serving needs). Raises CorruptBundle."""
        path = directory / MANIFEST
        if not path.is_file():
            raise CorruptBundle(f"{directory.name}: manifest.json is missing, so this version does not exist")
        bundle = cls(directory=directory, manifest=parse_manifest(path.read_bytes(), where=directory.name))
        bundle.verify(bundle.manifest.serving_files if names is None else names)
        return bundle

    def path(self, name: str) -> Path:
        """Where a file of the bundle is."""
        return self.directory / name

    def verify(self, names: Iterable[str]) -> None:
        """Compare the named files with their digests. Raises CorruptBundle."""
        for name in names:
            verify_file(self.path(name), self.manifest, name)


def verify_file(path: Path, manifest: Manifest, name: str) -> None:
    """Compare one file with the manifest. Raises CorruptBundle."""
    entry = manifest.files.get(name)
    if entry is None:
        raise CorruptBundle(f"{manifest.version}: the manifest names no {name}")
    if not path.is_file():
        raise CorruptBundle(f"{manifest.version}: {name} is missing")
    size = path.stat().st_size
    if size != entry.size:
        raise CorruptBundle(f"{manifest.version}: {name} has {size} bytes, the manifest says {entry.size}")
    digest = sha256_of(path)
    if digest != entry.sha256:
        raise CorruptBundle(f"{manifest.version}: {name} has sha256 {digest}, the manifest says {entry.sha256}")


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
