"""The versions of one model: immutable manifests and files, and the records appended beside them.

<model>/blobs/<sha256>                      a file, by content: versions that share it store it once
<model>/versions/<version>/manifest.json    written last: without it the version does not exist
<model>/versions/<version>/verdicts/<id>.json   what the gate said
<model>/versions/<version>/refusals/<id>.json   a service could not serve it
<model>/promotions/<n>.json                 see promotions.py
<model>/runs/<run_id>/<state>.json          see runs.py
"""

import json
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, Literal

from pydantic import AwareDatetime, Field

from core.bundle import MANIFEST, Manifest, ModelBundle, is_version_name, parse_manifest, verify_file
from core.errors import Conflict, CorruptBundle, RegistryUnavailable, UnknownVersion
from core.events import Record, new_id, now
from core.registry.objects import ObjectStore, readable
from core.registry.promotions import PromotionLog
from core.registry.runs import RunState, TrainingRun

_MANIFEST_BYTES: Final = 8 * 1024 * 1024
"""More than any manifest has: one that is larger is not even read."""
_MANIFESTS_KEPT: Final = 64
"""In memory, at most; a service that runs for a year sees thousands."""


class Verdict(Record):
    """What the gate said of a version, against which champion, and why."""

    schema_version: Literal[1] = 1
    version: str
    passed: bool
    champion: str | None
    judged_against: int
    reasons: list[str]
    #: too few holdout texts for a test of differences: the point estimate decided
    low_power: bool
    evaluation: dict[str, Any] = Field(default_factory=dict)
    at: AwareDatetime = Field(default_factory=now)


class VersionSummary(Record):
    """A version with what was said of it."""

    manifest: Manifest
    verdict: Verdict | None
    refusals: list[dict[str, Any]] = Field(default_factory=list)


