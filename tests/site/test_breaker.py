"""The circuit breaker: instant failures in a row stop submissions for a while, and say so."""

from __future__ import annotations

from balsam.domain.states import BatchJobState
from balsam.platform.scheduler.base import SchedulerState
from balsam.site.ledger import Entry
from balsam.site.services.breaker import FAILURES, INSTANT_SEC, LONGEST_PAUSE_SEC, PAUSE_SEC, Breaker
from tests.site.bench import Bench

S = BatchJobState


def fail(
    bench: Bench, lasted_sec: float = 1.0, state: SchedulerState = SchedulerState.FAILED, *, taken: bool = False
) -> int:
    """A BatchJob whose allocation ends after so long."""
    number = bench.service.add_batch_job()
    bench.go()
    assert bench.state(number) is S.QUEUED, bench.told(number)
    scheduler_id = str(bench.view(number).scheduler_id)
    start = bench.clock.now()
    bench.clock.advance(lasted_sec)
    facts = {"start_time": start, "end_time": bench.clock.now(), "reason": "FAILED: exit code 78", "was_taken": taken}
    bench.scheduler.become(scheduler_id, state, **facts)
    bench.go()
    return number


def open_it(bench: Bench) -> None:
    for _ in range(FAILURES):
        fail(bench)


def test_after_some_instant_failures_the_next_is_held_and_told_why(bench: Bench) -> None:
    open_it(bench)
    number = bench.service.add_batch_job()
    bench.go()
    assert bench.state(number) is S.PENDING_SUBMISSION
    assert len(bench.scheduler.submissions) == FAILURES
    told = bench.told(number)
    assert told.startswith(
        "3 BatchJobs in a row came to nothing in queue 'local' with project 'local'; the last, 3, ended"
    )
    assert "FAILED: exit code 78" in told
    assert "try at once with `balsam site sync`; else one more is tried at 2030-01-01 00:10 UTC" in told
    reports = len(bench.service.reports)
    bench.clock.advance(60)
    bench.go()
    assert len(bench.service.reports) == reports


def test_one_is_let_through_after_the_pause_and_the_pause_grows(bench: Bench) -> None:
    open_it(bench)
    numbers = [bench.service.add_batch_job() for _ in range(2)]
    bench.clock.advance(PAUSE_SEC)
    bench.go()
    assert [bench.state(number) for number in numbers] == [S.QUEUED, S.PENDING_SUBMISSION]
    bench.scheduler.become("103", SchedulerState.FAILED, start_time=bench.clock.now(), end_time=bench.clock.now())
    bench.go()
    bench.clock.advance(1.9 * PAUSE_SEC)
    bench.go()
    assert bench.state(numbers[1]) is S.PENDING_SUBMISSION
    bench.clock.advance(0.1 * PAUSE_SEC)
    bench.go()
    assert bench.state(numbers[1]) is S.QUEUED


def test_one_that_lives_closes_it(bench: Bench) -> None:
    open_it(bench)
    numbers = [bench.service.add_batch_job() for _ in range(2)]
    bench.clock.advance(PAUSE_SEC)
    bench.go()
    bench.scheduler.become("103", SchedulerState.RUNNING, start_time=bench.clock.now())
    bench.clock.advance(INSTANT_SEC)
    bench.go(listing=False)
    bench.go()
    assert bench.state(numbers[1]) is S.QUEUED


def test_a_restarted_agent_tries_at_once(bench: Bench) -> None:
    open_it(bench)
    number = bench.service.add_batch_job()
    bench.go()
    bench.restart()
    bench.clock.advance(bench.scheduler.doubt_sec)
    bench.go()
    assert bench.state(number) is S.QUEUED


def test_what_is_no_instant_failure_does_not_count(bench: Bench) -> None:
    for _ in range(FAILURES):
        fail(bench, lasted_sec=INSTANT_SEC)
        fail(bench, state=SchedulerState.CANCELLED)
        fail(bench, taken=True)  # preempted, or a node was lost: nothing that anybody could repair
    for _ in range(FAILURES - 1):
        fail(bench)
    fail(bench, state=SchedulerState.FINISHED)
    fail(bench)


def test_refusals_of_the_scheduler_count_for_their_queue_and_project_only(bench: Bench) -> None:
    scheduler = bench.settings.scheduler.model_copy(update={"allowed_projects": ["local", "spent"]})
    bench.settings = bench.settings.model_copy(update={"scheduler": scheduler})
    bench.restart()
    bench.scheduler.refuse = "sbatch: error: Invalid account"
    numbers = [bench.service.add_batch_job(project="spent") for _ in range(FAILURES + 1)]
    bench.go()
    assert [bench.state(number) for number in numbers] == [S.SUBMIT_FAILED] * FAILURES + [S.PENDING_SUBMISSION]
    assert "Invalid account" in bench.told(numbers[-1])
    bench.scheduler.refuse = ""
    number = bench.service.add_batch_job()
    bench.go()
    assert bench.state(number) is S.QUEUED


def test_a_thousand_failures_have_a_pause_like_ten(bench: Bench) -> None:
    breaker, entry = Breaker(bench.clock), Entry(1, "balsam-1-1", "", "local", project="local")
    for _ in range(1500):
        breaker.failed(entry, "was refused by the scheduler")
    bench.clock.advance(LONGEST_PAUSE_SEC - 1)
    assert breaker.hold(entry)
    bench.clock.advance(1)
    assert breaker.hold(entry) is None
