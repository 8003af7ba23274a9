"""What every scheduler adapter has to pass, for authors of adapters; needs pytest.

Subclass `SchedulerConformance` in a test module and give it a `harness` fixture that yields a `SchedulerHarness`;
pytest then collects the tests. They talk to the adapter only through the `Scheduler` protocol and to its processes
through files that the batch scripts write. `tests/platform/test_scheduler_local.py` is an example.
"""
# ruff: noqa: S101 -- tests that are shipped

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from balsam.platform.scheduler.base import (
    Scheduler,
    SchedulerJob,
    SchedulerState,
    SubmitRefused,
    SubmitRequest,
    no_crash,
)


class SchedulerHarness(Protocol):
    """What a test bed for one adapter provides. `directory` is empty and visible to the batch scripts."""

    directory: Path
    timeout_sec: float

    def make(self, crash_point: Callable[[str], None] = no_crash) -> Scheduler:
        """A new adapter object over the same scheduler, as a restarted agent makes one. The harness closes it."""
        ...

    def request(self) -> SubmitRequest:
        """A request that the scheduler takes and starts at once."""
        ...

    def refused_request(self) -> SubmitRequest:
        """A request that the scheduler can never satisfy."""
        ...

    def vanish(self, scheduler_id: str, name: str) -> None:
        """End the allocation behind the scheduler's back, so that no exit code is left (node lost, kill -9)."""
        ...


def _die_at(wanted: str) -> Callable[[str], None]:
    def crash(point: str) -> None:
        if point == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    return crash


