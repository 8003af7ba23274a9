"""The launcher's rules, without a process: tables of what happens and what must come out, then everything at random."""

from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balsam.domain.failure import Failure
from balsam.domain.job import Resources
from balsam.domain.lease import HeldLease, LeaseKind
from balsam.domain.monitors import MonitorAction
from balsam.domain.packing import Node
from balsam.launcher.appetite import MOST_IN_RESERVE, POLL_SEC
from balsam.launcher.bad_nodes import START_SEC
from balsam.launcher.intake import OVERTAKEN_SEC, START_AGAIN_SEC
from balsam.launcher.machine import Machine
from balsam.launcher.machine_messages import (
    Acquire,
    AcquireRefused,
    CancelRequested,
    Checkpoint,
    CheckpointAsked,
    Drain,
    Exited,
    ExitReason,
    Fenced,
    Gone,
    Granted,
    Input,
    LaunchJob,
    LeaseEnded,
    LeaseRenewed,
    Lost,
    NodeDown,
    NodesLost,
    NodeUp,
    Note,
    Outcome,
    Output,
    Preparing,
    RanksApart,
    Record,
    RuleMet,
    SessionOpened,
    Signal,
    Start,
    StartDelayed,
    Started,
    StartFailed,
    Storage,
    Work,
)
from balsam.launcher.machine_settings import MachineSettings
from balsam.launcher.runs import KILL_AGAIN_SEC
from balsam.wire.sessions import AcquireRequest, GrantedJob, LaunchEvent, ReportRecord

HALF = Resources(node_packing_count=2)
NODE = Node("n0", (0, 1, 2, 3))


def job(number: int, resources: Resources = HALF, token: int = 1, attempt: int = 1) -> LaunchJob:
    return LaunchJob(number, 1, token, attempt, f"job{number}", resources)


def one(kind: type, outputs: list[Output]) -> Any:
    found = [output for output in outputs if isinstance(output, kind)]
    assert len(found) == 1, outputs
    return found[0]


def all_of(kind: type, outputs: list[Output]) -> list[Any]:
    return [output for output in outputs if isinstance(output, kind)]


def told(outputs: list[Output]) -> list[tuple[Outcome, int]]:
    return [(output.outcome, output.job_id) for output in outputs if isinstance(output, Record)]


class Bench:
    """A machine with an open Session; `now` is moved by hand."""

    def __init__(self, kind: LeaseKind = LeaseKind.ALLOCATION, nodes: tuple[Node, ...] = (NODE,), **given: Any) -> None:
        self.now = 1000.0
        self.machine = Machine(MachineSettings(nodes, **given))
        self.first = self.step(SessionOpened(HeldLease(kind, 1000.0, ttl_sec=300, margin_sec=60)))

    def step(self, *inputs: Input, after: float = 0.0) -> list[Output]:
        self.now += after
        return self.machine.step(self.now, list(inputs))

    def grant(self, *jobs: LaunchJob) -> list[Output]:
        seq = self.machine._intake._acquire_seq
        return self.step(Granted(seq, jobs))

    def run(self, *jobs: LaunchJob) -> list[Output]:
        """Granted, started, running."""
        self.grant(*jobs)
        return self.step(*(Started(one.id) for one in jobs))

    def end(self, job_id: int, code: int = 0, **given: Any) -> list[Output]:
        return self.step(Exited(job_id, code, **given), Gone(job_id))


def test_a_job_from_grant_to_done() -> None:
    bench = Bench()
    asked = one(Acquire, bench.first)
    assert (asked.acquire_seq, asked.max_aggregate_nodes, asked.max_nodes_per_job) == (1, 1.0, 1)
    start = one(Start, bench.grant(job(1)))
    assert start.placement.shares[0].cpu_ids == (0,)
    assert told(bench.step(Started(1))) == [(Outcome.STARTED, 1)]
    assert told(bench.end(1)) == [(Outcome.RUN_DONE, 1)]
    assert bench.machine.is_idle


def test_every_input_has_somebody_who_hears_it() -> None:
    assert set(Bench().machine._on) == set(get_args(Input))


