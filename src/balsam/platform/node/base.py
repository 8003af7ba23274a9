"""What the launcher may ask about the nodes of its allocation.

A node type is chosen by name (`registry.NODES`) and made as `cls()`. It reads the environment that the batch script was
given, looks at the machine, and obeys the Site's settings where detection is wrong or shall be limited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from balsam.domain.packing import Node
from balsam.platform.node.gpus import GpuVendor


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """The Site's settings `node.cpus` and `node.gpus`: how many, or for GPUs also which. None: detect."""

    cpus: int | None = None
    gpus: int | Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One node of the allocation. `memory_bytes` None: not known. `notes` say what was decided and why, for the log.

    `is_here`: the launcher runs on this machine, and can start processes of the node itself.
    """

    name: str
    cpu_ids: tuple[int, ...]
    gpu_ids: tuple[str, ...] = ()
    memory_bytes: int | None = None
    gpu_vendor: GpuVendor | None = None
    notes: tuple[str, ...] = ()
    is_here: bool = True

    def as_node(self) -> Node:
        """What the packing rules need of it."""
        return Node(self.name, self.cpu_ids, self.gpu_ids)


class NodeType(Protocol):
    """How to find the nodes of an allocation on one kind of machine."""

    def nodes(self, options: NodeOptions, environ: Mapping[str, str]) -> list[NodeInfo]:
        """The nodes of the allocation, the launcher's own first."""
        ...

    def nodes_left(self, environ: Mapping[str, str]) -> list[str] | None:
        """The command that prints which nodes the allocation still has, a line each; None: there is none.

        Words appended to it are names of nodes to be tried: of those it prints with a `-` before it each that does not
        answer, though others do. It fails when it can't say.
        """
        ...

    def scheduler_id(self, environ: Mapping[str, str]) -> str | None:
        """The scheduler's id of the allocation that this process is in."""
        ...
