"""The machine that the launcher runs on, as a node; or, for tests and trials, as several pretended ones.

What may be used is what the operating system lets this process use: the affinity mask and the quota of its control
groups, not the number of cores in the box.
"""

import contextlib
import math
import os
from collections.abc import Mapping
from pathlib import Path

from balsam.platform.node import gpus
from balsam.platform.node.base import NodeInfo, NodeOptions

NUM_NODES = "BALSAM_NUM_NODES"
SCHEDULER_ID = "BALSAM_SCHEDULER_ID"


class LocalNodes:
    """`nodes` gives one node with all that this machine has.

    With BALSAM_NUM_NODES above 1 (the local scheduler sets it) the cores and GPUs are dealt out to so many nodes; nodes
    without a core of their own share one.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def nodes(self, options: NodeOptions, environ: Mapping[str, str]) -> list[NodeInfo]:
        cpu_ids, cpu_note = self._cpus(options.cpus)
        found = gpus.find(options.gpus, environ, self._root)
        memory_bytes = self._memory_bytes()
        host = os.uname().nodename
        count = _count(environ)
        notes: tuple[str, ...] = (cpu_note, found.reason)
        if count == 1:
            return [NodeInfo(host, cpu_ids, found.ids, memory_bytes, found.vendor, notes)]
        notes = (*notes, f"{count} nodes are pretended: this machine's cores and GPUs are dealt out to them")
        return [
            NodeInfo(
                name=f"{host}-{number}",
                cpu_ids=cpu_ids[number::count] or (cpu_ids[number % len(cpu_ids)],),
                gpu_ids=found.ids[number::count],
                memory_bytes=memory_bytes // count,
                gpu_vendor=found.vendor,
                notes=notes,
            )
            for number in range(count)
        ]

    def nodes_left(self, environ: Mapping[str, str]) -> list[str] | None:
        return None

    def scheduler_id(self, environ: Mapping[str, str]) -> str | None:
        return environ.get(SCHEDULER_ID) or None

    def _cpus(self, wanted: int | None) -> tuple[tuple[int, ...], str]:
        usable = _affinity()
        if wanted is not None:
            # More than there are: numbers go on, for trials of a bigger machine.
            more = range(max(usable) + 1, max(usable) + 1 + wanted - len(usable))
            return (*usable, *more)[:wanted], f"{wanted} cores by setting node.cpus; {len(usable)} are usable"
        quota = self._cpu_quota()
        if quota is not None and quota < len(usable):
            allowed = max(1, math.ceil(quota))
            return usable[:allowed], f"{allowed} of {len(usable)} cores: the control group allows {quota:g}"
        return usable, f"{len(usable)} usable cores"

    def _cpu_quota(self) -> float | None:
        """Cores' worth of time that the control groups allow; the tightest on the way up counts."""
        unified = [_quota_v2(directory / "cpu.max") for directory in self._groups("")]
        older = [_quota_v1(group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us") for group in self._groups("cpu")]
        return min((quota for quota in (*unified, *older) if quota), default=None)

    def _memory_bytes(self) -> int:
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
        limits += [_number(directory / "memory.max") for directory in self._groups("")]
        limits += [_number(directory / "memory.limit_in_bytes") for directory in self._groups("memory")]
        return min(limit for limit in limits if limit > 0)

    def _groups(self, controller: str) -> list[Path]:
        """Directories of this process's control group and its parents; "" is the unified hierarchy (version 2)."""
        mounts = [self._root / "sys/fs/cgroup" / controller]
        if not controller:
            mounts.append(self._root / "sys/fs/cgroup/unified")
        try:
            lines = (self._root / "proc/self/cgroup").read_text().splitlines()
        except OSError:
            return []
        found: list[Path] = []
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                group = Path(path.lstrip("/"))
                found += [mount / part for mount in mounts for part in (group, *group.parents)]
        return found


def _affinity() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _count(environ: Mapping[str, str]) -> int:
    given = environ.get(NUM_NODES, "1")
    if not given.isdigit() or int(given) < 1:
        raise ValueError(f"{NUM_NODES}={given!r} is no number of nodes")
    return int(given)


def _quota_v2(path: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = path.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _quota_v1(quota_path: Path, period_path: Path) -> float | None:
    quota, period = _number(quota_path), _number(period_path)
    return quota / period if quota > 0 and period > 0 else None


def _number(path: Path) -> int:
    """The number in the file; 0 when it is not there or says "max"."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0
