"""Messages between launcher and service: open a lease, acquire Jobs, report, renew, close."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from balsam.domain.failure import Failure
from balsam.domain.job_order import JobOrder
from balsam.domain.lease import LeaseKind, SessionPurpose
from balsam.domain.lifecycle import Hook
from balsam.domain.monitors import MAX_RESTARTS
from balsam.wire.apps import AppView
from balsam.wire.base import AtLeastOne, ById, Count, Id, JsonDict, Message, Number, Tags, Timestamp
from balsam.wire.limits import MAX_ACQUIRE, MAX_REPORT
from balsam.wire.results import JobResult

MAX_LABEL = 256


class SessionCreate(Message):
    """Open a Session for the launcher of a BatchJob, or of no BatchJob (heartbeat lease); or, for `processing`, for the
    Site's agent, which runs hooks."""

    site_id: Id
    batch_job_id: Id | None = None
    kind: LeaseKind = LeaseKind.HEARTBEAT
    purpose: SessionPurpose = SessionPurpose.RUN
    label: Annotated[str, Field(max_length=MAX_LABEL)] = ""  # host and pid, partition: shown to people


class SessionView(Message):
    """An open lease. The Jobs it holds are returned by acquire, never listed here."""

    id: int
    site_id: int
    batch_job_id: int | None
    kind: LeaseKind
    purpose: SessionPurpose
    label: str
    ttl_sec: float
    renew_sec: float
    margin_sec: float
    opened_at: Timestamp
    renewed_at: Timestamp
    acquire_seq: int
    report_seq: int


class AcquireRequest(Message):
    """Ask for up to `max_jobs` runnable Jobs. `acquire_seq` only grows; a repeat gets the same grants (S3).

    A Session for processing gets Jobs that wait for a hook, and says nothing of what it can run.
    """

    acquire_seq: AtLeastOne
    max_jobs: Annotated[int, Field(ge=1, le=MAX_ACQUIRE)]
    max_wall_time_min: Count | None = None
    max_nodes_per_job: AtLeastOne | None = None
    max_aggregate_nodes: Annotated[float, Field(gt=0)] | None = None
    max_gpus_per_node: Count | None = None  # the most on any of the launcher's nodes
    serial_only: bool = False
    filter_tags: Tags = {}
    sort_by: JobOrder = "fifo"
    known_apps: Annotated[dict[Id, str], ById] = {}  # app id -> content hash; others are sent along


class GrantedJob(Message):
    """A Job granted to this Session. `attempt` is the number the next start will have, or with a `hook` that of the
    attempt that the hook is about (0: none yet).

    `tags`, `data` and `parent_ids` are told for Apps whose methods run at the Site.
    """

    id: int
    app_id: int
    token: int
    attempt: int
    workdir: str
    parameters: JsonDict
    num_nodes: int
    ranks_per_node: int
    threads_per_rank: int
    threads_per_core: int
    gpus_per_rank: float
    node_packing_count: int
    wall_time_min: int
    launch_params: dict[str, str]
    hook: Hook | None = None
    # Factories: other defaults are copied deeply for each Job.
    tags: dict[str, str] = Field(default_factory=dict)
    data: JsonDict = Field(default_factory=dict)
    parent_ids: list[int] = Field(default_factory=list)


class AcquireReply(Message):
    """Granted Jobs and the definitions of Apps that the launcher did not name as known."""

    acquire_seq: int
    jobs: list[GrantedJob]
    apps: list[AppView]


class LaunchEvent(StrEnum):
    """What a launcher reports of a Job, and at the end what the agent reports of a hook."""

    STARTED = "started"
    RUN_DONE = "run_done"
    RUN_ERROR = "run_error"
    RUN_TIMEOUT = "run_timeout"
    NOTED = "noted"  # a monitor of the App was met; the attempt goes on
    KILLED = "killed"
    RELEASED = "released"  # granted, not started, handed back
    HOOK_DONE = "hook_done"  # `verdict` and `changes` say what came of it


class ReportRecord(Message):
    """One fact, in the launcher's durable order. `at` is by the launcher's clock: for people, orders nothing (S13).

    `result` comes with the end of an attempt of a Python App. `verdict` is the state that a hook set ("": none), and
    `changes` are the fields of the Job that it set, as in a JobPatch; with `noted` they may be `merge_tags`. `restarts`
    is how many attempts more a monitor allows that ended this one.
    """

    seq: AtLeastOne
    job_id: Id
    token: AtLeastOne
    event: LaunchEvent
    at: Timestamp
    return_code: Number | None = None
    failure: Failure | None = None  # what went wrong, when the launcher knows better than the event says
    message: Annotated[str, Field(max_length=8192)] = ""
    data: JsonDict = Field(default_factory=dict)
    result: JobResult | None = None
    verdict: Annotated[str, Field(max_length=64)] = ""
    changes: JsonDict = Field(default_factory=dict)
    restarts: Annotated[int, Field(ge=0, le=MAX_RESTARTS)] = 0


class Report(Message):
    """Records in order. Those with `seq` not above what the service has counted are skipped (S3)."""

    records: Annotated[list[ReportRecord], Field(min_length=1, max_length=MAX_REPORT)]


class ReportReply(Message):
    """`acked_seq`: all up to it is durable at the service. `fenced`: runs to kill, they are not ours any more (S7)."""

    acked_seq: int
    fenced: list[int] = []
    cancel: list[int] = []


class RenewReply(Message):
    """The lease goes on. `cancel`: held Jobs whose end the user asked for. `closing`: drain, the BatchJob is to end."""

    ttl_sec: float
    cancel: list[int] = []
    closing: bool = False


class SessionClose(Message):
    """Close in order. `lost` says that the launcher died and another one closes for it: its attempts count as lost."""

    lost: bool = False
    reason: Annotated[str, Field(max_length=1024)] = ""


class SessionFilter(Message):
    """What the SDK selects open Sessions by; the service lists them all."""

    id: list[Number] | None = None
    limit: int = 1000
    offset: int = 0


class SessionsPage(Message):
    """Open Sessions."""

    count: int
    results: list[SessionView]
