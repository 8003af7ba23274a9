"""What the conformance suites of scheduler adapters work with: the test bed that each adapter's tests provide, and the
steps that tests take on it. Needs no pytest.
"""
# ruff: noqa: S101 -- for tests

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from balsam.platform.scheduler.base import Scheduler, SchedulerJob, SchedulerState, SubmitRequest, no_crash
from balsam.testing.command_faults import CommandFaults


class SchedulerHarness(Protocol):
    """What a test bed for one adapter provides. `directory` is empty and visible to the batch scripts."""

    directory: Path
    prefix: str
    """`name_prefix` of the adapters it makes: new for each test, as accounting remembers names."""
    timeout_sec: float
    look_again_sec: float
    """How long to pause between questions."""

    def make(self, crash_point: Callable[[str], None] = no_crash, **options: object) -> Scheduler:
        """A new adapter object over the same scheduler, as a restarted agent makes one. The harness closes it.

        `options` are added to those that the bed needs.
        """
        ...

    def request(self) -> SubmitRequest:
        """A request that the scheduler takes and starts at once."""
        ...

    def refused_request(self) -> SubmitRequest:
        """A request that the scheduler can never satisfy."""
        ...

    def waiting_request(self) -> SubmitRequest | None:
        """A request that the scheduler takes and does not start soon; None: it starts everything at once."""
        ...

    def vanish(self, scheduler_id: str, name: str) -> None:
        """End the allocation behind the scheduler's back, so that no exit code is left (node lost, kill -9)."""
        ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """What the suite for adapters over command lines must know of the commands to make them misbehave.

    `outage`: what a command says, with status 1, when the scheduler can't be reached. The edits are sed -E lines for
    the output of `listing`: `unknown_state` turns a running allocation's state into a word that means nothing,
    `blank_reason` gives one that waits the reason "Nodes required are down, drained or reserved", and `renamed` gives
    every allocation another name. `search` finds a name or the user's ids, where that is not the listing itself.
    """

    submit: str
    listing: str
    outage: str
    unknown_state: str
    blank_reason: str
    renamed: str
    listing_calls: int = 1
    search: str = ""

    @property
    def questions(self) -> tuple[str, ...]:
        """The programs that tell what there is."""
        return (self.listing, self.search) if self.search else (self.listing,)


class CommandHarness(SchedulerHarness, Protocol):
    """As `SchedulerHarness`, with `faults.bin` at the front of the adapter's PATH. Commands time out after 3 s."""

    faults: CommandFaults
    dialect: Dialect


def die_at(wanted: str) -> Callable[[str], None]:
    def crash(point: str) -> None:
        if point == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    return crash


def write_script(harness: SchedulerHarness, name: str, body: str) -> Path:
    """A batch script that works in the bed's directory."""
    path = harness.directory / f"{name}.sh"
    path.write_text(f"#!/bin/bash\ncd '{harness.directory}' || exit 99\n{body}\n")
    return path


def count_runs(harness: SchedulerHarness) -> int:
    """How often a script that appends to `runs` was run."""
    return len((harness.directory / "runs").read_text().splitlines())


def look(scheduler: Scheduler, scheduler_id: str) -> SchedulerJob:
    """The listing's word, else accounting's, else unknown: what the agent does."""
    job = scheduler.jobs().get(scheduler_id) or scheduler.history([scheduler_id]).get(scheduler_id)
    return job or SchedulerJob(scheduler_id, "", SchedulerState.UNKNOWN, "neither listed nor in the history")


def wait_for(harness: SchedulerHarness, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + harness.timeout_sec
    while not condition():
        assert time.monotonic() < deadline, f"not reached in {harness.timeout_sec} s"
        time.sleep(harness.look_again_sec)


def wait_state(
    harness: SchedulerHarness, scheduler: Scheduler, scheduler_id: str, state: SchedulerState
) -> SchedulerJob:
    wait_for(harness, lambda: look(scheduler, scheduler_id).state is state)
    return look(scheduler, scheduler_id)


def wait_over(harness: SchedulerHarness, scheduler: Scheduler, scheduler_id: str) -> SchedulerJob:
    wait_for(harness, lambda: look(scheduler, scheduler_id).state.is_over)
    return look(scheduler, scheduler_id)
