"""What a Job asks for: its resources, and the checks every submission passes wherever it comes from.

The service checks with these rules before it accepts a Job; executor and command use the same ones for early errors.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_WALL_TIME_MIN = 525_600
MAX_RANKS = 10_000_000
# By how much the shares of one GPU may add up to more than all of it: thirds are no exact numbers.
GPU_EPSILON = 1e-9

Shape = tuple[int, int, int, float, int]


def gpus_needed(ranks_per_node: int, gpus_per_rank: float) -> int:
    """GPUs that a Job needs on each of its nodes: no rank's share of a GPU is spread over two.

    >>> gpus_needed(4, 0.5), gpus_needed(4, 0.6), gpus_needed(2, 2), gpus_needed(8, 0)
    (2, 4, 4, 0)
    """
    if gpus_per_rank == 0:
        return 0
    if gpus_per_rank >= 1:
        return ranks_per_node * int(gpus_per_rank)
    sharing = min((1 + GPU_EPSILON) / gpus_per_rank, float(MAX_RANKS))
    return math.ceil(ranks_per_node / int(sharing))


@dataclass(frozen=True, slots=True)
class Resources:
    """Nodes, ranks, threads, GPUs and expected time of one Job.

    `wall_time_min` is an estimate in minutes (0: unknown); a launcher does not start a Job whose estimate is longer
    than what is left. `node_packing_count` is how many such Jobs may share one node. `cores_per_node`: cores that the
    Job uses on each of its nodes, at least one. `shape`: two Jobs of the same shape fit or do not fit alike.
    """

    num_nodes: int = 1
    ranks_per_node: int = 1
    threads_per_rank: int = 1
    threads_per_core: int = 1
    gpus_per_rank: float = 0.0
    node_packing_count: int = 1
    wall_time_min: int = 0
    # Worked out once: the launcher asks for them at every step.
    cores_per_node: int = field(init=False, compare=False, repr=False)
    shape: Shape = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Resources that are not sound yet can be made, so that `problems` can say what is wrong with them.
        threads = max(1, self.threads_per_core)
        cores = max(1, math.ceil(self.ranks_per_node * self.threads_per_rank / threads))
        shape = (self.num_nodes, self.ranks_per_node, cores, self.gpus_per_rank, self.node_packing_count)
        object.__setattr__(self, "cores_per_node", cores)
        object.__setattr__(self, "shape", shape)

    @property
    def ranks(self) -> int:
        """Ranks over all nodes."""
        return self.num_nodes * self.ranks_per_node

    @property
    def node_footprint(self) -> float:
        """Nodes that the Job occupies, a packed Job counting as a fraction of one."""
        return self.num_nodes / self.node_packing_count

    def problems(self) -> Iterator[str]:
        """What is wrong with the request, one sentence each; nothing when it is sound."""
        for name in ("num_nodes", "ranks_per_node", "threads_per_rank", "threads_per_core", "node_packing_count"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; it must be at least 1"
        if not math.isfinite(self.gpus_per_rank) or self.gpus_per_rank < 0:
            yield f"gpus_per_rank is {self.gpus_per_rank}; it must be 0 or more"
        elif self.gpus_per_rank > 1 and self.gpus_per_rank != int(self.gpus_per_rank):
            yield f"gpus_per_rank is {self.gpus_per_rank}; above 1 it must be a whole number"
        if not 0 <= self.wall_time_min <= MAX_WALL_TIME_MIN:
            yield f"wall_time_min is {self.wall_time_min}; it must be between 0 and {MAX_WALL_TIME_MIN} minutes"
        if self.ranks > MAX_RANKS:
            yield f"{self.num_nodes} nodes x {self.ranks_per_node} ranks is more than {MAX_RANKS} ranks"
        if self.num_nodes > 1 and self.node_packing_count > 1:
            yield (
                f"num_nodes is {self.num_nodes} and node_packing_count is {self.node_packing_count}: "
                "only single-node Jobs can share a node; set one of them to 1"
            )
