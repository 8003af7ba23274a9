"""Messages about Sites, their agents and the files that agents read for others."""

from typing import Annotated, Literal

from pydantic import Base64Bytes, Field, StringConstraints

from balsam.domain.roles import Role
from balsam.wire import lookups
from balsam.wire.base import AtLeastOne, Count, JsonDict, Message, Name, Number, Short, Timestamp
from balsam.wire.limits import MAX_FILE_READ_BYTES
from balsam.wire.lookups import Where

PythonVersion = Annotated[str, StringConstraints(max_length=16, pattern=r"^[0-9]+\.[0-9]+$")]
SitePath = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^/[^\x00-\x1f\x7f]*$")]


class QueueLimits(Message):
    """What the Site allows in one queue; 0 jobs means no limit."""

    max_nodes: AtLeastOne = 1
    max_walltime: AtLeastOne = 60  # minutes; Balsam's name
    max_queued_jobs: Count = 0


class SiteCreate(Message):
    """Register a Site; the name is unique per owner."""

    name: Name
    path: SitePath
    hostname: Short = ""
    allowed_projects: list[Short] = []
    allowed_queues: dict[Short, QueueLimits] = {}
    optional_batch_job_params: dict[Short, Short] = {}
    transfer_locations: dict[Short, str] = {}
    python: PythonVersion | None = None  # as in SiteView; only the Site itself knows


class SitePatch(Message):
    """Fields to change; what is not given stays."""

    name: Name | None = None
    path: SitePath | None = None
    hostname: Short | None = None
    allowed_projects: list[Short] | None = None
    allowed_queues: dict[Short, QueueLimits] | None = None
    optional_batch_job_params: dict[Short, Short] | None = None
    transfer_locations: dict[Short, str] | None = None
    backfill_windows: JsonDict | None = None
    queued_jobs: JsonDict | None = None
    python: PythonVersion | None = None
    scaling: JsonDict | None = None


class SiteView(Message):
    """A Site as the service knows it. `last_refresh`: when its agent was last heard of; `is_active` follows from it.

    `python` is major.minor of the interpreter that runs Apps there, None while its agent has not told. `scaling`: what
    its agent's elastic queue and queue maintainer did last or why they did nothing, and the node-hours.
    """

    id: int
    name: str
    path: str
    hostname: str
    owner: str
    role: Role  # of the caller at this Site
    allowed_projects: list[str]
    allowed_queues: dict[str, QueueLimits]
    optional_batch_job_params: dict[str, str]
    transfer_locations: dict[str, str]
    backfill_windows: JsonDict
    queued_jobs: JsonDict
    python: str | None = None
    scaling: JsonDict = {}
    creation_date: Timestamp
    last_refresh: Timestamp | None
    is_active: bool


class SiteFilter(Message):
    """Selects Sites; `path` is a substring."""

    id: list[Number] | None = None
    name: str | None = None
    path: str | None = None
    last_refresh_after: Timestamp | None = None
    where: Annotated[Where, lookups.said("SiteLookup")] | None = None  # of kinds.SITE_FIELDS, all must hold
    limit: Annotated[int, Field(ge=0, le=10_000)] = 1000
    offset: Count = 0


class SitesPage(Message):
    """A page of Sites."""

    count: int
    results: list[SiteView]


class AgentLeaseRequest(Message):
    """An agent opens or renews its claim to be the Site's only agent.

    `replaces` is the instance of an earlier agent that this one saw to be dead on the same host.
    """

    instance: Short
    hostname: Short
    pid: Count
    replaces: Short = ""


class AgentLeaseReply(Message):
    """Granted. A refusal is 409 `agent_running` and names the host and pid of the other agent."""

    ttl_sec: float
    renew_sec: float


class FileRequest(Message):
    """What an agent is asked over its stream: look at a file of a Job's workdir."""

    id: str
    job_id: int
    workdir: str
    op: Literal["list", "read", "stat", "follow"]
    path: str = ""
    offset: int = 0  # negative: from the end
    file_id: str = ""  # follow: the file that the offset is of; another one, or a shorter one, is told from its start
    max_bytes: Annotated[int, Field(ge=1, le=MAX_FILE_READ_BYTES)] = MAX_FILE_READ_BYTES


class FileEntry(Message):
    """One file or directory of a workdir."""

    path: str
    size_bytes: Number
    is_dir: bool
    modified_at: Timestamp


class FileReply(Message):
    """The agent's answer. `error` is `not_found`, `refused` or a sentence; else what `op` asked for."""

    error: str = ""
    entries: list[FileEntry] = []
    data: Base64Bytes = b""
    offset: Number = 0
    size_bytes: Number = 0
    file_id: str = ""  # of a followed file: another one of the same name has another


class SiteToken(Message):
    """A token for the agent of a Site, for the launcher or the Jobs of a BatchJob. Shown once, stored hashed."""

    token: str
    expires_at: Timestamp | None = None


class JobTokenCreate(Message):
    """`may_sync_apps`: code of Jobs may register Apps at its Site, which runs whatever its owner registers."""

    may_sync_apps: bool = False


class SiteCreated(Message):
    """The new Site and its agent's token."""

    site: SiteView
    token: SiteToken