class Registry:
    """Versions, runs and promotions of one model. Thread-safe; raises RegistryUnavailable when out of reach."""

    def __init__(self, url: str, model: str) -> None:
        self._objects = ObjectStore(url)
        self._prefix = model
        self.promotions = PromotionLog(self._objects, model)
        # What never changes is read once, as long as there is room.
        self._manifests: dict[str, Manifest] = {}  # the one asked for last is last
        self._manifests_lock = threading.Lock()
        self._ended_runs: dict[str, TrainingRun] = {}

    def publish(self, bundle: ModelBundle) -> None:
        """Store a bundle's files and, last, its manifest.

        Raises:
            CorruptBundle: a file is not what the manifest names, or is neither here nor stored.
            Conflict: the version exists with another manifest.
        """
        stored = set(self._objects.paths(f"{self._prefix}/blobs"))
        for name, entry in bundle.manifest.files.items():
            blob = self._blob(entry.sha256)
            if blob not in stored or bundle.path(name).is_file():
                # A blob is shared: one that is not what its name says would damage other versions.
                verify_file(bundle.path(name), bundle.manifest, name)
                self._objects.put(blob, bundle.path(name))
        path, document = self._version_path(bundle.manifest.version, MANIFEST), bundle.path(MANIFEST).read_bytes()
        if not self._objects.create(path, document) and self._objects.get(path) != document:
            raise Conflict(f"the version {bundle.manifest.version} exists already, with another manifest")

    def manifest(self, version: str) -> Manifest:
        """Read a version's manifest. Raises UnknownVersion, or CorruptBundle."""
        with self._manifests_lock:
            known = self._manifests.pop(version, None)
            if known is not None:
                self._manifests[version] = known
                return known
        path = self._version_path(version, MANIFEST)
        document = self._objects.get(path, limit=_MANIFEST_BYTES) if is_version_name(version) else None
        if document is None:
            raise UnknownVersion(f"there is no version {version!r}")
        manifest = parse_manifest(document, where=version)
        if manifest.version != version:
            raise CorruptBundle(f"{version}: the manifest is that of {manifest.version}")
        with self._manifests_lock:
            self._manifests[version] = manifest
            while len(self._manifests) > _MANIFESTS_KEPT:
                del self._manifests[next(iter(self._manifests))]
        return manifest

    def fetch(self, version: str, cache: Path, *, names: Iterable[str] | None = None) -> ModelBundle:
        """Bring the named files of a version (None: all that serving needs) below ``cache`` and verify their digests.

        Raises:
            UnknownVersion: no such version.
            CorruptBundle: a file is missing or is not what the manifest names.
            RegistryUnavailable: out of reach, or ``cache`` cannot be written to.
        """
        manifest = self.manifest(version)
        try:
            return self._fetch(manifest, cache / version, manifest.serving_files if names is None else names)
        except OSError as error:
            raise RegistryUnavailable(f"{version} cannot be kept below {cache}: {error}") from error

    def _fetch(self, manifest: Manifest, directory: Path, names: Iterable[str]) -> ModelBundle:
        version = manifest.version
        for name in names:
            path = directory / name
            if path.is_file() and _is_whole(path, manifest, name):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            entry = manifest.files.get(name)
            if entry is None or not self._objects.download(self._blob(entry.sha256), path, size=entry.size):
                raise CorruptBundle(f"{version}: {name} is missing in the registry")
            verify_file(path, manifest, name)
        directory.mkdir(parents=True, exist_ok=True)
        part = directory / f".{MANIFEST}.{token_hex(4)}"
        part.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        part.replace(directory / MANIFEST)
        return ModelBundle(directory=directory, manifest=manifest)

    def versions(self) -> list[str]:
        """The names of all versions, oldest first."""
        return self._objects.folders(f"{self._prefix}/versions")

    def summary(self, version: str) -> VersionSummary:
        """A version with its verdict and refusals. Raises UnknownVersion, or CorruptBundle."""
        folder = self._version_path(version, "refusals")
        manifest = self.manifest(version)
        refusals = []
        for path in self._objects.paths(folder):
            with readable(path):
                refusals.append(json.loads(self._objects.get(path) or b""))
        return VersionSummary(manifest=manifest, verdict=self.verdict(version), refusals=refusals)

    def record_verdict(self, verdict: Verdict) -> None:
        """Append the gate's verdict to its version; there are several where the champion moved meanwhile."""
        path = self._version_path(verdict.version, f"verdicts/{new_id()}.json")
        self._objects.create(path, verdict.model_dump_json(indent=1).encode())

    def verdict(self, version: str) -> Verdict | None:
        """The gate's newest verdict on a version, None where there is none."""
        paths = self._objects.paths(self._version_path(version, "verdicts"))
        document = self._objects.get(paths[-1]) if paths else None
        if not document:
            return None
        with readable(paths[-1]):
            return Verdict.model_validate_json(document)

    def record_refusal(self, version: str, *, reason: str, actor: str) -> None:
        """Append that a service could not serve a version."""
        document = {"schema_version": 1, "version": version, "reason": reason, "actor": actor, "at": now().isoformat()}
        path = self._version_path(version, f"refusals/{new_id()}.json")
        self._objects.create(path, json.dumps(document, indent=1).encode())

    def record_run(self, run: TrainingRun) -> None:
        """Append a run's state."""
        path = f"{self._prefix}/runs/{run.run_id}/{run.state}.json"
        self._objects.put(path, run.model_dump_json(indent=1).encode())

    def runs(self, *, newest: int) -> list[TrainingRun]:
        """The last states of the newest runs, oldest first."""
        names = self._objects.folders(f"{self._prefix}/runs")[-newest:]
        self._ended_runs = {name: run for name, run in self._ended_runs.items() if name in set(names)}
        return [run for name in names if (run := self._run(name)) is not None]

    def _run(self, run_id: str) -> TrainingRun | None:
        if run_id in self._ended_runs:
            return self._ended_runs[run_id]
        for state in (RunState.PROMOTED, RunState.REJECTED, RunState.FAILED, RunState.RUNNING):
            path = f"{self._prefix}/runs/{run_id}/{state}.json"
            document = self._objects.get(path)
            if document:
                with readable(path):
                    run = TrainingRun.model_validate_json(document)
                if state != RunState.RUNNING:
                    self._ended_runs[run_id] = run
                return run
        return None

    def prune(self, *, keep: int, also: Iterable[str] = ()) -> list[str]:
        """Remove the files of all versions but the newest ``keep`` good champions, the newest version and ``also``.

        Manifests, verdicts and promotions stay. Returns the versions whose files went.
        """
        bad = self.promotions.bad_versions()
        champions = [entry.version for entry in reversed(self.promotions.entries())]
        kept = [version for version in dict.fromkeys(champions) if version not in bad][:keep]
        names = self.versions()
        if not kept or not names:
            return []
        kept += [champions[0], names[-1], *also]
        stored = set(self._objects.paths(f"{self._prefix}/blobs"))
        manifests = {version: self._manifest_or_none(version) for version in names}
        needed = {
            self._blob(entry.sha256)
            for version in kept
            if (manifest := manifests.get(version)) is not None
            for entry in manifest.files.values()
        }
        gone = []
        for version, manifest in manifests.items():
            if manifest is None or version in kept:
                continue
            own = {self._blob(entry.sha256) for entry in manifest.files.values()} & stored - needed
            if own:
                self._objects.delete(sorted(own))
                stored -= own
                gone.append(version)
        return gone

    def _manifest_or_none(self, version: str) -> Manifest | None:
        try:
            return self.manifest(version)
        except (UnknownVersion, CorruptBundle):
            return None

    def _version_path(self, version: str, name: str) -> str:
        return f"{self._prefix}/versions/{version}/{name}"

    def _blob(self, digest: str) -> str:
        return f"{self._prefix}/blobs/{digest}"


def _is_whole(path: Path, manifest: Manifest, name: str) -> bool:
    try:
        verify_file(path, manifest, name)
    except CorruptBundle:
        return False
    return True


def forget_cached(cache: Path, *, keep: Iterable[str]) -> None:
    """Remove all fetched versions below ``cache`` but the named ones."""
    kept = set(keep)
    if not cache.is_dir():
        return
    for directory in cache.iterdir():
        if directory.is_dir() and directory.name not in kept:
            shutil.rmtree(directory, ignore_errors=True)


__all__ = ["Registry", "RegistryUnavailable", "Verdict", "VersionSummary", "forget_cached"]
