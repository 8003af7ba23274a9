"""Node packing: which Jobs fit on which nodes, cores and GPUs at the same time.

The launcher's machine places and releases with a `NodePool`; nothing else hands out cores (S9: never oversubscribed,
with one exception that is asked for: a Job with more ranks than a node has cores runs oversubscribed when it has the
node to itself).
"""

import heapq
from dataclasses import dataclass, field
from typing import NamedTuple

from balsam.domain.job import Resources, Shape

_EPSILON = 1e-9
_WHOLE = 1.0 - _EPSILON
_MOST_SHAPES = 64  # for each of them a change of a node costs a step


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the allocation: host name, usable core ids and GPU ids."""

    name: str
    cpu_ids: tuple[int, ...]
    gpu_ids: tuple[str, ...] = ()


class NodeShare(NamedTuple):
    """What a Job got on one node. A GPU id occurs once for each rank that uses it."""

    node: int
    cpu_ids: tuple[int, ...]
    gpu_ids: tuple[str, ...]


class Placement(NamedTuple):
    """Where a Job runs: a share on each of its nodes. `oversubscribed`: more ranks than cores."""

    shares: tuple[NodeShare, ...]
    resources: Resources
    oversubscribed: bool = False


@dataclass(slots=True)
class _NodeUse:
    node: Node
    free_cpus: list[int]
    free_gpus: dict[str, float]
    occupancy: float = 0.0
    usable: bool = True

    @property
    def is_idle(self) -> bool:
        return self.occupancy < _EPSILON


class _Candidates:
    """Nodes on which Jobs of one shape may fit, the first one first. A node that was seen not to fit leaves; it comes
    back when something on it is released. So a node is looked at once for each change of it, not once for each Job."""

    __slots__ = ("_heap", "_waits")

    def __init__(self, nodes: int) -> None:
        self._heap = list(range(nodes))
        self._waits = bytearray(b"\1") * nodes

    def add(self, node: int) -> None:
        if not self._waits[node]:
            self._waits[node] = 1
            heapq.heappush(self._heap, node)

    def first(self) -> int | None:
        return self._heap[0] if self._heap else None

    def take(self) -> int | None:
        if not self._heap:
            return None
        node = heapq.heappop(self._heap)
        self._waits[node] = 0
        return node


@dataclass(slots=True)
class NodePool:
    """All nodes of a launcher partition and what is in use on them.

    >>> pool = NodePool.of([Node("n1", (0, 1, 2, 3))])
    >>> place = pool.place(Resources(ranks_per_node=2, node_packing_count=2))
    >>> place.shares[0].cpu_ids
    (0, 1)
    >>> pool.place(Resources(ranks_per_node=4)) is None
    True
    >>> pool.release(place)
    """

    _uses: list[_NodeUse] = field(default_factory=list)
    # Counted along: they are asked for at every step of the launcher.
    _free_nodes: float = 0.0
    _idle: int = 0
    _usable: int = 0
    _free_cores: int = 0
    _candidates: dict[Shape, _Candidates] = field(default_factory=dict)
    _could_fit: dict[Shape, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, nodes: list[Node]) -> "NodePool":
        uses = [_NodeUse(node, list(node.cpu_ids), dict.fromkeys(node.gpu_ids, 1.0)) for node in nodes]
        return cls(uses, float(len(uses)), len(uses), len(uses), sum(len(node.cpu_ids) for node in nodes))

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(use.node for use in self._uses)

    @property
    def free_nodes(self) -> float:
        """Unoccupied nodes, a partly occupied node counting as a fraction."""
        return self._free_nodes

    @property
    def free_cores(self) -> int:
        """Cores of usable nodes that nobody was given."""
        return self._free_cores

    @property
    def is_idle(self) -> bool:
        return all(use.is_idle for use in self._uses)

    def could_ever_fit(self, wanted: Resources) -> bool:
        """Whether the Job would fit if every usable node were idle."""
        could = self._could_fit.get(wanted.shape)
        if could is None:
            able = sum(use.usable and _gpus_fit(wanted, dict.fromkeys(use.node.gpu_ids, 1.0)) for use in self._uses)
            could = self._could_fit[wanted.shape] = able >= wanted.num_nodes
        return could

    @property
    def usable_nodes(self) -> int:
        """Nodes that were not taken out of use."""
        return self._usable

    def is_usable(self, node: int) -> bool:
        """Whether a node was not taken out of use."""
        return self._uses[node].usable

    def set_usable(self, node: int, usable: bool) -> bool:
        """Take a node out of use (it was lost or set aside), or back in; whether that is a change.

        What runs there keeps its share.
        """
        use = self._uses[node]
        if use.usable is usable:
            return False
        use.usable = usable
        sign = 1 if usable else -1
        self._usable += sign
        self._free_nodes += sign * (1.0 - use.occupancy)
        self._free_cores += sign * len(use.free_cpus)
        self._idle += sign * use.is_idle
        self._could_fit.clear()
        self._offer(node)
        return True

    def place(self, wanted: Resources) -> Placement | None:
        """Take cores, GPUs and node shares on the first nodes where the Job fits; None when it does not fit now."""
        if wanted.num_nodes > self._idle and wanted.num_nodes > 1:
            return None
        candidates = self._candidates_for(wanted.shape)
        if wanted.num_nodes == 1:
            while (first := candidates.first()) is not None:
                cores = _cores_on(wanted, self._uses[first])
                if cores:
                    return self._take(wanted, [(first, cores)])
                candidates.take()
            return None
        shares: list[tuple[int, int]] = []
        while len(shares) < wanted.num_nodes:
            node = candidates.take()
            if node is None:
                break
            cores = _cores_on(wanted, self._uses[node])
            if cores:
                shares.append((node, cores))
        for node, _ in shares:
            candidates.add(node)  # it may have room for another one
        return self._take(wanted, shares) if len(shares) == wanted.num_nodes else None

    def release(self, placement: Placement) -> None:
        """Give back a placement, once the process group was seen to be gone (S9)."""
        part = 1.0 / placement.resources.node_packing_count
        per_rank = min(1.0, placement.resources.gpus_per_rank)
        for share in placement.shares:
            use = self._uses[share.node]
            use.free_cpus.extend(share.cpu_ids)
            use.free_cpus.sort()
            for gpu in share.gpu_ids:
                use.free_gpus[gpu] += per_rank
            use.occupancy -= part
            if use.occupancy < -_EPSILON or len(use.free_cpus) > len(use.node.cpu_ids):
                raise AssertionError(f"S9: node {use.node.name} was given back more than was taken")
            if use.usable:
                self._free_nodes += part
                self._free_cores += len(share.cpu_ids)
            if use.is_idle:
                self._idle += use.usable
                # What is left of fractions would make one GPU of an idle node look fuller than another.
                use.free_gpus = dict.fromkeys(use.node.gpu_ids, 1.0)
            self._offer(share.node)

    def _candidates_for(self, shape: Shape) -> _Candidates:
        found = self._candidates.get(shape)
        if found is None:
            if len(self._candidates) >= _MOST_SHAPES:
                self._candidates.clear()
            found = self._candidates[shape] = _Candidates(len(self._uses))
        return found

    def _offer(self, node: int) -> None:
        """Something changed on a node: every shape may look at it again."""
        for candidates in self._candidates.values():
            candidates.add(node)

    def _take(self, wanted: Resources, chosen: list[tuple[int, int]]) -> Placement:
        shares: list[NodeShare] = []
        oversubscribed = False
        part, cores_wanted = 1.0 / wanted.node_packing_count, wanted.cores_per_node
        for index, cores in chosen:
            use = self._uses[index]
            cpus = tuple(use.free_cpus[:cores])
            del use.free_cpus[:cores]
            gpus = _take_gpus(wanted, use.free_gpus) if wanted.gpus_per_rank else ()
            self._idle -= use.is_idle
            use.occupancy += part
            self._free_nodes -= part
            self._free_cores -= cores
            oversubscribed |= cores < cores_wanted
            shares.append(NodeShare(index, cpus, gpus))
        return Placement(tuple(shares), wanted, oversubscribed)


def _cores_on(wanted: Resources, use: _NodeUse) -> int:
    """How many cores the Job would get on this node now; 0 when it does not fit."""
    if not use.usable or use.occupancy + 1.0 / wanted.node_packing_count > 1.0 + _EPSILON:
        return 0
    if wanted.num_nodes > 1 and not use.is_idle:
        return 0
    if wanted.gpus_per_rank and not _gpus_fit(wanted, use.free_gpus):
        return 0
    cores = wanted.cores_per_node
    if cores > len(use.node.cpu_ids):
        return len(use.free_cpus) if use.is_idle else 0
    return cores if cores <= len(use.free_cpus) else 0


def _gpus_fit(wanted: Resources, free: dict[str, float]) -> bool:
    if wanted.gpus_per_rank == 0:
        return True
    if wanted.gpus_per_rank >= 1:
        whole = [left for left in free.values() if left >= _WHOLE]
        return len(whole) >= wanted.ranks_per_node * int(wanted.gpus_per_rank)
    part = wanted.gpus_per_rank
    return sum(int((left + _EPSILON) / part) for left in free.values()) >= wanted.ranks_per_node


def _take_gpus(wanted: Resources, free: dict[str, float]) -> tuple[str, ...]:
    """GPU ids for each rank in turn; a fraction of a GPU goes to the fullest one that has room."""
    if wanted.gpus_per_rank >= 1:
        whole = [gpu for gpu, left in free.items() if left >= _WHOLE]
        own = whole[: wanted.ranks_per_node * int(wanted.gpus_per_rank)]
        for gpu in own:
            free[gpu] -= 1.0
        return tuple(own)
    taken: list[str] = []
    part = wanted.gpus_per_rank
    for _ in range(wanted.ranks_per_node):
        able = [gpu for gpu, left in free.items() if left >= part - _EPSILON]
        gpu = min(able, key=lambda gpu: free[gpu])
        free[gpu] -= part
        taken.append(gpu)
    return tuple(taken)
