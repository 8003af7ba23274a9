"""What one launcher process is told: its partition of the allocation. Written by `main`, read by `entry`, a JSON file.

Nodes and wall time are known by then; the launcher's settings are those of launcher.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from balsam.domain.packing import Node
from balsam.launcher.config import LauncherConfig
from balsam.launcher.machine_settings import MachineSettings
from balsam.platform.node.gpus import GpuVendor

LONGEST_MARGIN_SEC = 120.0
MARGIN_PART = 0.1


@dataclass(frozen=True, slots=True)
class PartitionNode:
    """A node, whose GPUs it has, and whether the launcher runs on it (`NodeInfo.is_here`)."""

    name: str
    cpu_ids: tuple[int, ...]
    gpu_ids: tuple[str, ...] = ()
    gpu_vendor: GpuVendor | None = None
    is_here: bool = True

    def as_node(self) -> Node:
        return Node(self.name, self.cpu_ids, self.gpu_ids)


@dataclass(frozen=True, slots=True)
class Partition:
    """A slice of an allocation. `index` tells it from others of the same BatchJob."""

    config: LauncherConfig
    index: int
    serial: bool
    nodes: tuple[PartitionNode, ...]
    wall_time_sec: float
    filter_tags: Mapping[str, str]

    @property
    def is_local(self) -> bool:
        """Whether all nodes are the launcher's own machine."""
        return all(node.is_here for node in self.nodes)

    @property
    def is_spread(self) -> bool:
        """Whether Jobs are started by processes on other nodes: in serial mode, where srun can start those."""
        return self.serial and not self.is_local and self.config.compute_node == "slurm"

    @property
    def margin_sec(self) -> float:
        """How long before the end of the allocation the Jobs are told to end (L3)."""
        return min(LONGEST_MARGIN_SEC, self.wall_time_sec * MARGIN_PART)

    @property
    def drain_grace_sec(self) -> float:
        """From SIGTERM to SIGKILL at that time; the rest of the margin is for reporting."""
        return min(self.config.kill_grace_sec, self.margin_sec / 3)

    @property
    def checkpoint_lead_sec(self) -> float:
        """How long before the Jobs are told to end they get the signal for a checkpoint; less in a short allocation."""
        return min(self.config.checkpoint_lead_sec, self.wall_time_sec / 4)

    def machine_settings(self, end: float) -> MachineSettings:
        """For an allocation that ends at `end` (monotonic seconds)."""
        return MachineSettings(
            nodes=tuple(node.as_node() for node in self.nodes),
            serial=self.serial,
            filter_tags=self.filter_tags,
            sort_by=self.config.sort_by,
            allows_packing=self.config.mpirun_allows_node_packing,
            # Serial Jobs need no mpirun: their cores are the limit.
            most_running=sys.maxsize if self.serial else self.config.max_concurrent_mpiruns,
            kill_grace_sec=self.config.kill_grace_sec,
            drain_grace_sec=self.drain_grace_sec,
            idle_ttl_sec=self.config.idle_ttl_sec,
            max_failed_starts_per_node=self.config.max_failed_starts_per_node,
            end=end,
            drain_at=end - self.margin_sec,
            checkpoint_at=end - self.margin_sec - self.checkpoint_lead_sec,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Partition:
        """What `to_json` made."""
        data = json.loads(text)
        nodes = tuple(
            PartitionNode(
                node["name"],
                tuple(node["cpu_ids"]),
                tuple(node["gpu_ids"]),
                GpuVendor(node["gpu_vendor"]) if node["gpu_vendor"] else None,
                node["is_here"],
            )
            for node in data.pop("nodes")
        )
        config = LauncherConfig.from_json(json.dumps(data.pop("config")))
        return cls(config=config, nodes=nodes, **data)
