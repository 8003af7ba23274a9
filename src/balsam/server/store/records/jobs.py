"""Jobs as they are read: whole (`JobRow`), the part that a transition needs (`HotJob`), their events and results."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from balsam.domain.failure import Failure
from balsam.domain.lifecycle import Hook, JobFacts
from balsam.domain.states import JobState
from balsam.server.store.records.values import Json

HOOK_BITS = {Hook.PREPROCESS: 1, Hook.POSTPROCESS: 2, Hook.HANDLE_ERROR: 4, Hook.HANDLE_TIMEOUT: 8}
STAGE_IN_BIT, STAGE_OUT_BIT = 16, 32
CHANGEABLE_COLUMNS = frozenset(
    (
        *("num_nodes", "ranks_per_node", "threads_per_rank", "threads_per_core", "gpus_per_rank"),
        *("node_packing_count", "wall_time_min", "priority", "max_attempts", "return_code"),
        *("pending_file_cleanup", "workdir", "parameters", "tags", "data", "launch_params"),
    )
)
EVENT_SEQ_BITS = 20
_HOOKS_OF_MASK = [frozenset(hook for hook, bit in HOOK_BITS.items() if mask & bit) for mask in range(16)]


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


class ShownJob(NamedTuple):
    """A Job as it is shown, `wire.jobs.JobView` with its owner. JSON stays the text that is stored."""

    id: int
    submitted_by: str
    app_id: int
    app_name: str
    site_id: int
    workdir: str
    parameters: str
    tags: str
    data: str
    num_nodes: int
    ranks_per_node: int
    threads_per_rank: int
    threads_per_core: int
    gpus_per_rank: float
    node_packing_count: int
    wall_time_min: int
    launch_params: str
    parent_ids: str
    transfers: str
    priority: int
    max_attempts: int | None
    state: JobState
    attempt: int
    return_code: int | None
    failure: str | None
    cancel_requested: bool
    batch_job_id: int | None
    session_id: int | None
    pending_file_cleanup: bool
    created_at: int
    last_update: int
    started_at: int | None
    ended_at: int | None
    owner_id: int


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
            self._facts = _facts(
                self.state,
                self.token,
                self.attempt,
                self.session_id,
                self.cancel_requested,
                self.lost_attempts,
                self.max_attempts,
                self.steps,
                self.was_preprocessed,
                self.spent_attempts,
                self.failure,
            )
        return self._facts


@lru_cache(maxsize=4096)
def _facts(
    state: JobState,
    token: int,
    attempt: int,
    session_id: int | None,
    cancel_requested: bool,
    lost_attempts: int,
    max_attempts: int | None,
    steps: int,
    was_preprocessed: bool,
    spent_attempts: int,
    failure: Failure | None,
) -> JobFacts:
    """One object for Jobs that are alike, as those of a launcher are: what is decided of one is decided of all."""
    return JobFacts(
        state=state,
        token=token,
        attempt=attempt,
        session_id=session_id,
        cancel_requested=cancel_requested,
        lost_attempts=lost_attempts,
        max_attempts=max_attempts,
        hooks=_HOOKS_OF_MASK[steps & 15],
        has_stage_in=bool(steps & STAGE_IN_BIT),
        has_stage_out=bool(steps & STAGE_OUT_BIT),
        was_preprocessed=was_preprocessed,
        spent_attempts=spent_attempts,
        failure=failure,
    )


@dataclass(slots=True)
class GrantedRow:
    """The part of a Job that its holder is told, as it is after the grant."""

    id: int
    app_id: int
    state: JobState
    token: int
    attempt: int
    session_id: int | None
    num_nodes: int
    ranks_per_node: int
    threads_per_rank: int
    threads_per_core: int
    gpus_per_rank: float
    node_packing_count: int
    wall_time_min: int
    workdir: str
    parameters: Json
    tags: dict[str, str]
    data: Json
    launch_params: dict[str, str]
    parent_ids: list[int]


def steps_mask(hooks: frozenset[Hook]) -> int:
    """The `steps` of a Job whose App has these hooks, and that transfers nothing."""
    return sum(HOOK_BITS[hook] for hook in hooks)


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


def event_id(job_id: int, seq: int) -> int:
    """Events are numbered by Job and place, which keeps the history of a Job together and (job, seq) unique (S5)."""
    if seq >> EVENT_SEQ_BITS:
        raise AssertionError(f"S16: Job {job_id} has more than {1 << EVENT_SEQ_BITS} events")
    return job_id << EVENT_SEQ_BITS | seq


@dataclass(frozen=True, slots=True)
class ResultRow:
    """What an attempt of a Job returned or raised: a `wire.results.JobResult` as JSON text. `id` is that of the Job."""

    id: int
    attempt: int
    content: str
