"""What the site agent may ask of a batch scheduler, and the words both use.

Each adapter implements `Scheduler`; the agent gets it through `registry.SCHEDULERS`. An adapter is accepted when it
passes `balsam.testing.scheduler_conformance`. The rules that matter most: a name is submitted at most once (S11), what
a scheduler does not say is `unknown` and never `finished` (S12), and a refusal (permanent) is told from an outage and
from a doubt. `docs/guides/clusters.md` says how to add one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol

from balsam.domain.clock import Clock, SystemClock


class SchedulerState(StrEnum):
    """The scheduler's view of one allocation."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"  # by somebody's wish: neither well nor badly
    UNKNOWN = "unknown"  # neither alive nor over: the scheduler does not say, or in a word that we do not know

    @property
    def is_over(self) -> bool:
        """Whether the scheduler vouches that no process of the allocation is left."""
        return self in (SchedulerState.FINISHED, SchedulerState.FAILED, SchedulerState.CANCELLED)


class SubmitRefused(Exception):
    """The scheduler will never take this request; the text is the scheduler's own. Do not repeat it."""


class SchedulerUnavailable(Exception):
    """The scheduler did not answer properly this time; nothing is known to have changed. Repeat later."""


class SubmitInDoubt(SchedulerUnavailable):
    """A submission was cut off: it may have been taken, or may still be (S11).

    Before the name is submitted again, look for it for `doubt_sec`.
    """


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """What is asked of the scheduler for one allocation; the script holds the same facts as directives."""

    num_nodes: int
    wall_time_min: int
    queue: str = "local"
    project: str = "local"
    optional_params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SchedulerJob:
    """One allocation as the scheduler sees it; None where the scheduler does not tell.

    `exit_code` is the batch script's, 128+n for a death by signal n. `reason` is for people: why it waits, failed or
    is unknown. `is_hopeless`: it waits for what will not come by itself, such as a higher limit of its queue.
    `was_taken`: it failed because the scheduler took its nodes or lost one, which is no fault of what was asked for.
    `node_names` are as the nodes call themselves, in the scheduler's order; `script_node` is the one on which the batch
    script was started, told also when it is none of them any more. Times are aware UTC; `expected_start` is
    the scheduler's guess for one that waits.
    """

    scheduler_id: str
    name: str
    state: SchedulerState
    reason: str = ""
    exit_code: int | None = None
    queue: str = ""
    project: str = ""
    num_nodes: int | None = None
    wall_time_min: int | None = None
    submit_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    expected_start: datetime | None = None
    node_names: tuple[str, ...] = ()
    script_node: str = ""
    is_hopeless: bool = False
    was_taken: bool = False


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Limits of one queue; None: no limit that the scheduler tells. `is_open`: whether it takes submissions now.

    `cpus_per_node` and `gpus_per_node` are what every node of the queue has at least.
    """

    max_nodes: int | None = None
    max_wall_time_min: int | None = None
    max_queued_jobs: int | None = None
    is_open: bool = True
    cpus_per_node: int | None = None
    gpus_per_node: int | None = None


@dataclass(frozen=True, slots=True)
class BackfillWindow:
    """Nodes that are idle now for so many minutes."""

    num_nodes: int
    wall_time_min: int


def no_crash(point: str) -> None:
    """The crash point of production code: does nothing."""


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What an adapter is built from.

    `submit_dir` is the Site's `qsubmit` directory; `options` are the adapter's own settings. Every name that is
    submitted through this object begins with `name_prefix`, and no other's does. `crash_point` is called with
    "before-start" right before the request goes to the scheduler and "after-start" right after it was taken, so that a
    test can die there.
    """

    submit_dir: Path
    options: Mapping[str, object] = field(default_factory=dict)
    clock: Clock = field(default_factory=SystemClock)
    crash_point: Callable[[str], None] = no_crash
    name_prefix: str = "balsam-"


class Scheduler(Protocol):
    """A batch scheduler. Every method may raise SchedulerUnavailable; all are safe to repeat.

    An adapter is made as `cls(SchedulerConfig)`, which raises ValueError for an option that it does not understand.

    >>> from balsam.platform.registry import SCHEDULERS
    >>> make = SCHEDULERS.load("local")   # make(SchedulerConfig(submit_dir=...)) gives a Scheduler
    """

    options: ClassVar[Mapping[str, str]]
    """What `SchedulerConfig.options` may hold: name -> what it does."""

    doubt_sec: float
    """For how long after a cut-off submission the scheduler may still take it (S11); 0: it never can."""

    def render(self, script_path: Path, name: str, request: SubmitRequest) -> list[str]:
        """The words of the command that `submit` would run: for people, and without any effect.

        Raises SubmitRefused for a value that can't be put into a word of it.
        """
        ...

    def submit(self, script_path: Path, name: str, request: SubmitRequest) -> str:
        """Ask for an allocation that runs the script; returns the scheduler's id.

        A name that the scheduler already knows is not submitted again: its id is returned (S11), also when the
        first try died half way. Raises SubmitRefused for a request that can't ever run, and SubmitInDoubt when it is
        not known whether the scheduler took it.
        """
        ...

    def find(self, name: str) -> str | None:
        """The id of what was submitted under this name, or None when the scheduler knows of nothing (S11)."""
        ...

    def jobs(self) -> dict[str, SchedulerJob]:
        """All allocations of this `name_prefix` that the scheduler lists now, by id, in one call.

        Ended ones stay listed for a while only. Absence is not evidence of an end (S12): ask `history`.
        """
        ...

    def history(self, scheduler_ids: Iterable[str]) -> dict[str, SchedulerJob]:
        """What accounting says about these ids, in one call; an id it does not know, or not yet, is left out.

        An id may have been given out again: look at the name.
        """
        ...

    def cancel(self, scheduler_id: str) -> None:
        """Ask for the end of an allocation: SIGTERM to its script, SIGKILL after the grace.

        Returns at once; `jobs` tells when it is over. An ended or unknown id is no error.
        """
        ...

    def queues(self) -> dict[str, QueueLimits]:
        """Queues one may submit to and their limits; empty when the scheduler does not tell."""
        ...

    def backfill_windows(self) -> dict[str, list[BackfillWindow]]:
        """Idle nodes by queue; empty when the scheduler does not tell."""
        ...

    def time_left_sec(self, scheduler_id: str) -> float | None:
        """Seconds until the scheduler ends this running allocation; None when it does not tell.

        For the launcher inside: the limit may have been changed since the batch script was written.
        """
        ...

    def watch(self, on_change: Callable[[str], None]) -> bool:
        """Have `on_change(scheduler_id)` called when an allocation ended; False: this scheduler must be polled.

        It is called from a thread of the adapter: only wake something in it (an Event, a queue).
        """
        ...

    def close(self) -> None:
        """Stop watching and free what this object holds; allocations go on."""
        ...
