"""How many CPU cores this process may use: a container's share, not the machine's."""

import math
import os
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = _CGROUPS) -> int:
    """Cores, at least 1: those that the process is bound to, and no more than its container's quota of CPU time pays for.

    Threads beyond that would only throttle each other.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return max(1, bound if quota is None else min(bound, math.ceil(quota)))


def _quota(cgroups: Path) -> float | None:
    """Cores that the control group may use, by version 2 or 1; None where there is no limit or it cannot be read."""
    try:
        limit, period = (cgroups / "cpu.max").read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        micros = int((cgroups / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period_micros = int((cgroups / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return micros / period_micros if micros > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
