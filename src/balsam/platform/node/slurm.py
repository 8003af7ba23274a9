"""Nodes of a Slurm allocation: `scontrol show hostnames` reads Slurm's own lists, which have many forms."""

import re
import sys
from collections.abc import Mapping

from balsam.platform.node import slurm_nodes_left
from balsam.platform.node.allocated import Host, NodesUnknown, allocated_nodes, ask
from balsam.platform.node.base import NodeInfo, NodeOptions

_COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?")


class SlurmNodes:
    """All nodes of SLURM_JOB_NODELIST, with the cores that Slurm gave on each."""

    def nodes(self, options: NodeOptions, environ: Mapping[str, str]) -> list[NodeInfo]:
        nodelist = environ.get("SLURM_JOB_NODELIST")
        if not nodelist:
            raise NodesUnknown("SLURM_JOB_NODELIST is not set: this is no allocation of Slurm")
        names = ask(["scontrol", "show", "hostnames", nodelist], environ).split()
        counts = cpu_counts(environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
        known: list[int | None] = [*counts] if len(counts) == len(names) else [None] * len(names)
        hosts = [Host(name, cpus) for name, cpus in zip(names, known, strict=True)]
        return allocated_nodes(hosts, options, environ, environ.get("SLURMD_NODENAME", ""))

    def nodes_left(self, environ: Mapping[str, str]) -> list[str] | None:
        number = self.scheduler_id(environ)
        return None if number is None else [sys.executable, "-I", "-S", str(slurm_nodes_left.__file__), number]

    def scheduler_id(self, environ: Mapping[str, str]) -> str | None:
        return environ.get("SLURM_JOB_ID") or None


def cpus_per_core(cores: int, environ: Mapping[str, str]) -> int:
    """How many of the allocation's CPUs, as Slurm counts, make up one of `cores` of a node, as settings.yml counts.

    >>> cpus_per_core(64, {"SLURM_JOB_CPUS_PER_NODE": "128(x4)"})
    2
    """
    return max(1, min(cpu_counts(environ.get("SLURM_JOB_CPUS_PER_NODE", "")), default=0) // cores)


def cpu_counts(text: str) -> list[int]:
    """Slurm's list of numbers, node by node; empty when it is not understood.

    >>> cpu_counts("8(x2),4")
    [8, 8, 4]
    """
    found: list[int] = []
    for word in text.split(","):
        match = _COUNT.fullmatch(word)
        if match is None:
            return []
        found += [int(match[1])] * int(match[2] or 1)
    return found
