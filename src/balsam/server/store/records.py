"""Rows as use cases see them, the same for every store. Times are integer microseconds since 1970 UTC.

A row is never changed: a change is `dataclasses.replace` and a write. (Those that are made by the ten thousand are not
frozen, because that costs more than all else.) The state of a Job changes only by `JobUpdate`, which carries the
Decisions that led there (S4).
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from balsam.domain.failure import Failure
from balsam.domain.lease import LeaseKind, SessionPurpose
from balsam.domain.lifecycle import Decision, Hook, JobFacts
from balsam.domain.roles import Role
from balsam.domain.states import BatchJobState, JobMode, JobState, TransferState
from balsam.domain.transfers import TransferDirection

Json = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
HOOK_BITS = {Hook.PREPROCESS: 1, Hook.POSTPROCESS: 2, Hook.HANDLE_ERROR: 4, Hook.HANDLE_TIMEOUT: 8}
STAGE_IN_BIT, STAGE_OUT_BIT = 16, 32
CHANGEABLE_COLUMNS = frozenset(
    (
        *("num_nodes", "ranks_per_node", "threads_per_rank", "threads_per_core", "gpus_per_rank"),
        *("node_packing_count", "wall_time_min", "priority", "max_attempts", "return_code"),
        *("pending_file_cleanup", "workdir", "parameters", "tags", "data", "launch_params"),
    )
)
_HOOKS_OF_MASK = [frozenset(hook for hook, bit in HOOK_BITS.items() if mask & bit) for mask in range(16)]


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware time."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(us: int) -> datetime:
    """The aware UTC time of a number of microseconds."""
    return _EPOCH + timedelta(microseconds=us)


def moment_or_none(us: int | None) -> datetime | None:
    return None if us is None else moment(us)


@dataclass(frozen=True, slots=True)
class UserRow:
    """An account. `password_hash` is None where no password login is possible (the local single user)."""

    id: int
    username: str
    password_hash: str | None
    is_admin: bool
    created_at: int
    disabled_at: int | None = None
    max_jobs: int | None = None  # this and the two below: None as for everybody
    quota_bytes: int | None = None
    requests_per_sec: int | None = None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One act, see `usecases.audit`. `actor_id` is 0 where nobody was logged in."""

    id: int
    created_at: int
    event: str
    actor_id: int
    actor: str
    token_id: int
    address: str
    request_id: str
    target: str
    detail: Json


@dataclass(frozen=True, slots=True)
class DeviceLoginRow:
    """A login through a browser that is under way, see `usecases.logins`; codes and secrets of browsers as SHA-256."""

    id: int
    device_hash: str
    user_code: str
    client: str
    address: str
    created_at: int
    expires_at: int
    polled_at: int | None
    status: str
    user_id: int | None
    browser_hash: str
    provider: str
    state_hash: str
    nonce: str
    verifier: str


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """Somebody at an OpenID provider, and the account that is theirs here."""

    id: int
    issuer: str
    subject: str
    user_id: int
    created_at: int


@dataclass(frozen=True, slots=True)
class TeamRow:
    """People with whom something is shared. Its name is unique among those that its founder made."""

    id: int
    founder_id: int
    name: str
    created_at: int


@dataclass(frozen=True, slots=True)
class MembershipRow:
    """One person in one team; a leader adds and removes others."""

    id: int
    team_id: int
    user_id: int
    is_leader: bool
    created_at: int


@dataclass(frozen=True, slots=True)
class ShareRow:
    """What a team may do at one Site, or with the Jobs of one campaign of `owner_id`; one of both is set."""

    id: int
    owner_id: int
    team_id: int
    site_id: int | None
    campaign: str | None
    role: Role
    created_at: int


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token, by the SHA-256 of its text. `kind` is user, site or launcher; `label` says what made it, or what for.

    A user's token with a `site_id` reaches that Site only.
    """

    id: int
    token_hash: str
    kind: str
    user_id: int
    site_id: int | None
    batch_job_id: int | None
    label: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    scopes: list[str]


@dataclass(frozen=True, slots=True)
class SiteRow:
    """A Site, and the lease of its agent. `deleted_at` is set while its rows are being removed."""

    id: int
    owner_id: int
    name: str
    path: str
    hostname: str
    allowed_projects: list[str]
    allowed_queues: Json
    optional_batch_job_params: dict[str, str]
    transfer_locations: dict[str, str]
    backfill_windows: Json
    queued_jobs: Json
    created_at: int
    last_refresh: int | None
    agent_instance: str
    agent_hostname: str
    agent_pid: int
    agent_renewed_at: int | None
    deleted_at: int | None
    python: str | None
    scaling: Json


@dataclass(frozen=True, slots=True)
class AppRow:
    """An App; `definition` is its AppSync as JSON. `author_id` synced it; `owner_id` is the Site's owner."""

    id: int
    site_id: int
    owner_id: int
    author_id: int
    name: str
    content_hash: str
    synced_at: int
    definition: Json


