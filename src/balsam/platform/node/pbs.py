"""Nodes of a PBS allocation: the file PBS_NODEFILE has a line for each place of a rank, so names occur repeatedly.

From public documentation; never run on a real PBS.
"""

from collections.abc import Mapping
from pathlib import Path

from balsam.platform.node.allocated import Host, NodesUnknown, allocated_nodes
from balsam.platform.node.base import NodeInfo, NodeOptions


class PbsNodes:
    """The hosts of PBS_NODEFILE, in its order. How many cores each has is what this machine has, or `node.cpus`."""

    def nodes(self, options: NodeOptions, environ: Mapping[str, str]) -> list[NodeInfo]:
        path = environ.get("PBS_NODEFILE")
        if not path:
            raise NodesUnknown("PBS_NODEFILE is not set: this is no allocation of PBS")
        try:
            names = Path(path).read_text(encoding="utf-8").split()
        except OSError as error:
            raise NodesUnknown(f"PBS_NODEFILE {path} can't be read: {error.strerror}") from error
        return allocated_nodes([Host(name) for name in dict.fromkeys(names)], options, environ)

    def nodes_left(self, environ: Mapping[str, str]) -> list[str] | None:
        return None

    def scheduler_id(self, environ: Mapping[str, str]) -> str | None:
        return environ.get("PBS_JOBID") or None
