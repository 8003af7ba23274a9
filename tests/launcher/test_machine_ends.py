"""The launcher's rules on ends: cancels, rules of Apps, preparations, the lease, the drain, the wall time."""

from typing import Any

import pytest

from balsam.domain.failure import Failure
from balsam.domain.job import Resources
from balsam.domain.lease import LeaseKind
from balsam.domain.monitors import MonitorAction
from balsam.domain.packing import Node
from balsam.launcher.appetite import POLL_SEC
from balsam.launcher.machine import Machine
from balsam.launcher.machine_messages import (
    Acquire,
    CancelRequested,
    Checkpoint,
    CheckpointAsked,
    Drain,
    Exited,
    ExitReason,
    Fenced,
    Gone,
    Input,
    LeaseEnded,
    LeaseRenewed,
    Outcome,
    Preparing,
    Record,
    RuleMet,
    Signal,
    Start,
    StartDelayed,
    Started,
    StartFailed,
    Work,
)
from balsam.launcher.machine_settings import MachineSettings
from balsam.launcher.runs import KILL_AGAIN_SEC
from tests.launcher.machine_bench import NODE, RESULT, Bench, all_of, job, one, told


def rule_met(action: MonitorAction, token: int = 1, **given: Any) -> RuleMet:
    return RuleMet(1, token, "bad", action, "monitor bad: line 3", {"line": 3}, **given)


def test_a_rule_is_noted_and_the_job_goes_on() -> None:
    bench = Bench()
    bench.run(job(1))
    first = one(Record, bench.step(rule_met(MonitorAction.NOTIFY)))
    assert (first.outcome, first.message, first.data) == (
        Outcome.NOTED, "monitor bad: line 3", {"monitor": "bad", "line": 3}
    )  # fmt: skip
    second = one(Record, bench.step(rule_met(MonitorAction.TAG, tags={"quality": "bad"})))
    assert (second.outcome, second.changes) == (Outcome.NOTED, {"merge_tags": {"quality": "bad"}})
    assert told(bench.end(1)) == [(Outcome.RUN_DONE, 1)]


@pytest.mark.parametrize("code", [143, 0])
def test_a_rule_that_kills_ends_the_attempt_in_an_error_of_its_own_class(code: int) -> None:
    bench = Bench(kill_grace_sec=10)
    bench.run(job(1))
    out = bench.step(rule_met(MonitorAction.KILL, restarts=2))
    assert one(Signal, out).kill is False and told(out) == [], "nothing is told before it is gone (S9)"
    record = one(Record, bench.end(1, code))
    assert (record.outcome, record.failure, record.restarts) == (Outcome.RUN_ERROR, Failure.MONITOR, 2)
    assert (record.message, record.data) == (
        "monitor bad: line 3", {"return_code": code, "monitor": "bad", "line": 3}
    )  # fmt: skip


def test_a_rule_that_the_last_lines_meet_counts_for_a_job_that_ended_well() -> None:
    bench = Bench()
    bench.run(job(1))
    bench.step(Exited(1, 0))
    record = one(Record, bench.step(rule_met(MonitorAction.KILL), Gone(1)))
    assert (record.outcome, record.failure, record.return_code) == (Outcome.RUN_ERROR, Failure.MONITOR, 0)


def test_a_job_that_ends_for_another_reason_is_not_judged() -> None:
    bench = Bench()
    bench.run(job(1))
    bench.step(CancelRequested((1,)))
    assert told(bench.step(rule_met(MonitorAction.KILL), rule_met(MonitorAction.NOTIFY))) == []
    assert told(bench.end(1, 143)) == [(Outcome.KILLED, 1)]


def test_a_rule_of_an_earlier_grant_or_of_no_run_says_nothing() -> None:
    bench = Bench()
    bench.run(job(1, token=2))
    assert told(bench.step(rule_met(MonitorAction.NOTIFY, token=1))) == []
    assert told(bench.step(RuleMet(77, 1, "bad", MonitorAction.KILL, "x"))) == []


