"""What Slurm has to give: limits of partitions and QOS, and nodes that stay idle for a while.

Pure functions over the output of `scontrol --oneliner`, `sinfo`, `squeue` and `sacctmgr --parsable2`, for the Slurm
adapter.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime

from balsam.platform.scheduler.base import BackfillWindow, QueueLimits
from balsam.platform.scheduler.slurm_words import count, minutes, moment

_GPUS = re.compile(r"gpu(?::[^:,()]+)?:(\d+)")
_MAX_NODES = re.compile(r"(?:^|,)node=(\d+)")


def partition_limits(partitions: str, sizes: str) -> dict[str, QueueLimits]:
    """From `scontrol show partition`, and lines of partition|cores|gres for each kind of node."""
    cpus: dict[str, int] = {}
    gpus: dict[str, int] = {}
    for name, cores, gres in _lines(sizes, 3):
        cpus[name] = min(cpus.get(name, 1 << 30), count(cores.rstrip("+")) or 1)
        gpus[name] = min(gpus.get(name, 1 << 30), sum(int(number) for number in _GPUS.findall(gres)))
    found = {}
    for facts in _key_values(partitions):
        name = facts.get("PartitionName", "")
        sized = [number for key in ("MaxNodes", "TotalNodes") if (number := count(facts.get(key, "")))]
        found[name] = QueueLimits(
            max_nodes=min(sized, default=None),
            max_wall_time_min=minutes(facts.get("MaxTime", "")),
            is_open=facts.get("State", "UP") in ("UP", "DOWN"),  # DOWN queues what is submitted, DRAIN and INACTIVE not
            cpus_per_node=cpus.get(name),
            gpus_per_node=gpus.get(name),
        )
    return found


def qos_limits(text: str) -> dict[str, QueueLimits]:
    """From lines of Name|MaxWall|MaxTRES|MaxSubmitPU."""
    found = {}
    for name, wall, tres, submitted in _lines(text, 4):
        nodes = _MAX_NODES.search(tres)
        found[name] = QueueLimits(int(nodes[1]) if nodes else None, minutes(wall), count(submitted))
    return found


def backfill_windows(idle: str, waiting: str, reserved: str, now: datetime) -> dict[str, list[BackfillWindow]]:
    """Idle nodes of each partition, until the partition's limit, its next expected start, or the next reservation.

    `idle`: lines of partition|nodes|limit; `waiting`: partition|expected start; `reserved`: scontrol show reservation.
    A guess on the safe side: an expected start may take other nodes than those that are idle now.
    """
    starts = [(name, moment(start)) for names, start in _lines(waiting, 2) for name in names.split(",")]
    reservations = [moment(facts.get("StartTime", "")) for facts in _key_values(reserved)]
    windows = {}
    for name, nodes, limit in _lines(idle, 3):
        until = [at for at in (*reservations, *(at for partition, at in starts if partition == name)) if at]
        free_min = [int((at - now).total_seconds() // 60) for at in until]
        wall_time_min = min([*free_min, minutes(limit) or (1 << 30)])
        if (count(nodes) or 0) >= 1 and 1 <= wall_time_min < 1 << 30:
            windows[name] = [BackfillWindow(int(nodes), wall_time_min)]
    return windows


def _lines(text: str, fields: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        found = [field.strip() for field in line.split("|")]
        if len(found) == fields:
            yield found


def _key_values(text: str) -> Iterable[dict[str, str]]:
    """`scontrol --oneliner`: KEY=VALUE words, one record a line."""
    for line in text.splitlines():
        facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if facts:
            yield facts
