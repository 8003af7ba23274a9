"""The Slurm adapter against a real Slurm, as an unprivileged user: both conformance suites, and what is Slurm's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from balsam.platform.scheduler.base import BackfillWindow, QueueLimits, SchedulerState, SubmitRefused
from balsam.platform.scheduler.slurm import Slurm
from balsam.testing.scheduler_bench import Dialect, wait_for, wait_state
from balsam.testing.scheduler_conformance import SchedulerConformance
from balsam.testing.scheduler_conformance_commands import CommandConformance
from tests.cluster.adapter_bench import AdapterBench, BatchSystem, adapter_bench
from tests.testbed.slurm_bed import PROGRAMS, SlurmBed

pytestmark = pytest.mark.timeout(300)

SLURM = BatchSystem(
    adapter=Slurm,
    programs=PROGRAMS,
    dialect=Dialect(
        submit="sbatch",
        listing="squeue",
        outage="slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        unknown_state="s/RUNNING/MOONLIT/",
        blank_reason=r"s/\x1f[^\x1f]+(\x1f[^\x1f]*\x1f)$/\x1fNodes required are down, drained or reserved\1/",
        renamed="s/balsam-/hamlet-/",
    ),
    queue="batch",
    too_many_nodes=9,
)
SlurmBench = AdapterBench[SlurmBed, Slurm]


@pytest.fixture
def bed(slurm: SlurmBed) -> Iterator[SlurmBench]:
    with adapter_bench(slurm, SLURM) as bench:
        yield bench


class TestConformance(SchedulerConformance):
    @pytest.fixture
    def harness(self, bed: SlurmBench) -> SlurmBench:
        return bed


class TestCommandConformance(CommandConformance):
    @pytest.fixture
    def harness(self, bed: SlurmBench) -> SlurmBench:
        return bed


@pytest.mark.parametrize(
    ("asked", "options", "said"),
    [
        ({"project": "nobody"}, {}, "Invalid account or account/partition combination"),
        ({"queue": "nowhere"}, {}, "invalid partition specified: nowhere"),
        ({"queue": "no-such-qos"}, {"queue_is": "qos"}, "Invalid qos specification"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_words(
    bed: SlurmBench, asked: dict[str, str], options: dict[str, str], said: str
) -> None:
    with pytest.raises(SubmitRefused, match=said):
        bed.submit(bed.make(**options), "wrong", "true", **asked)


def test_over_the_limit_is_taken_and_hopeless(bed: SlurmBench) -> None:
    """Slurm takes it unless EnforcePartLimits is set, and lets it wait for ever."""
    scheduler = bed.make()
    ids = [
        bed.submit(scheduler, "long", "true", queue="debug", wall_time_min=45),
        bed.submit(scheduler, "wide", "true", num_nodes=9),
    ]
    wait_for(bed, lambda: all(scheduler.jobs()[number].is_hopeless for number in ids))
    # At first it may say PartitionConfig of both.
    wait_for(bed, lambda: scheduler.jobs()[ids[0]].reason == "PartitionTimeLimit")
    wait_for(bed, lambda: scheduler.jobs()[ids[1]].reason == "PartitionNodeLimit")


def test_nodes_and_time_left_of_a_running_allocation(bed: SlurmBench) -> None:
    scheduler = bed.make()
    number = bed.submit(scheduler, "nodes", "touch up; exec sleep 600", num_nodes=3, wall_time_min=20)
    wait_for(bed, (bed.directory / "up").exists)
    job = scheduler.jobs()[number]
    assert (job.num_nodes, len(job.node_names), job.is_hopeless) == (3, 3, False)
    assert set(job.node_names) <= {"node1", "node2", "node3", "node4"}
    left = scheduler.time_left_sec(number)
    assert left is not None and 1100 < left <= 1200
    bed.cluster.do("update", f"jobid={number}", "timelimit=5")
    left = scheduler.time_left_sec(number)
    assert left is not None and left <= 300


def test_what_the_partitions_offer(bed: SlurmBench) -> None:
    limits = bed.make().queues()
    assert limits["debug"] == QueueLimits(4, 30, None, is_open=True, cpus_per_node=8, gpus_per_node=2)
    assert limits["batch"].max_wall_time_min == 1440
    bed.cluster.do("update", "partitionname=urgent", "state=drain")
    try:
        assert not bed.make().queues()["urgent"].is_open
    finally:
        bed.cluster.do("update", "partitionname=urgent", "state=up")
    assert "normal" in bed.make(queue_is="qos").queues()


def test_backfill_windows_are_the_idle_nodes(bed: SlurmBench) -> None:
    scheduler = bed.make()
    assert scheduler.backfill_windows()["debug"] == [BackfillWindow(4, 30)]
    bed.submit(scheduler, "two", "touch up; exec sleep 600", num_nodes=2)
    wait_for(bed, (bed.directory / "up").exists)
    assert scheduler.backfill_windows()["batch"] == [BackfillWindow(2, 1440)]


def test_an_allocation_is_not_requeued(bed: SlurmBench) -> None:
    scheduler = bed.make()
    number = bed.submit(scheduler, "once", "touch up; exec sleep 600")
    wait_for(bed, (bed.directory / "up").exists)
    assert "Requeue=0" in bed.cluster.do("--oneliner", "show", "job", number)


def test_another_job_with_an_odd_name_hides_none_of_ours(bed: SlurmBench) -> None:
    scheduler = bed.make()
    bed.cluster.user.run("sbatch", "--job-name=a|b\nbalsam-x\x1fy", "--partition=batch", "--wrap=sleep 600")
    number = bed.submit(scheduler, "beside", "sleep 600")
    wait_state(bed, scheduler, number, SchedulerState.RUNNING)
    assert list(scheduler.jobs()) == [number]


def test_who_cancelled_it_is_told_by_name_once_squeue_has_forgotten_it(bed: SlurmBench) -> None:
    scheduler = bed.make()
    number = bed.submit(scheduler, "named", "touch up; exec sleep 600")
    wait_for(bed, (bed.directory / "up").exists)
    scheduler.cancel(number)
    wait_for(bed, lambda: [job.reason for job in scheduler.history([number]).values()] == ["CANCELLED by sci"])


def test_without_accounting_the_listing_alone_must_do(bed: SlurmBench) -> None:
    scheduler = bed.make(accounting=False)
    number = bed.submit(scheduler, "alone", "exit 3")
    wait_for(bed, lambda: scheduler.jobs()[number].state.is_over)
    assert (scheduler.jobs()[number].exit_code, scheduler.history([number])) == (3, {})
    with bed.faults.fault("fail", "sacct", text="Slurm accounting storage is disabled"):
        assert bed.make().history([number]) == {}
    assert "sacct" not in {program for program, _ in bed.faults.calls()[:-1]}
