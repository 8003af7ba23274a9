"""The Slurm adapter against a real Slurm, as an unprivileged user: both conformance suites, and what is Slurm's own."""

from __future__ import annotations

import dataclasses
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from balsam.platform.scheduler.base import (
    BackfillWindow,
    QueueLimits,
    SchedulerConfig,
    SchedulerState,
    SubmitRefused,
    SubmitRequest,
    no_crash,
)
from balsam.platform.scheduler.slurm import Slurm
from balsam.testing.command_faults import CommandFaults
from balsam.testing.scheduler_bench import Dialect, wait_for, wait_state, write_script
from balsam.testing.scheduler_conformance import SchedulerConformance
from balsam.testing.scheduler_conformance_commands import CommandConformance
from tests.testbed.slurm_bed import PROGRAMS, SlurmBed

pytestmark = pytest.mark.timeout(300)

OUTAGE = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"


class SlurmHarness:
    """The adapter runs in this process, Slurm's commands as the user: through wrappers on PATH."""

    timeout_sec = 60.0
    look_again_sec = 0.3
    dialect = Dialect(
        submit="sbatch",
        listing="squeue",
        outage=OUTAGE,
        unknown_state="s/RUNNING/MOONLIT/",
        blank_reason=r"s/\x1f[^\x1f]+\x1f$/\x1fNodes required are down, drained or reserved\x1f/",
        renamed="s/balsam-/hamlet-/",
    )

    def __init__(self, bed: SlurmBed, directory: Path, wrappers: Path) -> None:
        self.bed = bed
        self.directory = directory
        self.prefix = f"balsam-{uuid.uuid4().hex[:6]}-"
        user = bed.user
        ids = [f"--reuid={user.name}", f"--regid={user.name}", "--init-groups"]
        real = {name: Path(shutil.which(name) or name) for name in PROGRAMS}
        environment = f"SLURM_CONF={user.environment['SLURM_CONF']}"
        self.faults = CommandFaults(wrappers, real, ["setpriv", *ids, "env", f"HOME={user.home}", environment])

    def make(self, crash_point: Callable[[str], None] = no_crash, **options: object) -> Slurm:
        settings = {"command_timeout_sec": 3, **options}
        return Slurm(SchedulerConfig(self.directory, settings, crash_point=crash_point, name_prefix=self.prefix))

    def request(self) -> SubmitRequest:
        return SubmitRequest(num_nodes=1, wall_time_min=10, queue="batch", project="proj1")

    def refused_request(self) -> SubmitRequest:
        return SubmitRequest(num_nodes=1, wall_time_min=10, queue="no-such-partition", project="proj1")

    def waiting_request(self) -> SubmitRequest:
        return SubmitRequest(num_nodes=9, wall_time_min=10, queue="batch", project="proj1")

    def vanish(self, scheduler_id: str, name: str) -> None:
        self.bed.kill_processes(scheduler_id)


@pytest.fixture
def bed(slurm: SlurmBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmHarness]:
    # The user must reach the wrappers' notes, which pytest's directories do not allow.
    directory = slurm.user.directory()
    harness = SlurmHarness(slurm, directory, directory / "wrappers")
    for path in (directory / "wrappers").rglob("*"):
        os.chown(path, slurm.user.entry.pw_uid, slurm.user.entry.pw_gid)
    monkeypatch.setenv("PATH", f"{harness.faults.bin}:{os.environ['PATH']}")
    monkeypatch.chdir(directory)
    yield harness
    slurm.end_everything()
    shutil.rmtree(directory)


class TestConformance(SchedulerConformance):
    @pytest.fixture
    def harness(self, bed: SlurmHarness) -> SlurmHarness:
        return bed


class TestCommandConformance(CommandConformance):
    @pytest.fixture
    def harness(self, bed: SlurmHarness) -> SlurmHarness:
        return bed


def submit(bed: SlurmHarness, scheduler: Slurm, name: str, body: str, **request: object) -> str:
    asked = dataclasses.replace(bed.request(), **request)
    return scheduler.submit(write_script(bed, name, body), bed.prefix + name, asked)


