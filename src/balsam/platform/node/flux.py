"""Nodes of a Flux allocation: `flux resource list` of the instance that the batch script runs in.

From public documentation; never run in a real Flux.
"""

from collections.abc import Mapping

from balsam.platform.node.allocated import Host, NodesUnknown, allocated_nodes, ask
from balsam.platform.node.base import NodeInfo, NodeOptions


class FluxNodes:
    """All hosts of the instance, with equal shares of its cores."""

    def nodes(self, options: NodeOptions, environ: Mapping[str, str]) -> list[NodeInfo]:
        if not environ.get("FLUX_URI"):
            raise NodesUnknown("FLUX_URI is not set: this is no instance of Flux")
        listed = ask(["flux", "resource", "list", "-n", "-s", "all", "-o", "{ncores} {nodelist}"], environ).split()
        if len(listed) != 2 or not listed[0].isdigit():
            raise NodesUnknown(f"`flux resource list` says {' '.join(listed)[:200]!r}, not cores and hosts")
        names = ask(["flux", "hostlist", "--expand", "--delimiter=\n", listed[1]], environ).split()
        each = int(listed[0]) // len(names) if names else 0
        return allocated_nodes([Host(name, each or None) for name in names], options, environ)

    def nodes_left(self, environ: Mapping[str, str]) -> list[str] | None:
        return None

    def scheduler_id(self, environ: Mapping[str, str]) -> str | None:
        return environ.get("FLUX_JOB_ID") or None