@dataclass(frozen=True, slots=True)
class BatchJobRow:
    """An allocation. `ended_at` is when the service heard of its end (S13); `start_time`, `end_time` are the Site's.

    `submitter_id` asked for it; `owner_id` is the Site's owner.
    """

    id: int
    site_id: int
    owner_id: int
    submitter_id: int
    num_nodes: int
    wall_time_min: int
    job_mode: JobMode
    queue: str
    project: str
    optional_params: dict[str, str]
    filter_tags: dict[str, str]
    partitions: list[Json] | None
    scheduler_id: str | None
    state: BatchJobState
    status_info: Json
    created_at: int
    start_time: int | None
    end_time: int | None
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A lease. Rows stay after `ended_at`, so that late results can be judged.

    `max_gpus_per_node` is what the last acquire said of the launcher's nodes; None: nothing was said.
    """

    id: int
    site_id: int
    owner_id: int
    batch_job_id: int | None
    kind: LeaseKind
    label: str
    opened_at: int
    renewed_at: int
    ended_at: int | None
    acquire_seq: int
    report_seq: int
    max_gpus_per_node: int | None
    purpose: SessionPurpose = SessionPurpose.RUN


@dataclass(frozen=True, slots=True)
class IdempotencyRow:
    """The answer to a write that carried an Idempotency-Key; kept for seven days (S2)."""

    id: int
    user_id: int
    key: str
    body_hash: str
    reply: str
    created_at: int


@dataclass(frozen=True, slots=True)
class ResultRow:
    """What an attempt of a Job returned or raised: a `wire.results.JobResult` as JSON text. `id` is that of the Job."""

    id: int
    attempt: int
    content: str


@dataclass(frozen=True, slots=True)
class BlobRow:
    """Content that the service keeps. `site_id` is the Site that sent it, 0 for the user; `place` is in the storage.

    `uses` counts the TransferItems that hold it; `last_used_at` is when somebody last sent it or asked for it.
    """

    id: int
    owner_id: int
    site_id: int
    sha256: str
    size_bytes: int
    place: str
    uses: int
    created_at: int
    last_used_at: int


@dataclass(frozen=True, slots=True)
class TransferItemRow:
    """A file or tree that a Job takes in or gives out.

    `content` is its TransferContent while it travels through the service, and `holds_content` whether blobs are kept
    for it; `origin` says which client the path belongs to.
    """

    id: int
    owner_id: int
    site_id: int
    job_id: int
    slot: str
    direction: TransferDirection
    local_path: str
    remote_path: str
    location_alias: str
    recursive: bool
    state: TransferState
    task_id: str
    transfer_info: Json
    content: Json
    origin: str
    holds_content: bool
    created_at: int
    last_update: int
    collected_at: int | None


Row = (
    UserRow
    | AuditRow
    | DeviceLoginRow
    | IdentityRow
    | TeamRow
    | MembershipRow
    | ShareRow
    | TokenRow
    | SiteRow
    | AppRow
    | BatchJobRow
    | SessionRow
    | IdempotencyRow
    | ResultRow
    | BlobRow
    | TransferItemRow
)


@dataclass(slots=True)
class JobRow:
    """All of a Job. `steps` is a mask of hooks and stages fixed at submission; `event_seq` counts its events.

    It belongs to the Site it runs at: `owner_id` is the Site's owner, `submitter_id` who submitted it.
    """

    id: int
    owner_id: int
    site_id: int
    app_id: int
    state: JobState
    priority: int
    num_nodes: int
    ranks_per_node: int
    threads_per_rank: int
    threads_per_core: int
    gpus_per_rank: float
    node_packing_count: int
    wall_time_min: int
    max_attempts: int | None
    steps: int
    token: int
    attempt: int
    lost_attempts: int
    session_id: int | None
    grant_seq: int
    batch_job_id: int | None
    cancel_requested: bool
    was_preprocessed: bool
    event_seq: int
    return_code: int | None
    pending_file_cleanup: bool
    created_at: int
    last_update: int
    started_at: int | None
    ended_at: int | None
    spent_attempts: int
    failure: Failure | None
    submitter_id: int
    workdir: str
    parameters: Json
    tags: dict[str, str]
    data: Json
    launch_params: dict[str, str]
    transfers: dict[str, str]
    parent_ids: list[int]


@dataclass(slots=True)
class HotJob:
    """The part of a Job that a transition reads."""

    id: int
    owner_id: int
    site_id: int
    app_id: int
    state: JobState
    token: int
    attempt: int
    session_id: int | None
    cancel_requested: bool
    lost_attempts: int
    max_attempts: int | None
    steps: int
    was_preprocessed: bool
    event_seq: int
    batch_job_id: int | None
    return_code: int | None
    started_at: int | None
    ended_at: int | None
    spent_attempts: int
    failure: Failure | None
    tagged: bool
    _facts: JobFacts | None = field(default=None, compare=False, repr=False)

    @property
    def facts(self) -> JobFacts:
        """What `decide()` must know of the Job."""
        if self._facts is None:
            self._facts = self._make_facts()
        return self._facts

    def _make_facts(self) -> JobFacts:
        return JobFacts(
            state=self.state,
            token=self.token,
            attempt=self.attempt,
            session_id=self.session_id,
            cancel_requested=self.cancel_requested,
            lost_attempts=self.lost_attempts,
            max_attempts=self.max_attempts,
            hooks=_HOOKS_OF_MASK[self.steps & 15],
            has_stage_in=bool(self.steps & STAGE_IN_BIT),
            has_stage_out=bool(self.steps & STAGE_OUT_BIT),
            was_preprocessed=self.was_preprocessed,
            spent_attempts=self.spent_attempts,
            failure=self.failure,
        )


def steps_mask(hooks: frozenset[Hook], *, has_stage_in: bool = False, has_stage_out: bool = False) -> int:
    """The `steps` of a Job whose App has these hooks."""
    mask = sum(HOOK_BITS[hook] for hook in hooks)
    return mask | (STAGE_IN_BIT if has_stage_in else 0) | (STAGE_OUT_BIT if has_stage_out else 0)


@dataclass(frozen=True, slots=True, eq=False)
class JobShape:
    """What most Jobs of a bulk have in common: whose they are, what runs, on what, and the Decision of their first
    state and events (S4)."""

    owner_id: int
    submitter_id: int
    site_id: int
    app_id: int
    decision: Decision
    priority: int
    num_nodes: int
    ranks_per_node: int
    threads_per_rank: int
    threads_per_core: int
    gpus_per_rank: float
    node_packing_count: int
    wall_time_min: int
    max_attempts: int | None
    steps: int
    pending_file_cleanup: bool = False


@dataclass(slots=True)
class NewJob:
    """A Job to insert. Jobs that are alike have the same `shape`, one object."""

    shape: JobShape
    workdir: str
    parameters: str  # JSON text from here on: it was serialised to be measured, and is not parsed again
    tags: dict[str, str]
    data: str
    launch_params: str
    transfers: str
    parent_ids: list[int]


@dataclass(slots=True)
class Step:
    """A Decision, and what is logged with its transitions."""

    decision: Decision
    reported_at: int | None = None
    data: Json = field(default_factory=dict)


@dataclass(slots=True)
class JobUpdate:
    """Steps taken by one Job in one transaction: one row update, one event row per transition (S5)."""

    job: HotJob
    steps: list[Step]
    batch_job_id: int | None
    return_code: int | None
    started_at: int | None
    ended_at: int | None

    @property
    def after(self) -> JobFacts:
        return self.steps[-1].decision.after

    @property
    def transition_count(self) -> int:
        return sum(len(step.decision.transitions) for step in self.steps)

    def check(self) -> None:
        """S4: the Decisions start at what was read, and each goes on from the one before."""
        facts = self.job.facts
        for step in self.steps:
            if step.decision.before is not facts and step.decision.before != facts:
                raise AssertionError(f"S4: Job {self.job.id}: a Decision does not go on from the one before it")
            facts = step.decision.after


@dataclass(slots=True)
class EventRow:
    """One transition of a Job. `seq` counts within the Job from 1."""

    id: int
    job_id: int
    seq: int
    attempt: int
    from_state: JobState
    to_state: JobState
    actor: str
    timestamp: int
    reported_at: int | None
    data: Json


EVENT_SEQ_BITS = 20


def event_id(job_id: int, seq: int) -> int:
    """Events are numbered by Job and place, which keeps the history of a Job together and (job, seq) unique (S5)."""
    if seq >> EVENT_SEQ_BITS:
        raise AssertionError(f"S16: Job {job_id} has more than {1 << EVENT_SEQ_BITS} events")
    return job_id << EVENT_SEQ_BITS | seq
