"""A disk that can be full: a small file system of its own where we may mount one, else a limit on what the service writes."""

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import psutil

_BLOCK: Final = bytes(64 * 1024)


class Disk(Protocol):
    """Where the outbox lies."""

    #: what it is, for the report
    kind: str

    def fill(self, writers: Sequence[psutil.Process]) -> None:
        """From now on the writers can add nothing to it."""
        ...

    def free(self, writers: Sequence[psutil.Process]) -> None:
        """There is room again."""
        ...


class SmallFileSystem:
    """A tmpfs: the kernel itself answers ENOSPC, to a service that is started meanwhile, too."""

    def __init__(self, folder: Path) -> None:
        self.kind = "a full tmpfs (ENOSPC)"
        self._filler = folder / "filler"

    def fill(self, writers: Sequence[psutil.Process]) -> None:
        """See Disk.fill; to the last byte, although others write meanwhile."""
        with self._filler.open("ab", buffering=0) as file:
            for block in (_BLOCK, bytes(1)):
                with contextlib.suppress(_Full):
                    while True:
                        _write(file.fileno(), block)

    def free(self, writers: Sequence[psutil.Process]) -> None:
        """See Disk.free."""
        self._filler.unlink()


class FileLimit:
    """No mounts for us: the service's own limit on file sizes, below what its files have (EFBIG)."""

    kind = "RLIMIT_FSIZE of the service (EFBIG)"

    def fill(self, writers: Sequence[psutil.Process]) -> None:
        """See Disk.fill."""
        self._limit(writers, 0)

    def free(self, writers: Sequence[psutil.Process]) -> None:
        """See Disk.free."""
        self._limit(writers, resource.RLIM_INFINITY)

    def _limit(self, writers: Sequence[psutil.Process], limit: int) -> None:
        for process in writers:
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit if limit == 0 else hard, hard))


class _Full(Exception):
    """There is no room."""


def _write(descriptor: int, block: bytes) -> None:
    try:
        os.write(descriptor, block)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise _Full from error


@contextmanager
def disk_at(folder: Path, *, mib: int) -> Iterator[Disk]:
    """A disk mounted at a folder, which is made; unmounted at the end, with all that is on it."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "ratchet-chaos", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        yield FileLimit()
        return
    try:
        yield SmallFileSystem(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
