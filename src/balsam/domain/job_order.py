"""In which order the Jobs that wait are granted. Every store orders by this table; launchers ask for an order by name.

A higher priority goes first in each of them, and of Jobs that are alike the oldest. Between people who share a Site
Jobs of one priority are taken in turns (`server/store/turns.py`); what is ordered here is one person's.
"""

from collections.abc import Mapping
from typing import Literal

JobOrder = Literal["fifo", "long_large_first", "smallest_first"]

# Fields of a Job that are compared one after the other; with a minus the larger one goes first.
FIELDS: Mapping[JobOrder, tuple[str, ...]] = {
    "fifo": ("-priority",),
    "long_large_first": ("-priority", "-wall_time_min", "-num_nodes"),
    # Of equally small ones the longest, so that none is begun late that everything then waits for.
    "smallest_first": ("-priority", "num_nodes", "-node_packing_count", "-wall_time_min"),
}


def precedence(order: JobOrder, job: object) -> tuple[int, ...]:
    """What to sort Jobs by, the oldest of those alike first. `job` has the fields and an `id`.

    >>> from types import SimpleNamespace
    >>> wide = SimpleNamespace(id=1, priority=0, num_nodes=4, node_packing_count=1, wall_time_min=5)
    >>> part = SimpleNamespace(id=2, priority=0, num_nodes=1, node_packing_count=8, wall_time_min=5)
    >>> precedence("smallest_first", part) < precedence("smallest_first", wide)
    True
    """
    names = (*FIELDS[order], "id")
    return tuple(-getattr(job, name[1:]) if name[0] == "-" else getattr(job, name) for name in names)
