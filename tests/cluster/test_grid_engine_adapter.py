"""The Grid Engine adapter against a real one, as an unprivileged user: both conformance suites, and what is its own."""

from __future__ import annotations

import dataclasses
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from balsam.platform.scheduler.base import (
    SchedulerConfig,
    SchedulerState,
    SubmitRefused,
    SubmitRequest,
    no_crash,
)
from balsam.platform.scheduler.grid_engine import GridEngine
from balsam.testing.command_faults import CommandFaults
from balsam.testing.scheduler_bench import Dialect, look, wait_for, wait_over, wait_state, write_script
from balsam.testing.scheduler_conformance import SchedulerConformance
from balsam.testing.scheduler_conformance_commands import CommandConformance
from tests.testbed.grid_engine_bed import PROGRAMS, GridEngineBed

pytestmark = pytest.mark.timeout(300)

OUTAGE = (
    "error: commlib error: got select error (Connection refused)\n"
    'Unable to run job: unable to send message to qmaster using port 6444 on host "grid1": got send error'
)


class GridEngineHarness:
    """The adapter runs in this process, Grid Engine's commands as the user: through wrappers on PATH."""

    timeout_sec = 60.0
    look_again_sec = 0.3
    dialect = Dialect(
        submit="qsub",
        listing="qstat",
        outage=OUTAGE,
        unknown_state="s#<state>[rt]</state>#<state>M</state>#",
        blank_reason="s#<MES_message>.*</MES_message>"
        "#<MES_message>Nodes required are down, drained or reserved</MES_message>#",
        renamed="s/balsam-/hamlet-/",
        listing_calls=2,
    )

    def __init__(self, bed: GridEngineBed, directory: Path, wrappers: Path) -> None:
        self.bed = bed
        self.directory = directory
        self.prefix = f"balsam-{uuid.uuid4().hex[:6]}-"
        real = {name: Path(shutil.which(name) or name) for name in PROGRAMS}
        self.faults = CommandFaults(wrappers, real, bed.user.run_as)
        self.started: list[tuple[GridEngine, str]] = []

    def make(self, crash_point: Callable[[str], None] = no_crash, **options: object) -> GridEngine:
        settings = {"command_timeout_sec": 3, "parallel_environment": "smp", "slots_per_node": 1, **options}
        return GridEngine(SchedulerConfig(self.directory, settings, crash_point=crash_point, name_prefix=self.prefix))

    def request(self) -> SubmitRequest:
        return SubmitRequest(num_nodes=1, wall_time_min=10, queue="all.q", project="proj1")

    def refused_request(self) -> SubmitRequest:
        return SubmitRequest(num_nodes=1, wall_time_min=10, queue="no-such.q", project="proj1")

    def waiting_request(self) -> SubmitRequest:
        return SubmitRequest(num_nodes=20, wall_time_min=10, queue="all.q", project="proj1")

    def vanish(self, scheduler_id: str, name: str) -> None:
        self.bed.kill_processes(scheduler_id)


@pytest.fixture
def bed(grid_engine: GridEngineBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GridEngineHarness]:
    directory = grid_engine.user.directory()
    harness = GridEngineHarness(grid_engine, directory, directory / "wrappers")
    for path in (directory / "wrappers").rglob("*"):
        os.chown(path, grid_engine.user.entry.pw_uid, grid_engine.user.entry.pw_gid)
    monkeypatch.setenv("PATH", f"{harness.faults.bin}:{os.environ['PATH']}")
    monkeypatch.chdir(directory)
    yield harness
    grid_engine.end_everything()
    shutil.rmtree(directory)


class TestConformance(SchedulerConformance):
    @pytest.fixture
    def harness(self, bed: GridEngineHarness) -> GridEngineHarness:
        return bed


class TestCommandConformance(CommandConformance):
    @pytest.fixture
    def harness(self, bed: GridEngineHarness) -> GridEngineHarness:
        return bed


def submit(bed: GridEngineHarness, scheduler: GridEngine, name: str, body: str, **request: object) -> str:
    asked = dataclasses.replace(bed.request(), **request)
    return scheduler.submit(write_script(bed, name, body), bed.prefix + name, asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"project": "nobody"}, 'requested project "nobody" does not exist'),
        ({"queue": "nowhere.q"}, 'unknown queue "nowhere.q"'),
    ],
)
def test_what_it_refuses_is_told_in_its_words(bed: GridEngineHarness, asked: dict[str, str], said: str) -> None:
    with pytest.raises(SubmitRefused, match=said):
        submit(bed, bed.make(), "wrong", "true", **asked)


def test_limits_of_queues(bed: GridEngineHarness) -> None:
    limits = bed.make().queues()
    assert {name: one.max_wall_time_min for name, one in limits.items()} == {"all.q": 1440, "short.q": 30}


def test_an_allocation_that_can_not_start_is_hopeless_and_says_why(bed: GridEngineHarness) -> None:
    scheduler = bed.make()
    script = write_script(bed, "stuck", "true")
    (bed.directory / f"{bed.prefix}stuck.output").mkdir()  # where its output would go
    number = scheduler.submit(script, f"{bed.prefix}stuck", bed.request())
    wait_for(bed, lambda: look(scheduler, number).is_hopeless)
    wait_for(bed, lambda: "can't open output file" in look(scheduler, number).reason)


def test_why_it_waits_is_told(bed: GridEngineHarness) -> None:
    scheduler = bed.make()
    number = submit(bed, scheduler, "wide", "true", num_nodes=20)
    wait_for(bed, lambda: "smp" in look(scheduler, number).reason)
    assert look(scheduler, number).num_nodes == 20


def test_slots_time_left_and_end_of_a_running_allocation(bed: GridEngineHarness) -> None:
    scheduler = bed.make(slots_per_node=2)
    number = submit(bed, scheduler, "slots", "touch up; exec sleep 600", num_nodes=3, wall_time_min=20)
    job = wait_state(bed, scheduler, number, SchedulerState.RUNNING)
    assert (job.num_nodes, job.queue) == (3, "all.q")
    left = scheduler.time_left_sec(number)
    assert left is not None and 1100 < left <= 1200
    scheduler.cancel(number)
    over = wait_over(bed, scheduler, number)
    assert (over.state, over.num_nodes, over.project) == (SchedulerState.FAILED, 3, "proj1")


def test_the_notice_before_the_kill_reaches_the_script(bed: GridEngineHarness) -> None:
    scheduler = bed.make()
    number = submit(bed, scheduler, "notice", "trap 'touch told; exit 0' USR2; touch up; while :; do sleep 0.1; done")
    wait_for(bed, (bed.directory / "up").exists)
    scheduler.cancel(number)
    wait_over(bed, scheduler, number)
    assert (bed.directory / "told").exists()


def test_more_nodes_than_one_need_a_parallel_environment(bed: GridEngineHarness) -> None:
    with pytest.raises(SubmitRefused, match="parallel_environment"):
        submit(bed, bed.make(parallel_environment=""), "two", "true", num_nodes=2)
    number = submit(bed, bed.make(parallel_environment="", project_is="none"), "one", "true")
    assert wait_over(bed, bed.make(), number).state is SchedulerState.FINISHED


def test_without_accounting_nothing_is_asked_of_it(bed: GridEngineHarness) -> None:
    scheduler = bed.make(accounting=False)
    submit(bed, scheduler, "alone", "true")
    assert scheduler.history(["1"]) == {}
    assert "qacct" not in {program for program, _ in bed.faults.calls()}
