"""What the site agent may ask of a batch scheduler, and the words both use.

Each adapter implements `Scheduler`; the agent gets it through `registry.SCHEDULERS`. An adapter is accepted when it
passes `balsam.testing.scheduler_conformance`. The rules that matter most: a name is submitted at most once (S11), what
a scheduler does not say is `unknown` and never `finished` (S12), and a refusal (permanent) is told from an outage.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from balsam.domain.clock import Clock, SystemClock


class SchedulerState(StrEnum):
    """The scheduler's view of one allocation."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def is_over(self) -> bool:
        """Whether the scheduler vouches that no process of the allocation is left."""
        return self in (SchedulerState.FINISHED, SchedulerState.FAILED)


class SubmitRefused(Exception):
    """The scheduler will never take this request; the text is the scheduler's own. Do not repeat it."""


class SchedulerUnavailable(Exception):
    """The scheduler did not answer properly this time; nothing is known to have changed. Repeat later."""


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
    is unknown. Times are aware UTC.
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


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Limits of one queue; None: no limit that the scheduler tells."""

    max_nodes: int | None = None
    max_wall_time_min: int | None = None
    max_queued_jobs: int | None = None


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

    `submit_dir` is the Site's `qsubmit` directory; `options` are the adapter's own settings. `crash_point` is called
    with "before-start" right before the request goes to the scheduler and "after-start" right after it was taken, so
    that a test can die there.
    """

    submit_dir: Path
    options: Mapping[str, object] = field(default_factory=dict)
    clock: Clock = field(default_factory=SystemClock)
    crash_point: Callable[[str], None] = no_crash


class Scheduler(Protocol):
    """A batch scheduler. Every method may raise SchedulerUnavailable; all are safe to repeat.

    >>> from balsam.platform.registry import SCHEDULERS
    >>> make = SCHEDULERS.load("local")   # make(SchedulerConfig(submit_dir=...)) gives a Scheduler
    """

    def submit(self, script_path: Path, name: str, request: SubmitRequest) -> str:
        """Ask for an allocation that runs the script; returns the scheduler's id.

        A name that the scheduler already knows is not submitted again: its id is returned (S11), also when the
        first try died half way. Raises SubmitRefused for a request that can't ever run.
        """
        ...

    def find(self, name: str) -> str | None:
        """The id of what was submitted under this name, or None when surely nothing was (S11)."""
        ...

    def jobs(self) -> dict[str, SchedulerJob]:
        """All of this Site's allocations that the scheduler lists now, by id, in one call.

        Ended ones stay listed for a while only. Absence is not evidence of an end (S12): ask `history`.
        """
        ...

    def history(self, scheduler_ids: Iterable[str]) -> dict[str, SchedulerJob]:
        """What accounting says about these ids; an id it does not know is left out."""
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

    def watch(self, on_change: Callable[[str], None]) -> bool:
        """Have `on_change(scheduler_id)` called when an allocation ended; False: this scheduler must be polled.

        It is called from a thread of the adapter: only wake something in it (an Event, a queue).
        """
        ...

    def close(self) -> None:
        """Stop watching and free what this object holds; allocations go on."""
        ...