@pytest.mark.parametrize(
    ("asked", "options", "said"),
    [
        ({"project": "nobody"}, {}, "Invalid account or account/partition combination"),
        ({"queue": "nowhere"}, {}, "invalid partition specified: nowhere"),
        ({"queue": "no-such-qos"}, {"queue_is": "qos"}, "Invalid qos specification"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_words(
    bed: SlurmHarness, asked: dict[str, str], options: dict[str, str], said: str
) -> None:
    with pytest.raises(SubmitRefused, match=said):
        submit(bed, bed.make(**options), "wrong", "true", **asked)


def test_over_the_limit_is_taken_and_hopeless(bed: SlurmHarness) -> None:
    """Slurm takes it unless EnforcePartLimits is set, and lets it wait for ever."""
    scheduler = bed.make()
    ids = [
        submit(bed, scheduler, "long", "true", queue="debug", wall_time_min=45),
        submit(bed, scheduler, "wide", "true", num_nodes=9),
    ]
    wait_for(bed, lambda: all(scheduler.jobs()[number].is_hopeless for number in ids))
    # At first it may say PartitionConfig of both.
    wait_for(bed, lambda: scheduler.jobs()[ids[0]].reason == "PartitionTimeLimit")
    wait_for(bed, lambda: scheduler.jobs()[ids[1]].reason == "PartitionNodeLimit")


def test_nodes_and_time_left_of_a_running_allocation(bed: SlurmHarness) -> None:
    scheduler = bed.make()
    number = submit(bed, scheduler, "nodes", "touch up; exec sleep 600", num_nodes=3, wall_time_min=20)
    wait_for(bed, (bed.directory / "up").exists)
    job = scheduler.jobs()[number]
    assert (job.num_nodes, len(job.node_names), job.is_hopeless) == (3, 3, False)
    assert set(job.node_names) <= {"node1", "node2", "node3", "node4"}
    left = scheduler.time_left_sec(number)
    assert left is not None and 1100 < left <= 1200
    bed.bed.do("update", f"jobid={number}", "timelimit=5")
    left = scheduler.time_left_sec(number)
    assert left is not None and left <= 300


def test_what_the_partitions_offer(bed: SlurmHarness) -> None:
    limits = bed.make().queues()
    assert limits["debug"] == QueueLimits(4, 30, None, is_open=True, cpus_per_node=8, gpus_per_node=2)
    assert limits["batch"].max_wall_time_min == 1440
    bed.bed.do("update", "partitionname=urgent", "state=drain")
    try:
        assert not bed.make().queues()["urgent"].is_open
    finally:
        bed.bed.do("update", "partitionname=urgent", "state=up")
    assert "normal" in bed.make(queue_is="qos").queues()


def test_backfill_windows_are_the_idle_nodes(bed: SlurmHarness) -> None:
    scheduler = bed.make()
    assert scheduler.backfill_windows()["debug"] == [BackfillWindow(4, 30)]
    submit(bed, scheduler, "two", "touch up; exec sleep 600", num_nodes=2)
    wait_for(bed, (bed.directory / "up").exists)
    assert scheduler.backfill_windows()["batch"] == [BackfillWindow(2, 1440)]


def test_an_allocation_is_not_requeued(bed: SlurmHarness) -> None:
    scheduler = bed.make()
    number = submit(bed, scheduler, "once", "touch up; exec sleep 600")
    wait_for(bed, (bed.directory / "up").exists)
    assert "Requeue=0" in bed.bed.do("--oneliner", "show", "job", number)


def test_another_job_with_an_odd_name_hides_none_of_ours(bed: SlurmHarness) -> None:
    scheduler = bed.make()
    bed.bed.user.run("sbatch", "--job-name=a|b\nbalsam-x\x1fy", "--partition=batch", "--wrap=sleep 600")
    number = submit(bed, scheduler, "beside", "sleep 600")
    wait_state(bed, scheduler, number, SchedulerState.RUNNING)
    assert list(scheduler.jobs()) == [number]


def test_who_cancelled_it_is_told_by_name_once_squeue_has_forgotten_it(bed: SlurmHarness) -> None:
    scheduler = bed.make()
    number = submit(bed, scheduler, "named", "touch up; exec sleep 600")
    wait_for(bed, (bed.directory / "up").exists)
    scheduler.cancel(number)
    wait_for(bed, lambda: [job.reason for job in scheduler.history([number]).values()] == ["CANCELLED by sci"])


def test_without_accounting_the_listing_alone_must_do(bed: SlurmHarness) -> None:
    scheduler = bed.make(accounting=False)
    number = submit(bed, scheduler, "alone", "exit 3")
    wait_for(bed, lambda: scheduler.jobs()[number].state.is_over)
    assert (scheduler.jobs()[number].exit_code, scheduler.history([number])) == (3, {})
    with bed.faults.fault("fail", "sacct", text="Slurm accounting storage is disabled"):
        assert bed.make().history([number]) == {}
    assert "sacct" not in {program for program, _ in bed.faults.calls()[:-1]}
