"""The Grid Engine adapter against a real one, as an unprivileged user: both conformance suites, and what is its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from balsam.platform.scheduler.base import SchedulerState, SubmitRefused
from balsam.platform.scheduler.grid_engine import GridEngine
from balsam.testing.scheduler_bench import Dialect, look, wait_for, wait_over, wait_state, write_script
from balsam.testing.scheduler_conformance import SchedulerConformance
from balsam.testing.scheduler_conformance_commands import CommandConformance
from tests.cluster.adapter_bench import AdapterBench, BatchSystem, adapter_bench
from tests.testbed.grid_engine_bed import PROGRAMS, GridEngineBed

pytestmark = pytest.mark.timeout(300)

GRID_ENGINE = BatchSystem(
    adapter=GridEngine,
    programs=PROGRAMS,
    dialect=Dialect(
        submit="qsub",
        listing="qstat",
        outage="error: commlib error: got select error (Connection refused)\n"
        'Unable to run job: unable to send message to qmaster using port 6444 on host "grid1": got send error',
        unknown_state="s#<state>[rt]</state>#<state>M</state>#",
        blank_reason="s#<MES_message>.*</MES_message>"
        "#<MES_message>Nodes required are down, drained or reserved</MES_message>#",
        renamed="s/balsam-/hamlet-/",
        listing_calls=2,
    ),
    queue="all.q",
    too_many_nodes=20,
    settings={"parallel_environment": "smp", "slots_per_node": 1},
)
GridEngineBench = AdapterBench[GridEngineBed, GridEngine]


@pytest.fixture
def bed(grid_engine: GridEngineBed) -> Iterator[GridEngineBench]:
    with adapter_bench(grid_engine, GRID_ENGINE) as bench:
        yield bench


class TestConformance(SchedulerConformance):
    @pytest.fixture
    def harness(self, bed: GridEngineBench) -> GridEngineBench:
        return bed


class TestCommandConformance(CommandConformance):
    @pytest.fixture
    def harness(self, bed: GridEngineBench) -> GridEngineBench:
        return bed


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"project": "nobody"}, 'requested project "nobody" does not exist'),
        ({"queue": "nowhere.q"}, 'unknown queue "nowhere.q"'),
    ],
)
def test_what_it_refuses_is_told_in_its_words(bed: GridEngineBench, asked: dict[str, str], said: str) -> None:
    with pytest.raises(SubmitRefused, match=said):
        bed.submit(bed.make(), "wrong", "true", **asked)


def test_limits_of_queues(bed: GridEngineBench) -> None:
    limits = bed.make().queues()
    assert {name: one.max_wall_time_min for name, one in limits.items()} == {"all.q": 1440, "short.q": 30}


def test_an_allocation_that_can_not_start_is_hopeless_and_says_why(bed: GridEngineBench) -> None:
    scheduler = bed.make()
    script = write_script(bed, "stuck", "true")
    (bed.directory / f"{bed.prefix}stuck.output").mkdir()  # where its output would go
    number = scheduler.submit(script, f"{bed.prefix}stuck", bed.request())
    wait_for(bed, lambda: look(scheduler, number).is_hopeless)
    wait_for(bed, lambda: "can't open output file" in look(scheduler, number).reason)


def test_why_it_waits_is_told(bed: GridEngineBench) -> None:
    scheduler = bed.make()
    number = bed.submit(scheduler, "wide", "true", num_nodes=20)
    wait_for(bed, lambda: "smp" in look(scheduler, number).reason)
    assert look(scheduler, number).num_nodes == 20


def test_slots_time_left_and_end_of_a_running_allocation(bed: GridEngineBench) -> None:
    scheduler = bed.make(slots_per_node=2)
    number = bed.submit(scheduler, "slots", "touch up; exec sleep 600", num_nodes=3, wall_time_min=20)
    job = wait_state(bed, scheduler, number, SchedulerState.RUNNING)
    assert (job.num_nodes, job.queue) == (3, "all.q")
    left = scheduler.time_left_sec(number)
    assert left is not None and 1100 < left <= 1200
    scheduler.cancel(number)
    over = wait_over(bed, scheduler, number)
    assert (over.state, over.num_nodes, over.project) == (SchedulerState.FAILED, 3, "proj1")


def test_the_notice_before_the_kill_reaches_the_script(bed: GridEngineBench) -> None:
    scheduler = bed.make()
    number = bed.submit(scheduler, "notice", "trap 'touch told; exit 0' USR2; touch up; while :; do sleep 0.1; done")
    wait_for(bed, (bed.directory / "up").exists)
    scheduler.cancel(number)
    wait_over(bed, scheduler, number)
    assert (bed.directory / "told").exists()


def test_more_nodes_than_one_need_a_parallel_environment(bed: GridEngineBench) -> None:
    with pytest.raises(SubmitRefused, match="parallel_environment"):
        bed.submit(bed.make(parallel_environment=""), "two", "true", num_nodes=2)
    number = bed.submit(bed.make(parallel_environment="", project_is="none"), "one", "true")
    assert wait_over(bed, bed.make(), number).state is SchedulerState.FINISHED


def test_without_accounting_nothing_is_asked_of_it(bed: GridEngineBench) -> None:
    scheduler = bed.make(accounting=False)
    bed.submit(scheduler, "alone", "true")
    assert scheduler.history(["1"]) == {}
    assert "qacct" not in {program for program, _ in bed.faults.calls()}
