"""The nodes and ranks of a task from libEnsemble's three overlapping numbers; and the GPUs of a rank.

`BalsamExecutor.submit` calls it before anything is sent; it promises num_procs == num_nodes * procs_per_node or an
ExecutorException that shows the numbers.
"""

from dataclasses import dataclass
from typing import Any

from libensemble.executors.executor import ExecutorException


@dataclass(frozen=True, slots=True)
class Placement:
    """Ranks over nodes; every number is at least 1."""

    num_nodes: int
    procs_per_node: int

    @property
    def num_procs(self) -> int:
        return self.num_nodes * self.procs_per_node


def resolve_placement(num_procs: object, num_nodes: object, procs_per_node: object) -> Placement:
    """The placement asked for; what is None follows from the others, and from one rank on one node.

    >>> resolve_placement(8, 2, None)
    Placement(num_nodes=2, procs_per_node=4)

    Raises ExecutorException when a number is not a positive integer or the three contradict each other.
    """
    procs = positive("num_procs", num_procs)
    nodes = positive("num_nodes", num_nodes)
    per_node = positive("procs_per_node", procs_per_node)
    if procs is None:
        return Placement(nodes or 1, per_node or 1)
    if nodes is None:
        nodes = procs // (per_node or procs)
    if per_node is None:
        per_node = procs // nodes
    if procs != nodes * per_node or nodes == 0:
        raise ExecutorException(
            f"num_procs={num_procs}, num_nodes={num_nodes}, procs_per_node={procs_per_node} do not fit together: "
            "num_procs must be num_nodes * procs_per_node (leave one of them out to have it derived)"
        )
    return Placement(nodes, per_node)


def positive(name: str, value: object) -> int | None:
    """``value`` as an int, None for None; raises ExecutorException with ``name`` for what is no count."""
    if value is None:
        return None
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ExecutorException(f"{name}={value!r} must be a whole number of at least 1")
    return number


def gpus(value: Any) -> float:
    """``value`` as it is; raises ExecutorException for what is no number of GPUs. A rank may have a part of one."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ExecutorException(
            f"gpus_per_rank={value!r} must be a number of GPUs: 0, a part of one such as 0.5, 1, 2 ..."
        )
    return number if number % 1 else int(number)
