"""What the launcher's machine hears (inputs) and says (outputs). Plain values: the loop, the tests and the seeded
simulation speak to the machine in these words and no others. Times are seconds of one monotonic clock. What the machine
says of every Job, and the Job itself, are named tuples: they are made several times faster than frozen data classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter, itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from balsam.domain.failure import Failure
from balsam.domain.job import Resources
from balsam.domain.lease import HeldLease
from balsam.domain.monitors import MonitorAction
from balsam.domain.packing import Placement

_RESOURCES = tuple(field.name for field in fields(Resources) if field.init)
_values_of_resources = itemgetter(*_RESOURCES)
_fields_of_resources = attrgetter(*_RESOURCES)
_values_before = itemgetter("id", "app_id", "token", "attempt", "workdir")
_values_after = itemgetter("parameters", "launch_params", "tags", "data")
# Jobs of a stream ask for the same.
_resources = lru_cache(maxsize=1024)(Resources)
# What a shell gives for a command that a signal ended; it may stand between us and the command.
SIGNAL_CODES = range(129, 160)
NO_DATA: Mapping[str, Any] = MappingProxyType({})


class LaunchJob(NamedTuple):
    """A Job that was granted to us. `attempt` is the number its next start will have."""

    id: int
    app_id: int
    token: int
    attempt: int
    workdir: str
    resources: Resources
    parameters: Mapping[str, Any] = NO_DATA
    launch_params: Mapping[str, str] = NO_DATA
    tags: Mapping[str, str] = NO_DATA
    data: Mapping[str, Any] = NO_DATA
    parent_ids: tuple[int, ...] = ()

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> "LaunchJob":
        """From the JSON of a `wire.sessions.GrantedJob`."""
        resources = _resources(*_values_of_resources(data))
        return cls._make((*_values_before(data), resources, *_values_after(data), tuple(data["parent_ids"])))

    def packed(self) -> list[Any]:
        """For another process of ours: the values without their names."""
        return [*self[:_PLACE], _fields_of_resources(self.resources), *self[_PLACE + 1 :]]

    @classmethod
    def unpacked(cls, values: Sequence[Any]) -> "LaunchJob":
        """What was `packed`, perhaps as JSON. Raises TypeError for anything else."""
        *others, parents = values[_PLACE + 1 :]
        return cls._make((*values[:_PLACE], _resources(*values[_PLACE]), *others, tuple(parents)))


_PLACE = LaunchJob._fields.index("resources")


class Outcome(StrEnum):
    """What is reported of a Job; the words of `wire.sessions.LaunchEvent`."""

    STARTED = "started"
    RUN_DONE = "run_done"
    RUN_ERROR = "run_error"
    RUN_TIMEOUT = "run_timeout"
    NOTED = "noted"
    KILLED = "killed"
    RELEASED = "released"


# Inputs


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """The service granted a Session with this lease."""

    lease: HeldLease


@dataclass(frozen=True, slots=True)
class Granted:
    """The answer to acquire number `acquire_seq`."""

    acquire_seq: int
    jobs: tuple[LaunchJob, ...]


@dataclass(frozen=True, slots=True)
class AcquireRefused:
    """Acquire number `acquire_seq` was refused for good: nothing was granted under that number."""

    acquire_seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Preparing:
    """Methods of the App run that say how the Job is to be started; one of the three messages below follows."""

    job_id: int


@dataclass(frozen=True, slots=True)
class Started:
    """The process of the Job runs."""

    job_id: int


@dataclass(frozen=True, slots=True)
class CheckpointAsked:
    """The Job was sent the signal after which it may write a checkpoint."""

    job_id: int


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The Job could not be started and never will as it is; nothing of it lives. `result`: what was raised, if so."""

    job_id: int
    return_code: int
    message: str
    result: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class StartDelayed:
    """This machine is short of something (processes, memory): the Job may be started later. Nothing of it lives."""

    job_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The Job's first process ended; others of it may live. `return_code` as a shell gives it.

    `result`: what a Python App returned or raised, as `wire.results.JobResult` says it.
    """

    job_id: int
    return_code: int
    signal: str = ""
    message: str = ""
    result: Mapping[str, Any] | None = None
    out_of_memory: bool = False

    @property
    def failure(self) -> Failure | None:
        """The class of this end; None when it is a good one."""
        if self.out_of_memory:
            return Failure.OUT_OF_MEMORY
        if self.signal or self.return_code in SIGNAL_CODES:
            return Failure.SIGNAL
        return Failure.EXIT_CODE if self.return_code else None


@dataclass(frozen=True, slots=True)
class Gone:
    """Every process of the Job was seen to be gone (S9)."""

    job_id: int


@dataclass(frozen=True, slots=True)
class RuleMet:
    """A monitor of the App was met in this attempt; said at most once of each. `data` tells where."""

    job_id: int
    token: int
    monitor: str
    action: MonitorAction
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class RanksApart:
    """The ranks of this attempt will never find each other over the nodes that they have: they wait without end."""

    job_id: int
    token: int
    message: str


@dataclass(frozen=True, slots=True)
class NodeDown:
    """Nothing can be started on this node (its index) for now. What ran there may still run."""

    node: int


@dataclass(frozen=True, slots=True)
class NodeUp:
    """Jobs can be started on this node, or again."""

    node: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The Job's node was lost, and by now nothing of the Job can live there. How it ended is not known."""

    job_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Users want these Jobs to end."""

    job_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fenced:
    """The service refused a report: pairs of Job id and the token that is not current any more (S7)."""

    jobs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Work:
    """There may be something to acquire."""


@dataclass(frozen=True, slots=True)
class LeaseRenewed:
    """A renewal that was sent then was acknowledged."""

    sent_at: float


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """The service says that the Session is over."""

    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """End in good order: the allocation is about to end."""

    reason: str


@dataclass(frozen=True, slots=True)
class NodesLost:
    """These nodes, by index, are not ours any more: what ran there is lost, whatever its first process said."""

    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NodesSilent:
    """These nodes, by index, do not answer: nothing can be started there for now, and what ended there ended with them.

    What still runs there may be well.
    """

    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Storage:
    """Whether results can be kept durably."""

    works: bool


Input = (
    SessionOpened
    | Granted
    | AcquireRefused
    | Preparing
    | Started
    | CheckpointAsked
    | StartFailed
    | StartDelayed
    | Exited
    | Gone
    | Lost
    | RuleMet
    | RanksApart
    | NodeDown
    | NodeUp
    | CancelRequested
    | Fenced
    | Work
    | LeaseRenewed
    | LeaseEnded
    | Drain
    | NodesLost
    | NodesSilent
    | Storage
)


# Outputs


@dataclass(frozen=True, slots=True)
class Acquire:
    """Ask the service for Jobs; repeat it under the same number until it is answered (S3)."""

    acquire_seq: int
    max_jobs: int
    max_wall_time_min: int | None
    max_nodes_per_job: int
    max_aggregate_nodes: float
    max_gpus_per_node: int
    serial_only: bool
    filter_tags: Mapping[str, str]
    sort_by: str


class Start(NamedTuple):
    """Start this Job there; answered by Started, StartFailed or StartDelayed, before which Preparing may come."""

    job: LaunchJob
    placement: Placement


@dataclass(frozen=True, slots=True)
class Signal:
    """Ask the Job's processes to end, or kill them. `kill_at`: from then on whatever is left of it is killed."""

    job_id: int
    kill: bool
    kill_at: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The end is near: send the Job the signal for a checkpoint, if it has one; answered by CheckpointAsked if so."""

    job_id: int


class Record(NamedTuple):
    """One fact for the outbox, to be delivered in this order. `changes` are fields of the Job, as in a JobPatch."""

    outcome: Outcome
    job_id: int
    token: int
    return_code: int | None = None
    message: str = ""
    data: Mapping[str, Any] = NO_DATA
    result: Mapping[str, Any] | None = None
    failure: Failure | None = None
    changes: Mapping[str, Any] = NO_DATA
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log."""

    text: str


class ExitReason(StrEnum):
    """Why a launcher ends."""

    IDLE = "idle"
    DRAINED = "drained"
    LEASE_ENDED = "lease ended"


@dataclass(frozen=True, slots=True)
class Exit:
    """Nothing runs any more: deliver the outbox, close the Session (unless it ended), end."""

    reason: ExitReason
    text: str


Output = Acquire | Start | Signal | Checkpoint | Record | Note | Exit
