"""What every scheduler adapter has to pass, for authors of adapters; needs pytest.

Subclass `SchedulerConformance` in a test module and give it a `harness` fixture that yields a `SchedulerHarness`;
pytest then collects the tests. They talk to the adapter only through the `Scheduler` protocol and to its processes
through files that the batch scripts write. `tests/platform/test_scheduler_local.py` is an example. An adapter over
command lines passes `scheduler_conformance_commands` as well.
"""
# ruff: noqa: S101 -- tests that are shipped

import multiprocessing
import signal
import time
from collections.abc import Iterator

import pytest

from balsam.platform.scheduler.base import SchedulerState, SubmitRefused
from balsam.testing.scheduler_bench import (
    SchedulerHarness,
    count_runs,
    die_at,
    look,
    wait_for,
    wait_over,
    wait_state,
    write_script,
)


class SchedulerConformance:
    """The suite. Each test is one promise of `platform.scheduler.base`."""

    @pytest.fixture
    def harness(self) -> Iterator[SchedulerHarness]:
        """Override: yield the harness of the adapter under test."""
        raise NotImplementedError("give this class a `harness` fixture")

    def test_successful_script_ends_finished_with_code_0(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        scheduler_id = scheduler.submit(
            write_script(harness, "ok", "echo hello"), f"{harness.prefix}ok", harness.request()
        )
        job = wait_over(harness, scheduler, scheduler_id)
        assert (job.state, job.exit_code, job.name) == (SchedulerState.FINISHED, 0, f"{harness.prefix}ok")

    def test_failing_script_ends_failed_with_its_code(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        scheduler_id = scheduler.submit(
            write_script(harness, "bad", "exit 7"), f"{harness.prefix}bad", harness.request()
        )
        job = wait_over(harness, scheduler, scheduler_id)
        assert (job.state, job.exit_code) == (SchedulerState.FAILED, 7)
        assert "7" in job.reason
        assert job.start_time is not None and job.end_time is not None
        assert job.start_time <= job.end_time

    def test_running_is_seen_and_carries_what_was_asked(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        request = harness.request()
        scheduler_id = scheduler.submit(
            write_script(harness, "long", "touch up; exec sleep 600"), f"{harness.prefix}long", request
        )
        wait_for(harness, (harness.directory / "up").exists)
        job = wait_state(harness, scheduler, scheduler_id, SchedulerState.RUNNING)
        assert (job.name, job.queue, job.num_nodes) == (f"{harness.prefix}long", request.queue, request.num_nodes)
        assert job.start_time is not None
        assert job.start_time.tzinfo is not None
        assert job.wall_time_min == request.wall_time_min
        left = scheduler.time_left_sec(scheduler_id)
        assert left is None or 0 < left <= request.wall_time_min * 60
        scheduler.cancel(scheduler_id)
        wait_over(harness, scheduler, scheduler_id)
        assert scheduler.time_left_sec(scheduler_id) is None

    def test_waiting_is_seen_and_its_reason_told(self, harness: SchedulerHarness) -> None:
        request = harness.waiting_request()
        if request is None:
            return
        scheduler = harness.make()
        scheduler_id = scheduler.submit(write_script(harness, "wait", "touch ran"), f"{harness.prefix}wait", request)
        wait_for(harness, lambda: look(scheduler, scheduler_id).reason != "")
        job = look(scheduler, scheduler_id)
        assert (job.state, job.start_time, job.end_time) == (SchedulerState.QUEUED, None, None)
        scheduler.cancel(scheduler_id)
        job = wait_over(harness, scheduler, scheduler_id)
        assert job.state is SchedulerState.CANCELLED
        assert not (harness.directory / "ran").exists()

    def test_render_says_what_submit_would_run_and_does_nothing(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        script = write_script(harness, "shown", "touch ran")
        words = scheduler.render(script, f"{harness.prefix}shown", harness.request())
        assert any(f"{harness.prefix}shown" in word for word in words)
        assert scheduler.find(f"{harness.prefix}shown") is None
        assert not (harness.directory / "ran").exists()

    def test_only_allocations_of_its_prefix_are_listed(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        scheduler_id = scheduler.submit(
            write_script(harness, "site", "touch up; exec sleep 600"), f"other-{harness.prefix}1", harness.request()
        )
        wait_for(harness, (harness.directory / "up").exists)
        assert all(job.name.startswith(harness.prefix) for job in scheduler.jobs().values())
        scheduler.cancel(scheduler_id)
        wait_for(harness, lambda: all(job.state.is_over for job in scheduler.history([scheduler_id]).values()))

    def test_unknown_option_is_named(self, harness: SchedulerHarness) -> None:
        with pytest.raises(ValueError, match="no_such_option"):
            harness.make(no_such_option=1)

    def test_many_are_polled_in_one_call(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        names = [f"{harness.prefix}many-{number}" for number in range(5)]
        script = write_script(harness, "many", "true")
        ids = {scheduler.submit(script, name, harness.request()): name for name in names}
        assert len(ids) == len(names)
        for scheduler_id in ids:
            wait_over(harness, scheduler, scheduler_id)
        # Accounting may hear of an end a little later than the listing.
        wait_for(harness, lambda: {found: job.name for found, job in scheduler.history(ids).items()} == ids)

    def test_refusal_is_permanent_and_says_why(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        with pytest.raises(SubmitRefused) as refusal:
            scheduler.submit(
                write_script(harness, "never", "touch ran"), f"{harness.prefix}never", harness.refused_request()
            )
        assert str(refusal.value).strip()
        assert scheduler.find(f"{harness.prefix}never") is None
        assert not (harness.directory / "ran").exists()

    def test_s11_same_name_twice_runs_once(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        script = write_script(harness, "twice", "echo run >> runs; sleep 1")
        first = scheduler.submit(script, f"{harness.prefix}twice", harness.request())
        assert scheduler.find(f"{harness.prefix}twice") == first
        assert scheduler.submit(script, f"{harness.prefix}twice", harness.request()) == first
        wait_over(harness, scheduler, first)
        assert scheduler.submit(script, f"{harness.prefix}twice", harness.request()) == first
        assert count_runs(harness) == 1

    def test_s11_unknown_name_is_not_found(self, harness: SchedulerHarness) -> None:
        assert harness.make().find(f"{harness.prefix}nobody") is None

    @pytest.mark.parametrize("point", ["before-start", "after-start"])
    def test_s11_agent_killed_while_submitting_runs_once(self, harness: SchedulerHarness, point: str) -> None:
        script = write_script(harness, "crash", "echo run >> runs; exec sleep 600")

        def submit_and_die() -> None:
            harness.make(die_at(point)).submit(script, f"{harness.prefix}crash", harness.request())

        agent = multiprocessing.get_context("fork").Process(target=submit_and_die)
        agent.start()
        agent.join(harness.timeout_sec)
        assert agent.exitcode == -signal.SIGKILL, "the crash point was not reached"

        scheduler = harness.make()
        found = scheduler.find(f"{harness.prefix}crash")
        assert (found is None) == (point == "before-start")
        scheduler_id = scheduler.submit(script, f"{harness.prefix}crash", harness.request())
        assert found in (None, scheduler_id)
        wait_for(harness, (harness.directory / "runs").exists)
        wait_state(harness, scheduler, scheduler_id, SchedulerState.RUNNING)
        time.sleep(2 * harness.look_again_sec)
        assert count_runs(harness) == 1
        scheduler.cancel(scheduler_id)
        wait_over(harness, scheduler, scheduler_id)

    def test_allocation_outlives_the_agent(self, harness: SchedulerHarness) -> None:
        script = write_script(harness, "outlive", "sleep 1; exit 3")
        first = harness.make()
        scheduler_id = first.submit(script, f"{harness.prefix}outlive", harness.request())
        first.close()
        second = harness.make()
        assert second.find(f"{harness.prefix}outlive") == scheduler_id
        assert wait_over(harness, second, scheduler_id).exit_code == 3
        third = harness.make()
        wait_for(harness, lambda: [job.exit_code for job in third.history([scheduler_id]).values()] == [3])

    def test_cancel_ends_the_script_and_its_processes(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        body = "sh -c 'while :; do date > beat; sleep 0.1; done' & wait"
        scheduler_id = scheduler.submit(write_script(harness, "beat", body), f"{harness.prefix}beat", harness.request())
        beat = harness.directory / "beat"
        wait_for(harness, beat.exists)
        scheduler.cancel(scheduler_id)
        scheduler.cancel(scheduler_id)
        wait_over(harness, scheduler, scheduler_id)
        last = beat.stat().st_mtime_ns
        time.sleep(0.5)
        assert beat.stat().st_mtime_ns == last, "a process of the allocation writes on after its end"

    def test_cancel_of_ended_or_unknown_is_no_error(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        scheduler_id = scheduler.submit(
            write_script(harness, "short", "true"), f"{harness.prefix}short", harness.request()
        )
        job = wait_over(harness, scheduler, scheduler_id)
        scheduler.cancel(scheduler_id)
        scheduler.cancel("999999999999")
        assert look(scheduler, scheduler_id).state == job.state

    def test_s12_unknown_id_has_no_history(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        assert scheduler.history(["999999999999"]) == {}
        assert "999999999999" not in scheduler.jobs()

    def test_s12_vanished_allocation_is_never_finished(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        script = write_script(harness, "gone", "touch up; exec sleep 600")
        scheduler_id = scheduler.submit(script, f"{harness.prefix}gone", harness.request())
        wait_for(harness, (harness.directory / "up").exists)
        harness.vanish(scheduler_id, f"{harness.prefix}gone")

        def settled() -> bool:
            return look(scheduler, scheduler_id).state not in (SchedulerState.QUEUED, SchedulerState.RUNNING)

        wait_for(harness, settled)
        job = look(scheduler, scheduler_id)
        assert job.state in (SchedulerState.FAILED, SchedulerState.UNKNOWN)
        assert job.exit_code != 0
        assert job.reason

    def test_watch_tells_the_end_or_says_that_it_can_not(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        ended: list[str] = []
        if not scheduler.watch(ended.append):
            return
        scheduler_id = scheduler.submit(
            write_script(harness, "told", "sleep 0.3"), f"{harness.prefix}told", harness.request()
        )
        wait_for(harness, lambda: scheduler_id in ended)
        assert look(scheduler, scheduler_id).state is SchedulerState.FINISHED

    def test_queues_and_backfill_have_the_agreed_shape(self, harness: SchedulerHarness) -> None:
        scheduler = harness.make()
        for limits in scheduler.queues().values():
            assert limits.max_nodes is None or limits.max_nodes >= 1
        for windows in scheduler.backfill_windows().values():
            assert all(window.num_nodes >= 1 and window.wall_time_min >= 1 for window in windows)