def test_a_cancel_outdoes_a_rule() -> None:
    bench = Bench()
    bench.run(job(1))
    bench.step(rule_met(MonitorAction.KILL))
    bench.step(CancelRequested((1,)))
    assert told(bench.end(1, 143)) == [(Outcome.KILLED, 1)]


def test_cancel_is_term_then_kill_then_killed_when_gone() -> None:
    bench = Bench(kill_grace_sec=10)
    bench.run(job(1))
    signal = one(Signal, bench.step(CancelRequested((1, 77))))
    assert (signal.kill, signal.kill_at) == (False, 1010.0)
    assert bench.machine.wake_at() == 1010.0
    assert all_of(Signal, bench.step(CancelRequested((1,)), after=5)) == [], "asked once"
    assert one(Signal, bench.step(after=5)).kill
    assert one(Signal, bench.step(after=KILL_AGAIN_SEC)).kill, "again until it is gone"
    assert told(bench.end(1, 137)) == [(Outcome.KILLED, 1)]


def test_cancel_of_a_waiting_job_gives_it_back() -> None:
    bench = Bench()
    bench.grant(job(1, Resources()), job(2, Resources()))
    assert told(bench.step(CancelRequested((2,)))) == [(Outcome.RELEASED, 2)]


def test_cancel_while_it_starts_is_signalled_when_started() -> None:
    bench = Bench()
    bench.grant(job(1))
    assert all_of(Signal, bench.step(CancelRequested((1,)))) == []
    out = bench.step(Started(1))
    assert told(out) == [(Outcome.STARTED, 1)]
    assert not one(Signal, out).kill
    assert told(bench.end(1, 143)) == [(Outcome.KILLED, 1)]


@pytest.mark.parametrize(
    ("happens", "outcome"),
    [
        (CancelRequested((1,)), Outcome.RELEASED),
        (Drain("soon"), Outcome.RELEASED),
        (Fenced(((1, 1),)), Outcome.RELEASED),
    ],
)
def test_what_is_only_being_prepared_is_ended_at_once_and_given_back(happens: Input, outcome: Outcome) -> None:
    bench = Bench()
    bench.grant(job(1))
    assert told(bench.step(Preparing(1))) == []
    assert one(Signal, bench.step(happens)).job_id == 1
    assert told(bench.step(StartDelayed(1, "told to end"))) == [(outcome, 1)]
    assert bench.machine.is_idle


def test_a_wish_to_end_that_came_before_the_preparation_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.grant(job(1))
    assert all_of(Signal, bench.step(CancelRequested((1,)))) == []
    assert one(Signal, bench.step(Preparing(1))).kill is False
    assert one(Signal, bench.step(after=100)).kill is True


def test_the_end_of_the_lease_kills_a_preparation_at_once_s6() -> None:
    bench = Bench()
    bench.grant(job(1))
    bench.step(Preparing(1))
    assert one(Signal, bench.step(LeaseEnded("gone"))).kill is True
    assert told(bench.step(StartDelayed(1, "told to end"))) == []


def test_a_preparation_goes_on_to_a_start_or_a_failure_with_what_was_raised() -> None:
    bench = Bench()
    bench.grant(job(1), job(2))
    bench.step(Preparing(1), Preparing(2))
    assert told(bench.step(Started(1))) == [(Outcome.STARTED, 1)]
    failed = bench.step(StartFailed(2, 1, "ValueError: no", RESULT))
    assert told(failed) == [(Outcome.STARTED, 2), (Outcome.RUN_ERROR, 2)]
    assert all_of(Record, failed)[1].result == RESULT
    assert told(bench.end(1)) == [(Outcome.RUN_DONE, 1)]


def test_cancel_while_it_starts_and_fails_to() -> None:
    bench = Bench()
    bench.grant(job(1))
    bench.step(CancelRequested((1,)))
    assert told(bench.step(StartFailed(1, 127, "no"))) == [(Outcome.RELEASED, 1)]


def test_fenced_run_is_killed_and_given_back_a_newer_grant_is_not_meant() -> None:
    """S7."""
    bench = Bench()
    bench.run(job(1, token=5))
    assert bench.step(Fenced(((1, 4),))) == [], "an older report of ours"
    assert not one(Signal, bench.step(Fenced(((1, 5),)))).kill
    assert told(bench.end(1, 143)) == [(Outcome.RELEASED, 1)]