def test_end_is_told_and_slot_freed_only_when_gone() -> None:
    """S9, S6: its group may still have members after the first process ended."""
    bench = Bench()
    bench.grant(job(1, Resources()), job(2, Resources()))
    bench.step(Started(1))
    out = bench.step(Exited(1, 0))
    assert told(out) == all_of(Start, out) == []
    assert bench.machine.running == (1,)
    out = bench.step(Gone(1))
    assert told(out) == [(Outcome.RUN_DONE, 1)]
    assert one(Start, out).job.id == 2


def test_failure_carries_code_signal_and_tail() -> None:
    bench = Bench()
    bench.run(job(1))
    record = one(Record, bench.end(1, 139, signal="SIGSEGV", message="tail"))
    assert (record.outcome, record.return_code, record.message) == (Outcome.RUN_ERROR, 139, "tail")
    assert record.data == {"return_code": 139, "signal": "SIGSEGV"}


THREE = tuple(Node(f"n{number}", (0, 1)) for number in range(3))
TWO_NODES = Resources(num_nodes=2)


def test_a_lost_node_fails_what_ran_there_as_the_loss_of_a_node() -> None:
    """Whatever its first process said: srun gives 0 when the ranks on the other nodes ended well."""
    bench = Bench(nodes=THREE)
    bench.run(job(1, TWO_NODES), job(2, Resources()))
    bench.step(Exited(1, 0))
    out = bench.step(NodesLost((1,)), Gone(1))
    record = one(Record, out)
    assert (record.outcome, record.failure) == (Outcome.RUN_ERROR, Failure.LOST_NODE)
    assert "node n1 was lost" in record.message
    assert bench.machine.running == (2,), "the Job on the third node goes on"
    assert told(bench.end(2)) == [(Outcome.RUN_DONE, 2)]


def test_ranks_that_never_meet_are_ended_at_once_as_the_loss_of_a_node_that_is_used_again() -> None:
    bench = Bench(nodes=THREE)
    bench.run(job(1, TWO_NODES))
    assert all_of(Signal, bench.step(RanksApart(1, 7, "of another grant"))) == []
    assert one(Signal, bench.step(RanksApart(1, 1, "they wait"))).kill, "nobody waits for the rest of it"
    out = bench.step(Exited(1, 137), Gone(1))
    record = one(Record, out)
    assert (record.outcome, record.failure, record.message) == (Outcome.RUN_ERROR, Failure.LOST_NODE, "they wait")
    assert told(bench.run(job(2, Resources(num_nodes=3)))) == [(Outcome.STARTED, 2)]


def test_nothing_is_placed_on_a_lost_node_and_what_fits_no_more_is_given_back() -> None:
    bench = Bench(nodes=THREE)
    out = bench.run(job(1, TWO_NODES), job(2, TWO_NODES), job(3, Resources(num_nodes=3)))
    assert told(out) == [(Outcome.STARTED, 1)]
    out = bench.step(NodesLost((0,)))
    assert one(Signal, out).kill, "nobody waits for the rest of it"
    assert told(out) == [(Outcome.RELEASED, 3)]
    out = bench.step(Exited(1, 137), Gone(1))
    assert told(out) == [(Outcome.RUN_ERROR, 1)]
    assert {share.node for share in one(Start, out).placement.shares} == {1, 2}
    assert all_of(Signal, bench.step(NodesLost((0,)))) == [], "it is told once"
    bench.step(Started(2))
    bench.end(2)
    asked = one(Acquire, bench.step(Granted(bench.machine._intake._acquire_seq, ()), Work(), after=100))
    assert (asked.max_nodes_per_job, asked.max_aggregate_nodes) == (2, 2.0)


WHOLE = Resources()


def fail_at_start(bench: Bench, node: int = 0) -> list[Output]:
    """What runs on that node ends with an error."""
    (job_id,) = bench.machine._runs._on(node)
    return bench.step(Started(job_id), Exited(job_id, 3, message="no GPU"), Gone(job_id))