class SchedulerConformance:
    """The suite. Each test is one promise of `platform.scheduler.base`."""

    @pytest.fixture
    def harness(self) -> Iterator[SchedulerHarness]:
        """Override: yield the harness of the adapter under test."""
        raise NotImplementedError("give this class a `harness` fixture")

    def test_successful_script_ends_finished_with_code_0(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        scheduler_id = scheduler.submit(_script(harness, "ok", "echo hello"), "balsam-ok", harness.request())
        job = _wait_over(harness, scheduler, scheduler_id)
        assert (job.state, job.exit_code, job.name) == (SchedulerState.FINISHED, 0, "balsam-ok")

    def test_failing_script_ends_failed_with_its_code(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        scheduler_id = scheduler.submit(_script(harness, "bad", "exit 7"), "balsam-bad", harness.request())
        job = _wait_over(harness, scheduler, scheduler_id)
        assert (job.state, job.exit_code) == (SchedulerState.FAILED, 7)
        assert "7" in job.reason

    def test_running_is_seen_and_carries_what_was_asked(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        request = harness.request()
        scheduler_id = scheduler.submit(_script(harness, "long", "touch up; exec sleep 600"), "balsam-long", request)
        _wait_for(harness, (harness.directory / "up").exists)
        job = _wait_state(harness, scheduler, scheduler_id, SchedulerState.RUNNING)
        assert (job.name, job.queue, job.num_nodes) == ("balsam-long", request.queue, request.num_nodes)
        assert job.start_time is not None
        assert job.start_time.tzinfo is not None
        scheduler.cancel(scheduler_id)
        _wait_over(harness, scheduler, scheduler_id)

    def test_many_are_polled_in_one_call(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        names = [f"balsam-many-{number}" for number in range(5)]
        script = _script(harness, "many", "true")
        ids = {scheduler.submit(script, name, harness.request()): name for name in names}
        assert len(ids) == len(names)
        for scheduler_id in ids:
            _wait_over(harness, scheduler, scheduler_id)
        assert {found: job.name for found, job in scheduler.history(ids).items()} == ids

    def test_refusal_is_permanent_and_says_why(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        with pytest.raises(SubmitRefused) as refusal:
            scheduler.submit(_script(harness, "never", "touch ran"), "balsam-never", harness.refused_request())
        assert str(refusal.value).strip()
        assert scheduler.find("balsam-never") is None
        assert not (harness.directory / "ran").exists()

    def test_s11_same_name_twice_runs_once(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        script = _script(harness, "twice", "echo run >> runs; sleep 1")
        first = scheduler.submit(script, "balsam-twice", harness.request())
        assert scheduler.find("balsam-twice") == first
        assert scheduler.submit(script, "balsam-twice", harness.request()) == first
        _wait_over(harness, scheduler, first)
        assert scheduler.submit(script, "balsam-twice", harness.request()) == first
        assert _runs(harness) == 1

    def test_s11_unknown_name_is_not_found(self, harness: SchedulerHarness) -> None:
        assert harness.make().find("balsam-nobody") is None

    @pytest.mark.parametrize("point", ["before-start", "after-start"])
    def test_s11_agent_killed_while_submitting_runs_once(self, harness: SchedulerHarness, point: str) -> None:
        script = _script(harness, "crash", "echo run >> runs; exec sleep 600")

        def submit_and_die() -> None:
            harness.make(_die_at(point)).submit(script, "balsam-crash", harness.request())

        agent = multiprocessing.get_context("fork").Process(target=submit_and_die)
        agent.start()
        agent.join(harness.timeout_sec)
        assert agent.exitcode == -signal.SIGKILL, "the crash point was not reached"

        scheduler = harness.make()
        found = scheduler.find("balsam-crash")
        assert (found is None) == (point == "before-start")
        scheduler_id = scheduler.submit(script, "balsam-crash", harness.request())
        assert found in (None, scheduler_id)
        _wait_for(harness, (harness.directory / "runs").exists)
        _wait_state(harness, scheduler, scheduler_id, SchedulerState.RUNNING)
        time.sleep(0.3)
        assert _runs(harness) == 1
        scheduler.cancel(scheduler_id)
        _wait_over(harness, scheduler, scheduler_id)

    def test_allocation_outlives_the_agent(self, harness: SchedulerHarness) -> None:
        script = _script(harness, "outlive", "sleep 1; exit 3")
        first = harness.make()
        scheduler_id = first.submit(script, "balsam-outlive", harness.request())
        first.close()
        second = harness.make()
        assert second.find("balsam-outlive") == scheduler_id
        assert _wait_over(harness, second, scheduler_id).exit_code == 3
        assert harness.make().history([scheduler_id])[scheduler_id].exit_code == 3

    def test_cancel_ends_the_script_and_its_processes(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        body = "sh -c 'while :; do date > beat; sleep 0.1; done' & wait"
        scheduler_id = scheduler.submit(_script(harness, "beat", body), "balsam-beat", harness.request())
        beat = harness.directory / "beat"
        _wait_for(harness, beat.exists)
        scheduler.cancel(scheduler_id)
        scheduler.cancel(scheduler_id)
        _wait_over(harness, scheduler, scheduler_id)
        last = beat.stat().st_mtime_ns
        time.sleep(0.5)
        assert beat.stat().st_mtime_ns == last, "a process of the allocation writes on after its end"

    def test_cancel_of_ended_or_unknown_is_no_error(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        scheduler_id = scheduler.submit(_script(harness, "short", "true"), "balsam-short", harness.request())
        job = _wait_over(harness, scheduler, scheduler_id)
        scheduler.cancel(scheduler_id)
        scheduler.cancel("999999999999")
        assert scheduler.history([scheduler_id])[scheduler_id].state == job.state

    def test_s12_unknown_id_has_no_history(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        assert scheduler.history(["999999999999"]) == {}
        assert "999999999999" not in scheduler.jobs()

    def test_s12_vanished_allocation_is_never_finished(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        script = _script(harness, "gone", "touch up; exec sleep 600")
        scheduler_id = scheduler.submit(script, "balsam-gone", harness.request())
        _wait_for(harness, (harness.directory / "up").exists)
        harness.vanish(scheduler_id, "balsam-gone")

        def settled() -> bool:
            return _view(scheduler, scheduler_id).state not in (SchedulerState.QUEUED, SchedulerState.RUNNING)

        _wait_for(harness, settled)
        job = _view(scheduler, scheduler_id)
        assert job.state in (SchedulerState.FAILED, SchedulerState.UNKNOWN)
        assert job.exit_code != 0
        assert job.reason

    def test_watch_tells_the_end_or_says_that_it_can_not(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        ended: list[str] = []
        if not scheduler.watch(ended.append):
            return
        scheduler_id = scheduler.submit(_script(harness, "told", "sleep 0.3"), "balsam-told", harness.request())
        _wait_for(harness, lambda: scheduler_id in ended)
        assert scheduler.history([scheduler_id])[scheduler_id].state is SchedulerState.FINISHED

    def test_queues_and_backfill_have_the_agreed_shape(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        for limits in scheduler.queues().values():
            assert limits.max_nodes is None or limits.max_nodes >= 1
        for windows in scheduler.backfill_windows().values():
            assert all(window.num_nodes >= 1 and window.wall_time_min >= 1 for window in windows)


def _script(harness: SchedulerHarness, name: str, body: str) -> Path:
    path = harness.directory / f"{name}.sh"
    path.write_text(f"#!/bin/bash\ncd '{harness.directory}' || exit 99\n{body}\n")
    return path


def _runs(harness: SchedulerHarness) -> int:
    return len((harness.directory / "runs").read_text().splitlines())


def _view(scheduler: Scheduler, scheduler_id: str) -> SchedulerJob:
    """The listing's word, else accounting's, else unknown: what the agent does."""
    job = scheduler.jobs().get(scheduler_id) or scheduler.history([scheduler_id]).get(scheduler_id)
    return job or SchedulerJob(scheduler_id, "", SchedulerState.UNKNOWN, "neither listed nor in the history")


def _wait_for(harness: SchedulerHarness, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + harness.timeout_sec
    while not condition():
        assert time.monotonic() < deadline, f"not reached in {harness.timeout_sec} s"
        time.sleep(0.02)


def _wait_state(
    harness: SchedulerHarness, scheduler: Scheduler, scheduler_id: str, state: SchedulerState
) -> SchedulerJob:
    _wait_for(harness, lambda: _view(scheduler, scheduler_id).state is state)
    return _view(scheduler, scheduler_id)


def _wait_over(harness: SchedulerHarness, scheduler: Scheduler, scheduler_id: str) -> SchedulerJob:
    _wait_for(harness, lambda: _view(scheduler, scheduler_id).state.is_over)
    return _view(scheduler, scheduler_id)
