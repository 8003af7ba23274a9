"""Names and types of the keyword arguments of models and managers, for editors and type checkers.

Nothing here exists at run time but the names: what is sent is checked by the messages of `balsam.wire`, and a test
compares the two. A filter takes one value or several, of which any may match; look-ups (`num_nodes__gt=2`) come beside
what is listed here, see `Query.filter`.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Required, TypeAlias, TypedDict

from balsam.domain.failure import Failure
from balsam.domain.lease import LeaseKind, SessionPurpose
from balsam.domain.states import BatchJobState, JobMode, JobState, TransferState
from balsam.domain.transfers import TransferDirection
from balsam.wire.batch_jobs import BatchJobPartition

if TYPE_CHECKING:
    from balsam.client.models.app import App
    from balsam.client.models.application import ApplicationDefinition
    from balsam.client.models.batch_job import BatchJob
    from balsam.client.models.job import Job
    from balsam.client.models.site import Site
    from balsam.client.models.transfer import JobTransferItem

    AnApp: TypeAlias = int | App | type[ApplicationDefinition]

Text = str | PurePath
Time = datetime | str
State = JobState | str
TagsGiven = Mapping[str, str] | str | Iterable[str]


class JobFields(TypedDict, total=False):
    """What is given to a Job, and can be changed."""

    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    data: Mapping[str, Any]
    num_nodes: int
    ranks_per_node: int
    threads_per_rank: int
    threads_per_core: int
    gpus_per_rank: float
    node_packing_count: int
    wall_time_min: int
    launch_params: Mapping[str, str]
    priority: int
    max_attempts: int | None


class JobChanges(JobFields, total=False):
    """`Job.objects.filter(...).update(...)`. `merge_*` changes single keys of a field and leaves the others."""

    workdir: Text
    return_code: int | None
    pending_file_cleanup: bool
    state: State
    state_data: Mapping[str, Any]
    state_timestamp: Time
    merge_tags: Mapping[str, str | None]
    merge_data: Mapping[str, Any]
    merge_parameters: Mapping[str, Any]


class NewJob(JobFields, total=False):
    """`Job(...)` and `Job.objects.create(...)`."""

    app_id: Required["str | AnApp"]
    workdir: Required[Text]
    parent_ids: "Iterable[int | Job]"
    transfers: "Mapping[str, str | Mapping[str, Any] | JobTransferItem]"
    pending_file_cleanup: bool


class NewBatchJob(TypedDict, total=False):
    """`BatchJob(...)` and `BatchJob.objects.create(...)`."""

    site_id: Required[int]
    num_nodes: Required[int]
    wall_time_min: Required[int]
    job_mode: Required[JobMode | str]
    queue: Required[str]
    project: Required[str]
    optional_params: Mapping[str, str]
    filter_tags: Mapping[str, str]
    partitions: Iterable[BatchJobPartition | Mapping[str, Any]] | None


class NewSession(TypedDict, total=False):
    """`Session(...)` and `Session.objects.create(...)`."""

    site_id: Required[int]
    batch_job_id: int | None
    kind: LeaseKind | str
    purpose: SessionPurpose | str
    label: str


class NewSite(TypedDict, total=False):
    """`Site(...)` and `Site.objects.create(...)`."""

    name: Required[str]
    path: Required[Text]
    hostname: str
    allowed_projects: Iterable[str]
    allowed_queues: Mapping[str, Mapping[str, int]]
    optional_batch_job_params: Mapping[str, str]
    transfer_locations: Mapping[str, str]


class JobFilters(TypedDict, total=False):
    """`Job.objects.filter(...)`."""

    id: "int | Job | Iterable[int | Job]"
    parent_id: "int | Job | Iterable[int | Job]"
    app_id: "AnApp | Iterable[AnApp]"
    app_name: str
    site_id: "int | Site | Iterable[int | Site]"
    batch_job_id: "int | BatchJob | Iterable[int | BatchJob]"
    submitted_by: str
    state: State | Iterable[State]
    state__ne: State
    failure: Failure | str | Iterable[Failure | str]
    tags: TagsGiven
    workdir__contains: str
    last_update_before: Time
    last_update_after: Time
    pending_file_cleanup: bool


class EventFilters(TypedDict, total=False):
    """`EventLog.objects.filter(...)`."""

    id: int | Iterable[int]
    job_id: "int | Job | Iterable[int | Job]"
    job_state: State | Iterable[State]
    failure: Failure | str | Iterable[Failure | str]
    site_id: "int | Site | Iterable[int | Site]"
    app_id: "AnApp | Iterable[AnApp]"
    app_name: str
    workdir__contains: str
    batch_job_id: "int | BatchJob | Iterable[int | BatchJob]"
    scheduler_id: int | str
    tags: TagsGiven
    data: Mapping[str, Any] | str | Iterable[str]
    timestamp_before: Time
    timestamp_after: Time
    from_state: State | Iterable[State]
    to_state: State | Iterable[State]


class BatchJobFilters(TypedDict, total=False):
    """`BatchJob.objects.filter(...)`."""

    id: "int | BatchJob | Iterable[int | BatchJob]"
    site_id: "int | Site | Iterable[int | Site]"
    state: BatchJobState | str | Iterable[BatchJobState | str]
    scheduler_id: int | str
    queue: str
    filter_tags: TagsGiven
    created_after: Time
    start_time_before: Time
    start_time_after: Time
    end_time_before: Time
    end_time_after: Time


class SiteFilters(TypedDict, total=False):
    """`Site.objects.filter(...)`."""

    id: "int | Site | Iterable[int | Site]"
    name: str
    path: str
    last_refresh_after: Time


class AppFilters(TypedDict, total=False):
    """`App.objects.filter(...)`."""

    id: "int | App | Iterable[int | App]"
    site_id: "int | Site | Iterable[int | Site]"
    name: str
    site_name: str
    site_path: str


class TransferFilters(TypedDict, total=False):
    """`TransferItem.objects.filter(...)`."""

    id: int | Iterable[int]
    site_id: "int | Site | Iterable[int | Site]"
    job_id: "int | Job | Iterable[int | Job]"
    state: TransferState | str | Iterable[TransferState | str]
    direction: TransferDirection | str
    job_state: State | Iterable[State]
    tags: TagsGiven
