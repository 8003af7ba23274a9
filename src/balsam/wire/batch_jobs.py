"""Messages about BatchJobs: allocations that a Site's agent asks from its scheduler."""

from typing import Annotated, Literal

from pydantic import Field

from balsam.domain.job import MAX_WALL_TIME_MIN
from balsam.domain.states import BatchJobState, JobMode
from balsam.wire import lookups
from balsam.wire.base import ById, Count, Id, JsonDict, Message, Number, Short, TagFilters, Tags, Timestamp
from balsam.wire.lookups import Where


class BatchJobPartition(Message):
    """A slice of an allocation with a launcher of its own.

    >>> BatchJobPartition(job_mode="mpi", num_nodes=2, filter_tags={"role": "leader"}).num_nodes
    2
    """

    job_mode: JobMode
    num_nodes: Annotated[int, Field(ge=1, le=1_000_000)]
    filter_tags: Tags = {}


class BatchJobCreate(Message):
    """Ask for an allocation."""

    site_id: Id
    num_nodes: Annotated[int, Field(ge=1, le=1_000_000)]
    wall_time_min: Annotated[int, Field(ge=1, le=MAX_WALL_TIME_MIN)]
    job_mode: JobMode
    queue: Annotated[str, Field(min_length=1, max_length=64)]
    project: Annotated[str, Field(min_length=1, max_length=64)]
    optional_params: dict[Short, Short] = {}
    filter_tags: Tags = {}
    partitions: list[BatchJobPartition] | None = None


class BatchJobView(Message):
    """A BatchJob as the service knows it. `status_info` carries the scheduler's own words.

    `draining`: it takes no more Jobs, and ends when those it has are over.
    """

    id: int
    submitted_by: str
    site_id: int
    num_nodes: int
    wall_time_min: int
    job_mode: JobMode
    queue: str
    project: str
    optional_params: dict[str, str]
    filter_tags: dict[str, str]
    partitions: list[BatchJobPartition] | None
    scheduler_id: str | None
    state: BatchJobState
    status_info: JsonDict
    created_at: Timestamp
    start_time: Timestamp | None
    end_time: Timestamp | None
    draining: bool = False


class BatchJobFilter(Message):
    """Selects BatchJobs."""

    id: list[Number] | None = None
    site_id: list[Number] | None = None
    state: list[BatchJobState] | None = None
    scheduler_id: str | None = None
    queue: str | None = None
    filter_tags: TagFilters | None = None
    created_after: Timestamp | None = None
    start_time_before: Timestamp | None = None
    start_time_after: Timestamp | None = None
    end_time_before: Timestamp | None = None
    end_time_after: Timestamp | None = None
    where: Annotated[Where, lookups.said("BatchJobLookup")] | None = None  # of kinds.BATCH_JOB_FIELDS, all must hold


BatchJobOrder = Literal["id", "-id", "start_time", "-start_time"]


class BatchJobQuery(BatchJobFilter):
    """A page of BatchJobs."""

    ordering: BatchJobOrder = "id"
    limit: Annotated[int, Field(ge=0, le=10_000)] = 1000
    offset: Count = 0


class BatchJobsPage(Message):
    """A page of BatchJobs."""

    count: int
    results: list[BatchJobView]


class BatchJobPatch(Message):
    """A change: users ask for deletion by `state=pending_deletion`, or for an end after its Jobs by `draining`, which
    can't be taken back; the agent reports what the scheduler says.
    """

    state: BatchJobState | None = None
    scheduler_id: Short | None = None
    status_info: JsonDict | None = None
    start_time: Timestamp | None = None
    end_time: Timestamp | None = None
    filter_tags: Tags | None = None
    draining: Literal[True] | None = None


class BatchJobsSelect(Message):
    """Body of a verb on every BatchJob that a filter selects."""

    filter: BatchJobFilter


class BatchJobsUpdate(BatchJobsSelect):
    """The same change to every BatchJob that a filter selects."""

    patch: BatchJobPatch


class BatchJobsChanged(Message):
    """How many BatchJobs a verb changed; `refused` says why others were not."""

    changed: int
    refused: dict[int, str] = {}


class BatchJobsPatch(Message):
    """Several reports in one call; each is applied or answered by itself in `refused`."""

    patches: Annotated[dict[Id, BatchJobPatch], ById, Field(max_length=1000)]


class BatchJobsPatched(Message):
    """The BatchJobs after the change; `refused` says why one was not changed."""

    results: list[BatchJobView]
    refused: dict[int, str] = {}