def bench_with_a_bad_node(**given: Any) -> Bench:
    """Three nodes; the Jobs on two of them are well, a second one has just failed on the first, a third runs there."""
    bench = Bench(nodes=THREE, **given)
    bench.grant(*(job(number, WHOLE) for number in range(1, 9)), job(9, Resources(num_nodes=3)))
    bench.step(Started(2), Started(3))
    fail_at_start(bench)
    bench.step(after=START_SEC)
    fail_at_start(bench)
    return bench


def test_a_node_that_fails_jobs_at_start_is_set_aside_and_said() -> None:
    bench = bench_with_a_bad_node()
    out = fail_at_start(bench)
    assert told(out) == [(Outcome.STARTED, 5), (Outcome.RELEASED, 9), (Outcome.RUN_ERROR, 5)], "9 needs all nodes"
    said = "node n0 is set aside for the rest of this allocation: 3 Jobs in a row failed there"
    assert any(note.text.startswith(said) for note in all_of(Note, out))
    record = all_of(Record, out)[-1]
    assert record.message.startswith(f"no GPU\n{said}")
    assert record.data == {"return_code": 3, "node_set_aside": "n0"}
    assert all_of(Start, out) == []
    assert [start.placement.shares[0].node for start in all_of(Start, bench.end(2))] == [1], "the others go on"
    assert all_of(Start, bench.step(NodeUp(0))) == [], "it stays aside"
    assert bench.machine._runs.pool.usable_nodes == 2


@pytest.mark.parametrize(("most", "failed"), [(0, 5), (1, 2), (2, 2), (3, 3), (4, 4)])
def test_how_many_failed_starts_are_too_many_is_a_setting(most: int, failed: int) -> None:
    """Not after the first: at that time nothing had started well elsewhere."""
    bench = Bench(nodes=THREE, max_failed_starts_per_node=most)
    bench.grant(*(job(number, WHOLE) for number in range(1, 9)))
    bench.step(Started(2), Started(3))
    seen = 0
    while bench.machine._runs.pool.is_usable(0) and seen < 5:
        fail_at_start(bench)
        bench.step(after=START_SEC)
        seen += 1
    assert seen == failed
    assert bench.machine._runs.pool.is_usable(0) is (most == 0)


def test_what_runs_on_a_node_set_aside_goes_on_and_is_lost_with_it() -> None:
    bench = Bench(nodes=THREE, max_failed_starts_per_node=1)
    bench.grant(job(1), job(2), *(job(number, WHOLE) for number in range(3, 7)))
    bench.step(*(Started(number) for number in range(1, 5)))
    bench.end(4)
    bench.step(Started(5))
    out = bench.end(2, 1)
    assert "set aside" in one(Record, out).message
    assert all_of(Signal, out) == [], "what else runs there goes on"
    assert bench.machine._runs.free_cores == 2, "of four on two nodes; those of the third are nobody's"
    assert one(Signal, bench.step(NodesLost((0,)))).job_id == 1
    assert one(Record, bench.end(1, 137)).failure is Failure.LOST_NODE
    assert [start.job.id for start in all_of(Start, bench.end(3))] == [6]
    assert bench.machine._runs.free_cores == 2


def test_what_could_not_be_started_there_speaks_against_a_node_what_was_cancelled_does_not() -> None:
    bench = bench_with_a_bad_node()
    bench.step(CancelRequested((5,)), Started(5))
    assert "set aside" not in str(bench.end(5, 143))
    out = bench.step(StartFailed(6, 126, "no such directory"))
    assert "\nnode n0 is set aside" in all_of(Record, out)[-1].message


def test_the_last_node_is_never_set_aside() -> None:
    bench = bench_with_a_bad_node()
    bench.step(NodesLost((1,)), NodeDown(2))
    assert "set aside" not in str(fail_at_start(bench))
    assert bench.machine._runs.pool.is_usable(0)


def test_a_cancelled_job_on_a_lost_node_is_cancelled() -> None:
    bench = Bench(nodes=THREE)
    bench.run(job(1, TWO_NODES))
    bench.step(CancelRequested((1,)), NodesLost((0,)))
    assert told(bench.end(1, 143)) == [(Outcome.KILLED, 1)]


