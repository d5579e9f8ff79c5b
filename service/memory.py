"""How much memory there is, and whether a version fits in it: what does not fit is not even fetched."""

import contextlib
from pathlib import Path
from typing import Final

from core.bundle import MODEL, TOKENIZER, Manifest
from core.errors import UnservableBundle

#: bytes of memory for each byte of a file. Measured at the peak of loading and warming up MiniLM-L6 (benchmarks/LOG.md):
#: 1.6 for a graph in fp32, 2.2 in int8, 9 for a tokenizer of 30,000 words; with room for others.
_FACTORS: Final = {MODEL: 3, TOKENIZER: 20}
_BASE: Final = 64 * 2**20
_SLACK: Final = 2  # so many times what a version should need, a trial may take
_UNLIMITED: Final = 2**60  # cgroup v1 writes a number near 2**63 for "no limit"


def needed_bytes(manifest: Manifest) -> int:
    """The memory that a version should need, by the sizes of its files."""
    return _BASE + sum(
        _FACTORS.get(name, 1) * entry.size
        for name in manifest.serving_files
        if (entry := manifest.files.get(name)) is not None
    )


def trial_bytes(manifest: Manifest) -> int:
    """The memory that the trial of a version may take: the texts of the warm-up need some, too."""
    return _SLACK * needed_bytes(manifest) + 256 * 2**20


def check_fits(manifest: Manifest, *, max_model_bytes: int, available: int | None) -> None:
    """Refuse what is too large, before any of its files is fetched.

    Args:
        manifest: of the version.
        max_model_bytes: the setting; 0: no bound but the memory.
        available: bytes, see :func:`available_bytes`; None where that is unknown.

    Raises:
        UnservableBundle: with the figures.
    """
    size = sum(entry.size for name in manifest.serving_files if (entry := manifest.files.get(name)) is not None)
    if max_model_bytes and size > max_model_bytes:
        raise UnservableBundle(
            f"{manifest.version} is too large: its files have {_mib(size)}, "
            f"max_model_bytes allows {_mib(max_model_bytes)}"
        )
    needed = needed_bytes(manifest)
    if available is not None and needed > available:
        raise UnservableBundle(
            f"{manifest.version} does not fit in memory: it needs about {_mib(needed)} "
            f"(files of {_mib(size)}), {_mib(available)} are available"
        )


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that can be taken without harm: of the machine, and of each control group around this process.

    Args:
        root: where ``proc`` and ``sys`` are.

    Returns:
        Bytes, or None where the system (macOS, Windows) does not say.
    """
    found = [_of_machine(root), *_of_groups(root)]
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else None


def _of_machine(root: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _of_groups(root: Path) -> list[int | None]:
    """What is left in this process's control group and in those above it; version 2, and version 1 where it is mounted."""
    left: list[int | None] = []
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                left += _up(root / "sys/fs/cgroup", path, limit="memory.max", used="memory.current")
            elif "memory" in controllers.split(","):
                names = {"limit": "memory.limit_in_bytes", "used": "memory.usage_in_bytes"}
                left += _up(root / "sys/fs/cgroup/memory", path, **names)
    return left


def _up(mount: Path, path: str, *, limit: str, used: str) -> list[int | None]:
    """From the group up to the mount, which in a container is the group itself whatever ``path`` says."""
    inside = Path(path.lstrip("/"))
    folders = [mount / inside, *(mount / parent for parent in inside.parents)] if inside.parts else [mount]
    return [_left(folder, limit, used) for folder in dict.fromkeys(folders)]


def _left(folder: Path, limit: str, used: str) -> int | None:
    """Limit minus use; pages of files that nobody works with are given back before anything fails."""
    try:
        allowed = int((folder / limit).read_text(encoding="ascii"))
        taken = int((folder / used).read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group from here, or "max"
        return None
    if allowed >= _UNLIMITED:
        return None
    files = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
            if line.split()[0] == "inactive_file":
                files = int(line.split()[1])
    return allowed - taken + files


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
