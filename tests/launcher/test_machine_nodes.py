"""The launcher's rules on nodes: those that are lost, down, or fail what starts on them."""

from typing import Any

import pytest

from balsam.domain.failure import Failure
from balsam.domain.job import Resources
from balsam.domain.lease import HeldLease, LeaseKind
from balsam.domain.packing import Node
from balsam.launcher.bad_nodes import START_SEC
from balsam.launcher.machine import Machine
from balsam.launcher.machine_messages import (
    Acquire,
    CancelRequested,
    CheckpointAsked,
    Drain,
    Exited,
    Fenced,
    Gone,
    Granted,
    Input,
    Lost,
    NodeDown,
    NodesLost,
    NodesSilent,
    NodeUp,
    Note,
    Outcome,
    Output,
    RanksApart,
    Record,
    SessionOpened,
    Signal,
    Start,
    Started,
    StartFailed,
    Work,
)
from balsam.launcher.machine_settings import MachineSettings
from tests.launcher.machine_bench import NODE, Bench, all_of, job, one, told

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


def test_what_ended_on_a_node_that_does_not_answer_is_lost_and_what_runs_there_goes_on() -> None:
    """Ranks notice the loss of a node before the batch system does: with an error, or without."""
    bench = Bench(nodes=THREE)
    bench.run(job(1, TWO_NODES), job(2, Resources(node_packing_count=2)))
    bench.step(Exited(1, 1))
    out = bench.step(NodesSilent((1, 2)), Gone(1))
    record = one(Record, out)
    assert (record.outcome, record.failure) == (Outcome.RUN_ERROR, Failure.LOST_NODE)
    assert "node n1 does not answer" in record.message
    assert bench.machine.running == (2,)
    out = bench.grant(job(3, Resources()), job(4, Resources()))
    assert [start.placement.shares[0].node for start in all_of(Start, out)] == [0], "on the third nothing starts"
    assert told(bench.end(2)) == [(Outcome.RUN_DONE, 2)], "it was well"
    (start,) = all_of(Start, bench.step(NodeUp(1)))
    assert start.placement.shares[0].node == 1


def test_what_runs_on_silent_nodes_takes_no_cores_from_the_others() -> None:
    bench = Bench(nodes=THREE)
    bench.run(*(job(number, Resources(ranks_per_node=2)) for number in (1, 2, 3)))
    bench.step(NodesSilent((1, 2)))
    assert bench.machine._runs.free_cores == 0
    bench.end(1)
    assert bench.machine._runs.free_cores == 2
    assert one(Start, bench.grant(job(4, Resources(ranks_per_node=2)))).placement.shares[0].node == 0
    bench.step(NodeUp(1), NodeUp(2))
    bench.end(2)
    assert bench.machine._runs.free_cores == 2


def test_what_runs_on_a_silent_node_is_lost_with_it() -> None:
    bench = Bench(nodes=THREE)
    bench.run(job(1, TWO_NODES), job(2, Resources()))
    assert all_of(Signal, bench.step(NodesSilent((1,)))) == []
    assert one(Signal, bench.step(NodesLost((1,)))).kill
    assert told(bench.step(Exited(1, 0), Gone(1), NodeUp(1))) == [(Outcome.RUN_ERROR, 1)]
    assert bench.machine._runs.pool.usable_nodes == 2, "what is lost stays out of use"
    assert bench.machine._runs.free_cores == 3, "of four, one of which the other Job has"


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


def test_a_job_that_dies_of_the_question_is_no_failed_start_of_its_node() -> None:
    nodes = (NODE, Node("n1", (0, 1, 2, 3)))
    bench = Bench(nodes=nodes, checkpoint_at=1001.0, drain_at=1200.0, end=1300.0, max_failed_starts_per_node=1)
    bench.run(job(1), job(2), job(3))
    bench.step(after=1.0)
    bench.step(*(CheckpointAsked(number) for number in (1, 2, 3)))
    out = [output for number in (1, 2, 3) for output in bench.end(number, 138)]
    assert not [note for note in all_of(Note, out) if "set aside" in note.text]