RESULT = {"value": 12}


@pytest.mark.parametrize(("code", "outcome"), [(0, Outcome.RUN_DONE), (1, Outcome.RUN_ERROR)])
def test_a_result_goes_with_the_end_of_its_run(code: int, outcome: Outcome) -> None:
    bench = Bench()
    bench.run(job(1))
    record = one(Record, bench.end(1, code, result=RESULT))
    assert (record.outcome, record.result) == (outcome, RESULT)


def test_what_was_killed_has_no_result() -> None:
    bench = Bench()
    bench.run(job(1))
    bench.step(CancelRequested((1,)))
    record = one(Record, bench.end(1, result=RESULT))
    assert (record.outcome, record.result) == (Outcome.KILLED, None)


@pytest.mark.parametrize(
    ("exited", "failure"),
    [
        (Exited(1, 3), Failure.EXIT_CODE),
        (Exited(1, 128), Failure.EXIT_CODE),
        (Exited(1, 139, "SIGSEGV"), Failure.SIGNAL),
        (Exited(1, 143), Failure.SIGNAL),  # of a shell whose command was ended
        (Exited(1, 137, "SIGKILL", out_of_memory=True), Failure.OUT_OF_MEMORY),
        (Exited(1, 0), None),
    ],
)
def test_the_class_of_an_end_is_told(exited: Exited, failure: Failure | None) -> None:
    bench = Bench()
    bench.run(job(1))
    bench.step(exited)
    assert one(Record, bench.step(Gone(1))).failure is failure


def test_what_can_not_be_started_is_told_as_such() -> None:
    bench = Bench()
    bench.grant(job(1))
    records = all_of(Record, bench.step(StartFailed(1, 127, "no such command")))
    assert [record.failure for record in records] == [None, Failure.NOT_STARTED]


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


def test_start_that_fails_is_an_error_with_its_reason() -> None:
    bench = Bench()
    bench.grant(job(1))
    out = bench.step(StartFailed(1, 127, "absent: command not found"))
    assert told(out) == [(Outcome.STARTED, 1), (Outcome.RUN_ERROR, 1)]
    assert all_of(Record, out)[1].message == "absent: command not found"
    assert bench.machine.is_idle


def test_start_that_is_delayed_keeps_its_turn() -> None:
    bench = Bench()
    bench.grant(job(1, Resources()), job(2, Resources()))
    out = bench.step(StartDelayed(1, "too many processes"))
    assert told(out) == []
    assert all_of(Start, out) == []
    assert bench.machine.queued == (2, 1) or bench.machine.queued == (1, 2)
    assert bench.machine.wake_at() == 1000 + START_AGAIN_SEC
    assert one(Start, bench.step(after=START_AGAIN_SEC)).job.id == 1


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


def test_packing_takes_what_fits_and_others_pass_until_it_was_overtaken_for_long() -> None:
    nodes = (NODE, Node("n1", (0, 1, 2, 3)))
    bench = Bench(nodes=nodes)
    both = Resources(num_nodes=2)
    bench.run(job(1))
    bench.step(Work())
    out = bench.grant(job(2, both), job(3), job(4))
    assert [start.job.id for start in all_of(Start, out)] == [3, 4]
    bench.step(Started(3), Started(4))
    bench.step(Work(), after=OVERTAKEN_SEC)
    bench.end(3)
    bench.machine._intake.appetite.in_flight = None
    bench.step(Work(), after=OVERTAKEN_SEC)
    out = bench.grant(job(5))
    assert all_of(Start, out) == [], "the large one has waited long enough"
    bench.end(1)
    assert [start.job.id for start in all_of(Start, bench.end(4))] == [2]


def test_too_long_for_what_is_left_is_given_back() -> None:
    bench = Bench(end=1000 + 600.0)
    assert one(Acquire, bench.first).max_wall_time_min == 10
    assert told(bench.grant(job(1, Resources(wall_time_min=11)))) == [(Outcome.RELEASED, 1)]
    bench = Bench(end=1000 + 600.0)
    bench.grant(job(1, Resources()), job(2, Resources(wall_time_min=5)))
    assert told(bench.step(Started(1), after=299)) == [(Outcome.STARTED, 1)]
    assert told(bench.step(after=62)) == [(Outcome.RELEASED, 2)]