def test_granted_again_while_an_earlier_run_lives() -> None:
    """S6: the new run starts only after the old one is gone."""
    bench = Bench()
    bench.run(job(1, token=1))
    bench.step(Work())
    out = bench.grant(job(1, token=2, attempt=2))
    assert all_of(Start, out) == []
    assert one(Signal, out).job_id == 1
    out = bench.end(1, 143)
    assert told(out) == [(Outcome.RELEASED, 1)]
    assert one(Record, out).token == 1
    assert one(Start, out).job.token == 2


def test_drain_ends_everything_in_order() -> None:
    """L3."""
    bench = Bench(drain_grace_sec=3)
    bench.grant(job(1), job(2), job(3))
    bench.step(Started(1), Started(2))
    out = bench.step(Drain("SIGTERM"))
    assert told(out) == [(Outcome.RELEASED, 3)]
    assert [(s.job_id, s.kill, s.kill_at) for s in all_of(Signal, out)] == [(1, False, 1003.0), (2, False, 1003.0)]
    assert bench.step(Drain("again")) == []
    assert told(bench.end(1, 0)) == [(Outcome.RUN_TIMEOUT, 1)], "it was told to end: what it says then is no result"
    out = bench.end(2, 143)
    assert told(out) == [(Outcome.RUN_TIMEOUT, 2)]
    assert bench.machine.exit is not None
    assert bench.machine.exit.reason is ExitReason.DRAINED
    assert bench.step(Work()) == []


def test_drain_by_the_clock() -> None:
    bench = Bench(end=1100.0, drain_at=1088.0)
    bench.run(job(1))
    assert bench.machine.wake_at() == 1088.0 or bench.machine.wake_at() == 1000 + POLL_SEC
    assert all_of(Signal, bench.step(after=87.9)) == []
    assert one(Signal, bench.step(after=0.1)).job_id == 1


def test_drain_before_there_is_a_session() -> None:
    machine = Machine(MachineSettings((NODE,)))
    assert machine.step(0.0, []) == []
    machine.step(1.0, [Drain("SIGTERM")])
    assert machine.exit is not None


def test_grant_that_arrives_while_draining_is_given_back() -> None:
    bench = Bench()
    bench.run(job(9))
    bench.step(Work())
    bench.step(Drain("x"))
    assert told(bench.grant(job(1))) == [(Outcome.RELEASED, 1)]


@pytest.mark.parametrize("how", ["time", "service"])
def test_lease_over_is_one_way(how: str) -> None:
    """S6: everything is killed at once, nothing more is reported, started or asked, whatever comes later."""
    bench = Bench(LeaseKind.HEARTBEAT)
    bench.grant(job(1), job(2), job(3))
    bench.step(Started(1), Started(2))
    out = bench.step(after=240) if how == "time" else bench.step(LeaseEnded("session_ended"))
    assert [(s.job_id, s.kill) for s in all_of(Signal, out)] == [(1, True), (2, True)]
    assert told(out) == []
    assert bench.machine.queued == ()
    out = bench.step(LeaseRenewed(bench.now + 5), Work(), CancelRequested((1,)), Fenced(((2, 1),)), after=1)
    assert all_of(Signal, out) == all_of(Record, out) == all_of(Acquire, out) == all_of(Start, out) == []
    assert told(bench.end(1, 0)) == []
    assert told(bench.end(2, 137)) == []
    assert bench.machine.exit is not None
    assert bench.machine.exit.reason is ExitReason.LEASE_ENDED


def test_renewed_lease_holds_from_the_time_it_was_sent() -> None:
    bench = Bench(LeaseKind.HEARTBEAT)
    bench.run(job(1))
    bench.step(LeaseRenewed(1100.0), after=150)
    assert all_of(Signal, bench.step(after=189.9)) == []
    assert one(Signal, bench.step(after=0.2)).kill


def test_allocation_lease_knows_no_time() -> None:
    bench = Bench()
    bench.run(job(1))
    assert all_of(Signal, bench.step(after=1e6)) == []


