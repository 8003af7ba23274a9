"""Messages about a Site's backlog: what waits to run, and which allocations will take of it."""

from typing import Annotated

from pydantic import Field

from balsam.domain.states import BatchJobState
from balsam.wire.base import AtLeastOne, Count, Message, Timestamp

MAX_LOOKED_AT = 50_000


class BacklogQuery(Message):
    """Which of a Site's runnable Jobs to count: those that an allocation with these limits could run.

    `tags` are KEY:VALUE, all must hold. The first `max_jobs` in the order of an acquire are counted.
    """

    tags: list[str] | None = None
    max_wall_time_min: Count | None = None
    max_nodes_per_job: AtLeastOne | None = None
    max_gpus_per_node: Count | None = None
    serial_only: bool = False
    max_jobs: Annotated[int, Field(ge=1, le=MAX_LOOKED_AT)] = 20_000


class WaitingJobs(Message):
    """`number` Jobs that nobody holds and that ask for the same; their time in minutes, rounded up."""

    num_nodes: int
    wall_time_min: int
    node_packing_count: int
    number: int


class BacklogSupply(Message):
    """An allocation that has not ended, or a partition of one.

    `held_nodes`: what the Jobs take up that its launcher holds; None: more of them than were counted, it is full.
    `part`: the index in Backlog.parts of what it takes; None: everything that waits.
    """

    batch_job_id: int
    state: BatchJobState
    num_nodes: int
    wall_time_min: int
    start_time: Timestamp | None
    held_nodes: float | None
    part: int | None


class Backlog(Message):
    """The first Jobs that wait, and the allocations that will take of them.

    `has_others`: nothing of what was asked for waits, but Jobs that are beyond its limits do.
    """

    waiting: list[WaitingJobs]
    parts: list[list[WaitingJobs]]
    supplies: list[BacklogSupply]
    has_others: bool