def test_what_no_node_has_is_given_back_and_asked_for_less_and_less_often() -> None:
    bench = Bench(idle_ttl_sec=1e9)
    out = bench.grant(job(1, Resources(gpus_per_rank=1)))
    assert told(out) == [(Outcome.RELEASED, 1)]
    assert "no node here has" in one(Note, out).text
    delays = []
    for _ in range(4):
        start = bench.now
        while not all_of(Acquire, bench.step(Work(), after=0.5)):
            pass
        delays.append(bench.now - start)
        bench.grant(job(1, Resources(gpus_per_rank=1)))
    assert delays == [5.0, 10.0, 20.0, 40.0]


def test_l1_the_service_is_told_the_most_gpus_on_a_node() -> None:
    nodes = (NODE, Node("n2", (0,), ("0", "1")), Node("n3", (0,), ("0",)))
    assert one(Acquire, Bench(nodes=nodes).first).max_gpus_per_node == 2
    assert one(Acquire, Bench().first).max_gpus_per_node == len(NODE.gpu_ids) == 0


def test_without_packing_each_job_has_its_node() -> None:
    bench = Bench(allows_packing=False)
    assert len(all_of(Start, bench.grant(job(1), job(2)))) == 1


def test_never_more_than_most_running() -> None:
    bench = Bench(most_running=1)
    assert len(all_of(Start, bench.grant(job(1), job(2)))) == 1


def test_without_storage_nothing_starts() -> None:
    """F10: results could not be kept."""
    bench = Bench()
    bench.step(Storage(False))
    assert all_of(Start, bench.grant(job(1))) == []
    assert all_of(Acquire, bench.step(Work())) == []
    assert one(Start, bench.step(Storage(True))).job.id == 1


def test_one_acquire_at_a_time_under_growing_numbers() -> None:
    """S3."""
    bench = Bench()
    assert all_of(Acquire, bench.step(Work())) == []
    bench.step(Granted(7, (job(8),)))
    assert bench.machine.is_idle, "an answer to a question that was not asked"
    assert one(Acquire, bench.grant()).acquire_seq == 2
    out = bench.step(AcquireRefused(2, "forbidden"))
    assert "forbidden" in one(Note, out).text
    assert all_of(Acquire, bench.step(Work(), after=1)) == []
    assert one(Acquire, bench.step(after=5)).acquire_seq == 3


def test_an_empty_answer_is_not_asked_again_until_there_is_a_reason() -> None:
    bench = Bench(idle_ttl_sec=1e9)
    bench.step(Granted(1, ()))
    assert all_of(Acquire, bench.step(after=1)) == []
    assert bench.machine.wake_at() == 1000 + POLL_SEC
    assert one(Acquire, bench.step(Work(), after=0.001)).acquire_seq == 2
    bench.grant()
    assert one(Acquire, bench.step(after=POLL_SEC)).acquire_seq == 3


def test_a_hint_that_comes_while_the_question_is_under_way_is_not_lost() -> None:
    bench = Bench()
    bench.step(Work())
    assert one(Acquire, bench.step(Granted(1, ()))).acquire_seq == 2


def test_reserve_follows_the_pace_of_ends() -> None:
    bench = Bench()
    assert one(Acquire, bench.first).max_jobs == 4
    number = 0
    asked: list[Acquire] = [one(Acquire, bench.first)]
    for _ in range(400):
        if bench.machine._intake.appetite.in_flight is not None:
            count = min(asked[-1].max_jobs, int(asked[-1].max_aggregate_nodes / HALF.node_footprint))
            jobs = [job(number + index + 1) for index in range(count)]
            number += count
            asked += all_of(Acquire, bench.grant(*jobs))
        running = bench.machine.running
        outputs = bench.step(*(Started(job_id) for job_id in running), after=0.001)
        outputs += [output for job_id in running for output in bench.end(job_id)]
        asked += all_of(Acquire, outputs)
        assert len(bench.machine.queued) <= MOST_IN_RESERVE + 4
    assert 50 <= max(request.max_jobs for request in asked) <= MOST_IN_RESERVE + 4
    bench.now += 60
    for job_id in bench.machine.running:
        asked += all_of(Acquire, bench.end(job_id))
    assert asked[-1].max_jobs <= MOST_IN_RESERVE + 4


