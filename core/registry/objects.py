"""An object store behind five calls, with Ratchet's errors: a folder, S3, Google Cloud Storage or Azure, through obstore."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore import exceptions
from obstore.store import ObjectStore as AnyStore
from obstore.store import from_url
from pydantic import ValidationError

from core.errors import BadSettings, CorruptBundle, RegistryUnavailable
from core.settings import without_password

_CHUNK: Final = 8 * 1024 * 1024


class ObjectStore:
    """Objects by path. Every call raises RegistryUnavailable when the store cannot be reached."""

    def __init__(self, url: str) -> None:
        """Open the store at a URL (``file:///PATH``, ``s3://BUCKET/PREFIX``, …). Raises BadSettings."""
        self._url = without_password(url)
        self._folder = Path(url2pathname(urlsplit(url).path)) if url.startswith("file:") else None
        try:
            self._store: AnyStore = from_url(url, mkdir=True) if url.startswith("file:") else from_url(url)
        except (exceptions.BaseError, OSError, ValueError, TypeError) as error:
            raise BadSettings(f"registry_url {self._url!r} cannot be opened: {_first_line(error)}") from error

    def get(self, path: str, *, limit: int | None = None) -> bytes | None:
        """The object's bytes, or None where there is none. Raises CorruptBundle, unread, above ``limit`` bytes."""
        with self._reaching(f"read {path}"):
            try:
                found = obstore.get(self._store, path)
            except FileNotFoundError:
                return None
            if limit is not None and found.meta["size"] > limit:
                raise CorruptBundle(f"{path} has {found.meta['size']} bytes, at most {limit} are allowed")
            return bytes(found.bytes())

    def download(self, path: str, into: Path, *, size: int) -> bool:
        """Write the object into a file, replacing it at once when complete; False where there is none.

        Raises:
            CorruptBundle: it has not ``size`` bytes; nothing was read then.
        """
        part = into.with_name(f"{into.name}.{token_hex(4)}.part")  # others may fetch the same into the same folder
        with self._reaching(f"read {path}"):
            try:
                found = obstore.get(self._store, path)
            except FileNotFoundError:
                return False
            if found.meta["size"] != size:
                raise CorruptBundle(f"{path} has {found.meta['size']} bytes, the manifest says {size}")
            try:
                self._write(found, path, part)
                part.replace(into)
            finally:
                part.unlink(missing_ok=True)
        return True

    def _write(self, found: "obstore.GetResult", path: str, part: Path) -> None:
        """Copy a file as the system does where there is one: through obstore it takes ten times the processor's time."""
        if self._folder is not None and (self._folder / path).is_file():
            shutil.copyfile(self._folder / path, part)
            return
        with part.open("wb") as file:
            for chunk in found.stream(min_chunk_size=_CHUNK):
                file.write(chunk)

    def put(self, path: str, data: bytes | Path) -> None:
        """Write an object, replacing any."""
        with self._reaching(f"write {path}"):
            obstore.put(self._store, path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Write an object only if there is none: of any number of racing writers exactly one gets True."""
        with self._reaching(f"write {path}"):
            try:
                obstore.put(self._store, path, data, mode="create", use_multipart=False)
            except exceptions.AlreadyExistsError:
                return False
        return True

    def paths(self, prefix: str) -> list[str]:
        """The paths of all objects below a prefix, sorted."""
        with self._reaching(f"list {prefix}"):
            return sorted(meta["path"] for batch in obstore.list(self._store, prefix) for meta in batch)

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders directly below a prefix, sorted."""
        with self._reaching(f"list {prefix}"):
            found = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
            return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def delete(self, paths: list[str]) -> None:
        """Remove objects; missing ones are fine."""
        with self._reaching("delete objects"):
            for path in paths:
                try:
                    obstore.delete(self._store, path)
                except FileNotFoundError:
                    continue

    @contextmanager
    def _reaching(self, what: str) -> Iterator[None]:
        try:
            yield
        except (exceptions.BaseError, OSError) as error:
            raise RegistryUnavailable(f"the registry {self._url} could not {what}: {_first_line(error)}") from error


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Around the reading of a record: one that is damaged raises RegistryUnavailable that names it."""
    try:
        yield
    except ValueError as error:
        fault = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else error
        raise RegistryUnavailable(f"{path} is damaged; restore it from a backup: {fault}") from error


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