def test_started_after_the_lease_ended_is_killed_and_not_reported() -> None:
    bench = Bench()
    bench.grant(job(1))
    bench.step(LeaseEnded("x"))
    out = bench.step(Started(1))
    assert told(out) == []
    assert one(Signal, out).kill


def test_idle_ends_after_the_ttl() -> None:
    bench = Bench(idle_ttl_sec=60)
    bench.grant()
    bench.step(after=30)
    bench.run(job(1))
    bench.end(1)
    for _ in range(59):
        bench.step(after=1)
    assert bench.machine.exit is None
    bench.step(after=1)
    assert bench.machine.exit is not None
    assert bench.machine.exit.reason is ExitReason.IDLE


def test_running_jobs_are_told_once_that_the_end_is_near() -> None:
    """Those that were told and end with an error were cut off; they are not wrong, and neither is their node."""
    bench = Bench(nodes=(NODE, Node("n1", (0, 1, 2, 3))), checkpoint_at=1100.0, drain_at=1200.0, end=1300.0)
    bench.run(*(job(number, Resources(node_packing_count=4)) for number in range(1, 5)))
    bench.grant(job(5, Resources(node_packing_count=4)))
    bench.step(Exited(4, 0))
    assert bench.machine.wake_at() == 1100.0
    out = bench.step(after=100.0)
    assert [order.job_id for order in all_of(Checkpoint, out)] == [1, 2, 3], "5 does not run yet, 4 has ended"
    bench.step(CheckpointAsked(1), CheckpointAsked(2), CheckpointAsked(9), Started(5))
    assert told(bench.end(1, 3)) == [(Outcome.RUN_TIMEOUT, 1)]
    assert told(bench.end(2, 0)) == [(Outcome.RUN_DONE, 2)]
    assert told(bench.end(3, 3)) == [(Outcome.RUN_ERROR, 3)], "it has no such signal"
    out = bench.step(after=100.0)
    assert not all_of(Checkpoint, out) and 5 in [order.job_id for order in all_of(Signal, out)]


@pytest.mark.parametrize("asked", [1, 9])
def test_what_wrote_a_checkpoint_runs_on_in_the_next_allocation(asked: int) -> None:
    """The service has work, that Job, and here is room: it was taken, for the last seconds of its allocation."""
    bench = Bench(checkpoint_at=1100.0, drain_at=1200.0, end=1300.0)
    bench.run(job(1), job(2))
    bench.grant()
    bench.step(after=100.0)
    bench.step(CheckpointAsked(asked))
    out = bench.end(1, 3) + bench.step(Work()) + bench.step(after=20.0)
    assert bool(all_of(Acquire, out)) == (asked == 9), "9 does not run here: nobody was asked"
    assert asked == 9 or bench.machine.wake_at() == 1200.0


def test_no_checkpoint_is_asked_of_what_is_told_to_end() -> None:
    bench = Bench(checkpoint_at=1100.0, drain_at=1200.0, end=1300.0)
    bench.run(job(1), job(2))
    bench.step(CancelRequested((1,)))
    assert [order.job_id for order in all_of(Checkpoint, bench.step(after=100.0))] == [2]
    early = Bench(checkpoint_at=1100.0, drain_at=1200.0, end=1300.0)
    early.run(job(1))
    early.step(Drain("SIGTERM"))
    assert all_of(Checkpoint, early.step(after=100.0)) == []


def test_what_ended_before_the_drain_is_told_as_it_ended() -> None:
    """It was not seen gone yet; a Job that is done does not run again."""
    bench = Bench(nodes=(Node("n0", tuple(range(6))),))
    bench.run(*(job(number, Resources(node_packing_count=3)) for number in (1, 2, 3)))
    bench.step(Exited(1, 0), Exited(2, 3))
    assert [order.job_id for order in all_of(Signal, bench.step(Drain("SIGTERM")))] == [3]
    bench.step(Exited(3, 0))
    assert told(bench.step(Gone(1), Gone(2), Gone(3))) == [
        (Outcome.RUN_DONE, 1),
        (Outcome.RUN_ERROR, 2),
        (Outcome.RUN_TIMEOUT, 3),
    ]