def test_wire_and_machine_agree_on_words_and_fields() -> None:
    assert {outcome.value for outcome in Outcome} == {event.value for event in LaunchEvent} - {LaunchEvent.HOOK_DONE}
    assert set(Acquire.__slots__) | {"known_apps"} == set(AcquireRequest.model_fields)
    wire = GrantedJob(
        id=1, app_id=2, token=3, attempt=4, workdir="a", parameters={"x": 1}, num_nodes=1, ranks_per_node=2,
        threads_per_rank=3, threads_per_core=1, gpus_per_rank=0.5, node_packing_count=2, wall_time_min=5,
        launch_params={"k": "v"}, tags={"t": "u"}, data={"d": 1}, parent_ids=[7],
    )  # fmt: skip
    launched = LaunchJob.from_wire(wire.model_dump())
    assert launched == LaunchJob(
        1, 2, 3, 4, "a", Resources(1, 2, 3, 1, 0.5, 2, 5), {"x": 1}, {"k": "v"}, {"t": "u"}, {"d": 1}, (7,)
    )
    told = {"seq", "job_id", "token", "event", "at", "return_code", "failure", "message", "data", "result"}
    of_hooks = {"verdict", "changes"}
    assert told | of_hooks | {"restarts"} == set(ReportRecord.model_fields)


# Nodes

TWO = (NODE, Node("n1", (0, 1, 2, 3)))


def test_nothing_is_started_on_a_node_that_is_down() -> None:
    bench = Bench(nodes=TWO)
    bench.step(NodeDown(0))
    starts = all_of(Start, bench.grant(*(job(number) for number in range(1, 5))))
    assert [start.placement.shares[0].node for start in starts] == [1, 1]
    assert [start.job.id for start in all_of(Start, bench.step(NodeUp(0)))] == [3, 4]
    assert bench.machine._runs.free_cores == 4


def test_no_jobs_are_asked_for_while_all_nodes_are_down() -> None:
    machine = Machine(MachineSettings(TWO, serial=True))
    opened = SessionOpened(HeldLease(LeaseKind.ALLOCATION, 0.0))
    assert all_of(Acquire, machine.step(0.0, [NodeDown(0), NodeDown(1), opened])) == []
    (asked,) = all_of(Acquire, machine.step(1.0, [NodeUp(1)]))
    assert (asked.max_jobs, asked.max_aggregate_nodes) == (4, 1.0)


@pytest.mark.parametrize(
    ("before", "outcome", "failure"),
    [
        ([], Outcome.RUN_TIMEOUT, Failure.LOST_NODE),
        ([Drain("the end")], Outcome.RUN_TIMEOUT, Failure.LOST_NODE),
        ([CancelRequested((1,))], Outcome.KILLED, None),
        ([Fenced(((1, 1),))], Outcome.RELEASED, None),
        ([Exited(1, 0)], Outcome.RUN_TIMEOUT, Failure.LOST_NODE),
    ],
    ids=["running", "drained", "cancelled", "fenced", "ended, nobody knows how much of it"],
)
def test_a_job_whose_node_is_lost(before: list[Input], outcome: Outcome, failure: Failure | None) -> None:
    """S6: told as lost, never started again by us."""
    bench = Bench()
    bench.run(job(1))
    bench.step(NodeDown(0), *before)
    record = one(Record, bench.step(Lost(1, "node n0 was lost")))
    assert (record.outcome, record.failure) == (outcome, failure)
    assert bench.machine.running == ()
    assert bench.end(1) == [], "what it says later is nothing"


def test_a_job_that_was_lost_before_it_was_said_to_run() -> None:
    """It may have run."""
    bench = Bench()
    bench.grant(job(1))
    assert told(bench.step(NodeDown(0), Lost(1, "gone"))) == [(Outcome.STARTED, 1), (Outcome.RUN_TIMEOUT, 1)]


