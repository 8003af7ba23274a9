"""Messages about Jobs: bulk create, list, change, cancel, delete, retry, explain."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints

from balsam.domain.failure import Failure
from balsam.domain.job import MAX_WALL_TIME_MIN
from balsam.domain.states import JobState
from balsam.wire import lookups
from balsam.wire.base import AtLeastOne, ById, Count, Id, JsonDict, Message, Number, Short, TagFilters, Tags, Timestamp
from balsam.wire.limits import MAX_BULK, MAX_PAGE, MAX_PARENTS, MAX_TAGS, MAX_WORKDIR
from balsam.wire.lookups import MAX_LOOKUP_DEPTH, Where
from balsam.wire.transfers import JobTransfer

Positive = Annotated[int, Field(ge=1, le=10_000_000)]
Priority = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]


class JobCreate(Message):
    """One Job of a bulk submission."""

    # Factories: a literal default is deep-copied for every Job, which doubles the time to parse a bulk.
    app_id: Id
    workdir: Annotated[str, StringConstraints(min_length=1, max_length=MAX_WORKDIR)]
    parameters: JsonDict = Field(default_factory=dict)
    tags: Tags = Field(default_factory=dict)
    data: JsonDict = Field(default_factory=dict)
    num_nodes: Positive = 1
    ranks_per_node: Positive = 1
    threads_per_rank: Positive = 1
    threads_per_core: Positive = 1
    gpus_per_rank: Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False)] = 0.0
    node_packing_count: Positive = 1
    wall_time_min: Annotated[int, Field(ge=0, le=MAX_WALL_TIME_MIN)] = 0
    launch_params: dict[Short, Short] = Field(default_factory=dict)
    parent_ids: Annotated[list[Id], Field(max_length=MAX_PARENTS)] = Field(default_factory=list)
    transfers: dict[Short, str | JobTransfer] = Field(default_factory=dict)  # a text is "alias:/absolute/path"
    priority: Priority = 0
    max_attempts: AtLeastOne | None = None
    pending_file_cleanup: bool = True  # where the App has cleanup_files


class JobsCreate(Message):
    """All or none of the Jobs are created (S2)."""

    jobs: Annotated[list[JobCreate], Field(min_length=1, max_length=MAX_BULK)]


class JobsCreated(Message):
    """Ids and states in the order of the request. Everything else is as it was sent."""

    ids: list[int]
    states: list[JobState]
    site_ids: list[int]
    created_at: Timestamp


class JobView(Message):
    """A Job as the service knows it. `started_at`, `ended_at`, `return_code` are of the last attempt; `failure` says
    what went wrong with it, until the next one starts."""

    id: int
    submitted_by: str
    app_id: int
    app_name: str
    site_id: int
    workdir: str
    parameters: JsonDict
    tags: dict[str, str]
    data: JsonDict
    num_nodes: int
    ranks_per_node: int
    threads_per_rank: int
    threads_per_core: int
    gpus_per_rank: float
    node_packing_count: int
    wall_time_min: int
    launch_params: dict[str, str]
    parent_ids: list[int]
    transfers: dict[str, str]
    priority: int
    max_attempts: int | None
    state: JobState
    attempt: int
    return_code: int | None
    failure: Failure | None
    cancel_requested: bool
    batch_job_id: int | None
    session_id: int | None
    pending_file_cleanup: bool
    created_at: Timestamp
    last_update: Timestamp
    started_at: Timestamp | None
    ended_at: Timestamp | None


class JobFilter(Message):
    """Selects Jobs, in a query or in a body. Empty selects all that the caller may see; an empty list selects none."""

    id: list[Number] | None = None
    parent_id: list[Number] | None = None
    app_id: list[Number] | None = None
    app_name: str | None = None
    site_id: list[Number] | None = None
    batch_job_id: list[Number] | None = None
    submitted_by: str | None = None  # name of an account
    state: list[JobState] | None = None
    state__ne: JobState | None = None
    failure: list[Failure] | None = None
    tags: TagFilters | None = None  # "KEY:VALUE", all must match
    workdir__contains: str | None = None
    last_update_before: Timestamp | None = None
    last_update_after: Timestamp | None = None
    pending_file_cleanup: bool | None = None
    where: Annotated[Where, lookups.said("JobLookup")] | None = None  # of kinds.JOB_FIELDS, all must hold


JobOrder = Literal["id", "-id", "last_update", "-last_update", "state", "-state", "workdir", "-workdir"]


class JobQuery(JobFilter):
    """A page of a list. `after` is the id of the last row of the page before, `after_value` what it is ordered by."""

    ordering: JobOrder = "id"
    limit: Annotated[int, Field(ge=0, le=MAX_PAGE)] = 1000
    offset: Count = 0
    after: Number | None = None
    after_value: str | None = None  # not for orderings by id


class JobsPage(Message):
    """`count` is the number of all matches, not of this page; None when it was not asked for (`with_count=false`)."""

    count: int | None
    results: list[JobView]


class JobPatch(Message):
    """Fields to change; what is not given stays. What decides how it runs changes only while no launcher has it.

    `merge_*` changes single keys of a field and leaves the others; null removes a key.

    `state` is a wish: RESTART_READY or READY (run a FAILED or CANCELLED Job again, from its command or from its inputs
    on), or CANCELLED. `state_data` goes into the event of the transition, `state_timestamp` is when the caller says it
    was.
    """

    tags: Tags | None = None
    data: JsonDict | None = None
    parameters: JsonDict | None = None
    merge_tags: Annotated[dict[Short, Short | None], Field(max_length=MAX_TAGS)] | None = None
    merge_data: JsonDict | None = None
    merge_parameters: JsonDict | None = None
    workdir: Annotated[str, StringConstraints(min_length=1, max_length=MAX_WORKDIR)] | None = None
    num_nodes: Positive | None = None
    ranks_per_node: Positive | None = None
    threads_per_rank: Positive | None = None
    threads_per_core: Positive | None = None
    gpus_per_rank: Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False)] | None = None
    node_packing_count: Positive | None = None
    wall_time_min: Annotated[int, Field(ge=0, le=MAX_WALL_TIME_MIN)] | None = None
    launch_params: dict[Short, Short] | None = None
    priority: Priority | None = None
    max_attempts: AtLeastOne | None = None
    return_code: Number | None = None
    pending_file_cleanup: bool | None = None
    state: JobState | None = None
    state_data: JsonDict | None = None
    state_timestamp: Timestamp | None = None


class JobsPatch(Message):
    """Different changes to different Jobs, all or none: `patches` maps ids to fields."""

    patches: Annotated[dict[Id, JobPatch], ById, Field(min_length=1, max_length=MAX_BULK)]


class JobsSelect(Message):
    """Body of a verb on every Job that a filter selects."""

    filter: JobFilter


class JobsUpdate(JobsSelect):
    """The same change to every Job that a filter selects."""

    patch: JobPatch


class JobsCancel(JobsSelect):
    """Cancel every Job that a filter selects."""

    reason: Short = ""


class JobsChanged(Message):
    """How many Jobs a verb changed; `refused` names those it could not change, at most 100 of them."""

    changed: int
    refused: dict[int, str] = {}


class JobCounts(Message):
    """Number of Jobs by state, from kept counters when the filter is by Site alone."""

    counts: dict[JobState, int]


class JobGroupsQuery(JobFilter):
    """What to count the selected Jobs by: a field of kinds.JOB_FIELDS, or a key below one that holds JSON."""

    by: str
    path: Annotated[list[str], Field(max_length=MAX_LOOKUP_DEPTH)] = []


class JobGroup(Message):
    """How many Jobs have this value; null: they have none."""

    value: JsonValue
    count: int


class JobGroups(Message):
    """Number of Jobs by value, largest first."""

    groups: list[JobGroup]


class JobExplanation(Message):
    """Why a Job is where it is: one sentence, then reasons with what to do about each."""

    id: int
    state: JobState
    summary: str
    reasons: list[str] = []
