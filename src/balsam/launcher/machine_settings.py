"""What the machine of a launcher partition is told. Made by `partition`, read by the machine and its parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from balsam.domain.packing import Node


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """`end` is when the allocation ends, `drain_at` when the Jobs must begin to; times are monotonic seconds.

    `checkpoint_at`: when Jobs that run are told that this is near.
    """

    nodes: tuple[Node, ...]
    serial: bool = False
    filter_tags: Mapping[str, str] = field(default_factory=dict)
    sort_by: str = "fifo"
    allows_packing: bool = True
    most_running: int = 1000
    kill_grace_sec: float = 10.0
    drain_grace_sec: float = 10.0
    idle_ttl_sec: float = 60.0
    max_failed_starts_per_node: int = 3
    end: float | None = None
    drain_at: float | None = None
    checkpoint_at: float | None = None