# Everything at random


@dataclass
class World:
    """What is true outside of the machine, and the checks on every output."""

    machine: Machine
    now: float = 0.0
    tokens: dict[int, int] = field(default_factory=dict)
    starting: set[int] = field(default_factory=set)
    alive: set[int] = field(default_factory=set)
    exited: set[int] = field(default_factory=set)
    ends: dict[tuple[int, int], list[Outcome]] = field(default_factory=dict)
    granted: set[tuple[int, int]] = field(default_factory=set)
    asked: Acquire | None = None
    lease_over: bool = False

    def step(self, *inputs: Input) -> None:
        for output in self.machine.step(self.now, list(inputs)):
            self.check(output)
        wake = self.machine.wake_at()
        assert wake is None or wake > self.now, "it would be called again and again"

    def check(self, output: Output) -> None:
        match output:
            case Start():
                assert not self.lease_over
                assert output.job.id not in self.starting | self.alive, "S6: two runs of one Job"
                self.starting.add(output.job.id)
            case Signal():
                assert output.job_id in self.alive
            case Record():
                assert not self.lease_over, "S6: no report after the lease"
                told = self.ends.setdefault((output.job_id, output.token), [])
                if output.outcome is Outcome.NOTED:
                    assert told == [Outcome.STARTED], "a note is of what runs"
                else:
                    told.append(output.outcome)
            case Acquire():
                assert self.asked is None, "one at a time"
                assert not self.lease_over
                self.asked = output


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "grant",
                "start",
                "fail",
                "delay",
                "exit",
                "gone",
                "cancel",
                "fence",
                "rule",
                "apart",
                "tick",
                "work",
                "refuse",
                "renew",
                "storage",
                "lost",
                "down",
                "up",
            ]
        ),
        st.integers(0, 9),
        st.integers(1, 4),
    ),
    min_size=5,
    max_size=80,
)
ENDINGS = st.sampled_from(["drain", "lease", "idle"])
SHAPES = [HALF, Resources(), Resources(num_nodes=2), Resources(ranks_per_node=3, node_packing_count=4), Resources(1, 9)]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS, ENDINGS)
def test_whatever_happens(actions: list[tuple[str, int, int]], ending: str) -> None:
    """S6, S9, L3: one run of a Job, each grant told exactly once how it ended, nothing left at the end."""
    nodes = (NODE, Node("n1", (0, 1, 2, 3)))
    world = World(Machine(MachineSettings(nodes, idle_ttl_sec=1000, max_failed_starts_per_node=1)))
    world.step(SessionOpened(HeldLease(LeaseKind.HEARTBEAT, 0.0, 1e6, 60)))
    for action, which, number in actions:
        act(world, action, which, number)
    finish(world, ending)
    assert world.machine.exit is not None
    assert world.machine.is_idle
    assert world.machine._runs.pool.is_idle
    assert world.machine._runs.pool.usable_nodes >= 1, "the last node was set aside"
    if ending != "lease":
        assert set(world.ends) == world.granted
        for outcomes in world.ends.values():
            assert len(outcomes) == 1 or (len(outcomes) == 2 and outcomes[0] is Outcome.STARTED), outcomes
            assert outcomes[-1] is not Outcome.STARTED


