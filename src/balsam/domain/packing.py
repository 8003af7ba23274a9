"""Node packing: which Jobs fit on which nodes, cores and GPUs at the same time.

The launcher's machine places and releases with a `NodePool`; nothing else hands out cores (S9: never oversubscribed,
with one exception that is asked for: a Job with more ranks than a node has cores runs oversubscribed when it has the
node to itself).
"""

from dataclasses import dataclass, field

from balsam.domain.job import Resources

_EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the allocation: host name, usable core ids and GPU ids."""

    name: str
    cpu_ids: tuple[int, ...]
    gpu_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeShare:
    """What a Job got on one node. A GPU id occurs once for each rank that uses it."""

    node: int
    cpu_ids: tuple[int, ...]
    gpu_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placement:
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
    _free_nodes: float = 0.0  # counted along: it is asked for at every step of the launcher

    @classmethod
    def of(cls, nodes: list[Node]) -> "NodePool":
        uses = [_NodeUse(node, list(node.cpu_ids), dict.fromkeys(node.gpu_ids, 1.0)) for node in nodes]
        return cls(uses, float(len(uses)))

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(use.node for use in self._uses)

    @property
    def free_nodes(self) -> float:
        """Unoccupied nodes, a partly occupied node counting as a fraction."""
        return self._free_nodes

    @property
    def is_idle(self) -> bool:
        return all(use.is_idle for use in self._uses)

    def could_ever_fit(self, wanted: Resources) -> bool:
        """Whether the Job would fit if every usable node were idle."""
        able = sum(1 for use in self._uses if use.usable and _gpus_fit(wanted, dict.fromkeys(use.node.gpu_ids, 1.0)))
        return able >= wanted.num_nodes

    def set_usable(self, node: int, usable: bool) -> None:
        """Take a node out of use (it was lost or set aside), or back in. What runs there keeps its share."""
        use = self._uses[node]
        if use.usable is not usable:
            use.usable = usable
            self._free_nodes += (1.0 - use.occupancy) * (1 if usable else -1)

    def place(self, wanted: Resources) -> Placement | None:
        """Take cores, GPUs and node shares for a Job; None when it does not fit now."""
        shares: list[tuple[int, int]] = []
        for index, use in enumerate(self._uses):
            cores = _cores_on(wanted, use)
            if cores:
                shares.append((index, cores))
                if len(shares) == wanted.num_nodes:
                    return self._take(wanted, shares)
        return None

    def release(self, placement: Placement) -> None:
        """Give back a placement, once the process group was seen to be gone (S9)."""
        for share in placement.shares:
            use = self._uses[share.node]
            use.free_cpus.extend(share.cpu_ids)
            use.free_cpus.sort()
            per_rank = min(1.0, placement.resources.gpus_per_rank)
            for gpu in share.gpu_ids:
                use.free_gpus[gpu] += per_rank
            part = 1.0 / placement.resources.node_packing_count
            use.occupancy -= part
            if use.usable:
                self._free_nodes += part
            if use.occupancy < -_EPSILON or len(use.free_cpus) > len(use.node.cpu_ids):
                raise AssertionError(f"S9: node {use.node.name} was given back more than was taken")

    def _take(self, wanted: Resources, chosen: list[tuple[int, int]]) -> Placement:
        shares: list[NodeShare] = []
        oversubscribed = False
        for index, cores in chosen:
            use = self._uses[index]
            cpus = tuple(use.free_cpus[:cores])
            del use.free_cpus[:cores]
            gpus = _take_gpus(wanted, use.free_gpus)
            use.occupancy += 1.0 / wanted.node_packing_count
            self._free_nodes -= 1.0 / wanted.node_packing_count
            oversubscribed |= cores < wanted.cores_per_node
            shares.append(NodeShare(index, cpus, gpus))
        return Placement(tuple(shares), wanted, oversubscribed)


def _cores_on(wanted: Resources, use: _NodeUse) -> int:
    """How many cores the Job would get on this node now; 0 when it does not fit."""
    if not use.usable or use.occupancy + 1.0 / wanted.node_packing_count > 1.0 + _EPSILON:
        return 0
    if wanted.num_nodes > 1 and not use.is_idle:
        return 0
    if not _gpus_fit(wanted, use.free_gpus):
        return 0
    cores = wanted.cores_per_node
    if cores > len(use.node.cpu_ids):
        return len(use.free_cpus) if use.is_idle else 0
    return cores if cores <= len(use.free_cpus) else 0


def _gpus_fit(wanted: Resources, free: dict[str, float]) -> bool:
    if wanted.gpus_per_rank == 0:
        return True
    try:
        _take_gpus(wanted, dict(free))
    except LookupError:
        return False
    return True


def _take_gpus(wanted: Resources, free: dict[str, float]) -> tuple[str, ...]:
    """GPU ids for each rank in turn; a fraction of a GPU goes to the fullest one that has room."""
    if wanted.gpus_per_rank == 0:
        return ()
    taken: list[str] = []
    part = min(1.0, wanted.gpus_per_rank)
    for _ in range(wanted.ranks_per_node):
        for _ in range(max(1, int(wanted.gpus_per_rank))):
            able = [gpu for gpu, left in free.items() if left >= part - _EPSILON]
            if not able:
                raise LookupError("not enough GPUs")
            gpu = min(able, key=lambda gpu: free[gpu])
            free[gpu] -= part
            taken.append(gpu)
    return tuple(taken)
