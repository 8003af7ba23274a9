"""Nodes of an LSF allocation: LSB_MCPU_HOSTS, or the host file, whose first host may be a launch node.

From public documentation; never run on a real LSF.
"""

from collections.abc import Mapping
from pathlib import Path

from balsam.platform.node.allocated import Host, NodesUnknown, allocated_nodes
from balsam.platform.node.base import NodeInfo, NodeOptions


class LsfNodes:
    """Hosts with their slots. Where several hosts are given and the first has one slot only, it is the launch node, on
    which the batch script runs and no Job does (Summit, Sierra)."""

    def nodes(self, options: NodeOptions, environ: Mapping[str, str]) -> list[NodeInfo]:
        slots = _slots(environ)
        first = next(iter(slots), "")
        if len(slots) > 1 and slots[first] == 1 and max(slots.values()) > 1:
            del slots[first]
        return allocated_nodes([Host(name, count) for name, count in slots.items()], options, environ)

    def nodes_left(self, environ: Mapping[str, str]) -> list[str] | None:
        return None

    def scheduler_id(self, environ: Mapping[str, str]) -> str | None:
        return environ.get("LSB_JOBID") or None


def _slots(environ: Mapping[str, str]) -> dict[str, int]:
    words = environ.get("LSB_MCPU_HOSTS", "").split()
    if words and len(words) % 2 == 0 and all(word.isdigit() for word in words[1::2]):
        return dict(zip(words[::2], map(int, words[1::2]), strict=True))
    path = environ.get("LSB_DJOB_HOSTFILE")
    if not path:
        raise NodesUnknown("neither LSB_MCPU_HOSTS nor LSB_DJOB_HOSTFILE is set: this is no allocation of LSF")
    try:
        names = Path(path).read_text(encoding="utf-8").split()
    except OSError as error:
        raise NodesUnknown(f"LSB_DJOB_HOSTFILE {path} can't be read: {error.strerror}") from error
    return {name: names.count(name) for name in dict.fromkeys(names)}