def act(world: World, action: str, which: int, number: int) -> None:
    world.now += 0.5
    pick = sorted(world.starting if action in ("start", "fail", "delay") else world.alive)
    job_id = pick[which % len(pick)] if pick else None
    match action:
        case "grant" if world.asked is not None:
            jobs = []
            for index in range(number):
                name = (which + index) % 10 + 1
                if any(granted.id == name for granted in jobs):
                    continue
                world.tokens[name] = world.tokens.get(name, 0) + 1
                jobs.append(job(name, SHAPES[(which + index) % len(SHAPES)], token=world.tokens[name]))
                # A newer grant of a Job that waits here takes the place of the older one.
                older = world.machine._intake.queue.get(name)
                if older is not None:
                    world.granted.discard((name, older.token))
                world.granted.add((name, world.tokens[name]))
            seq, world.asked = world.asked.acquire_seq, None
            world.step(Granted(seq, tuple(jobs)))
        case "refuse" if world.asked is not None:
            seq, world.asked = world.asked.acquire_seq, None
            world.step(AcquireRefused(seq, "no"))
        case "start" if job_id is not None:
            world.starting.discard(job_id)
            world.alive.add(job_id)
            world.step(Started(job_id))
        case "fail" if job_id is not None:
            world.starting.discard(job_id)
            world.step(StartFailed(job_id, 127, "no"))
        case "delay" if job_id is not None:
            world.starting.discard(job_id)
            world.step(StartDelayed(job_id, "no"))
        case "exit" if job_id is not None:
            world.exited.add(job_id)
            world.step(Exited(job_id, number - 1))
        case "gone" if job_id is not None and job_id in world.exited:
            world.exited.discard(job_id)
            world.alive.discard(job_id)
            world.step(Gone(job_id))
        case "lost" if job_id is not None:
            world.exited.discard(job_id)
            world.alive.discard(job_id)
            world.step(Lost(job_id, "its node is gone"))
        case "down" | "up":
            world.step((NodeDown if action == "down" else NodeUp)(which % 2))
        case "cancel":
            world.step(CancelRequested((which + 1,)))
        case "rule":
            action = list(MonitorAction)[number % 3]
            world.step(RuleMet(which + 1, world.tokens.get(which + 1, 1), "bad", action, "met"))
        case "apart":
            world.step(RanksApart(which + 1, world.tokens.get(which + 1, 1), "they wait"))
        case "fence":
            world.step(Fenced(((which + 1, world.tokens.get(which + 1, 1)),)))
        case "tick":
            world.now += number * 7
            world.step()
        case "work":
            world.step(Work())
        case "renew":
            world.step(LeaseRenewed(world.now))
        case "storage":
            world.step(Storage(False))
            world.step(Storage(True))


def finish(world: World, ending: str) -> None:
    """Let everything that runs end, then the machine."""
    world.step(NodeUp(0), NodeUp(1))
    if ending == "lease":
        world.lease_over = True
        world.step(LeaseEnded("gone"))
    elif ending == "drain":
        world.step(Drain("the end"))
    for _ in range(200):
        if world.machine.exit is not None:
            return
        for name in sorted(world.starting):
            world.starting.discard(name)
            world.alive.add(name)
            world.step(Started(name))
        for name in sorted(world.alive):
            world.step(Exited(name, 0))
            world.exited.discard(name)
            world.alive.discard(name)
            world.step(Gone(name))
        if world.asked is not None:
            seq, world.asked = world.asked.acquire_seq, None
            world.step(Granted(seq, ()))
        world.now += 1001 if not world.starting and not world.machine.queued else 1
        world.step()


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


def test_no_checkpoint_is_asked_of_what_is_told_to_end() -> None:
    bench = Bench(checkpoint_at=1100.0, drain_at=1200.0, end=1300.0)
    bench.run(job(1), job(2))
    bench.step(CancelRequested((1,)))
    assert [order.job_id for order in all_of(Checkpoint, bench.step(after=100.0))] == [2]
    early = Bench(checkpoint_at=1100.0, drain_at=1200.0, end=1300.0)
    early.run(job(1))
    early.step(Drain("SIGTERM"))
    assert all_of(Checkpoint, early.step(after=100.0)) == []


def test_a_job_that_dies_of_the_question_is_no_failed_start_of_its_node() -> None:
    nodes = (NODE, Node("n1", (0, 1, 2, 3)))
    bench = Bench(nodes=nodes, checkpoint_at=1001.0, drain_at=1200.0, end=1300.0, max_failed_starts_per_node=1)
    bench.run(job(1), job(2), job(3))
    bench.step(after=1.0)
    bench.step(*(CheckpointAsked(number) for number in (1, 2, 3)))
    out = [output for number in (1, 2, 3) for output in bench.end(number, 138)]
    assert not [note for note in all_of(Note, out) if "set aside" in note.text]


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
