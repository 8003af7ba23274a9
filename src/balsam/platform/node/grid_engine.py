"""Nodes of a Grid Engine allocation: the file PE_HOSTFILE, or this machine when no parallel environment was asked."""

from collections.abc import Mapping
from pathlib import Path

from balsam.platform.node.allocated import Host, NodesUnknown, allocated_nodes
from balsam.platform.node.base import NodeInfo, NodeOptions
from balsam.platform.node.local import LocalNodes


class GridEngineNodes:
    """The hosts of PE_HOSTFILE with the slots on each, which are taken for cores."""

    def nodes(self, options: NodeOptions, environ: Mapping[str, str]) -> list[NodeInfo]:
        path = environ.get("PE_HOSTFILE")
        if not path:
            return LocalNodes().nodes(options, environ)
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise NodesUnknown(f"PE_HOSTFILE {path} can't be read: {error.strerror}") from error
        slots: dict[str, int] = {}
        for words in map(str.split, lines):
            if len(words) < 2 or not words[1].isdigit():
                raise NodesUnknown(f"PE_HOSTFILE has {' '.join(words)!r}; a line begins with host and slots")
            slots[words[0]] = slots.get(words[0], 0) + int(words[1])
        return allocated_nodes([Host(name, count) for name, count in slots.items()], options, environ)

    def nodes_left(self, environ: Mapping[str, str]) -> list[str] | None:
        return None

    def scheduler_id(self, environ: Mapping[str, str]) -> str | None:
        return environ.get("JOB_ID") or None
