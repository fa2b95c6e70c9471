"""How many processors this process may use: its affinity, and the quota of its control groups (v1 and v2)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MEMBERSHIP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def processors(membership: Path = MEMBERSHIP, groups: Path = GROUPS) -> int:
    """At least 1. A quota of two and a half processors counts as three."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        allowed = os.cpu_count() or 1
    quotas = [found for folder in _folders(membership, groups) if (found := _quota(folder)) is not None]
    return max(1, min(allowed, *map(math.ceil, quotas))) if quotas else max(1, allowed)


def limit_threads() -> None:
    """OpenMP and BLAS know the affinity but no quota: call it before torch is imported. Children inherit it."""
    if (count := processors()) < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(count))


def _folders(membership: Path, groups: Path) -> Iterator[Path]:
    """The groups of this process and all that they lie in; in a container they may be seen from the root only."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers:
            roots = [groups, groups / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [groups / controllers, groups / "cpu"]
        else:
            continue
        inside = PurePosixPath(*(part for part in PurePosixPath(path).parts if part not in ("/", "..")))
        yield from (root / place for root in roots for place in (inside, *inside.parents))


def _quota(folder: Path) -> float | None:
    """Processors that a group may use; None = as many as there are."""
    try:
        if (folder / "cpu.max").exists():
            share, period = (folder / "cpu.max").read_text().split()
        else:
            share = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return float(share) / float(period) if float(share) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such file; "max"
        return None
