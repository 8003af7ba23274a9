"""The launcher's rules, without a process: what a Job goes through, packing, and how Jobs are asked for."""

from typing import get_args

import pytest

from balsam.domain.failure import Failure
from balsam.domain.job import Resources
from balsam.domain.packing import Node
from balsam.launcher.appetite import MOST_IN_RESERVE, POLL_SEC
from balsam.launcher.intake import OVERTAKEN_SEC, START_AGAIN_SEC
from balsam.launcher.machine_messages import (
    Acquire,
    AcquireRefused,
    CancelRequested,
    Exited,
    Gone,
    Granted,
    Input,
    LaunchJob,
    Note,
    Outcome,
    Record,
    Start,
    StartDelayed,
    Started,
    StartFailed,
    Storage,
    Work,
)
from balsam.wire.sessions import AcquireRequest, GrantedJob, LaunchEvent, ReportRecord
from tests.launcher.machine_bench import HALF, NODE, RESULT, Bench, all_of, job, one, told


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


def test_after_an_empty_answer_a_reserve_that_is_used_up_is_no_reason_to_ask() -> None:
    """Each of the last Jobs of a stream would cost the service a question."""
    bench = Bench()
    bench.run(*(job(number) for number in range(1, 9)))
    asked: list[Acquire] = []
    for number in range(1, 9):
        outputs = bench.end(number)
        asked += all_of(Acquire, outputs)
        bench.grant()
        bench.step(*(Started(start.job.id) for start in all_of(Start, outputs)), after=0.01)
    # Once for the reserve, and once for each half of the node that stays free.
    assert len(asked) == 3
    assert all_of(Acquire, bench.step(Work())) != []


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
