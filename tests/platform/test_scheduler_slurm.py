"""What the Slurm adapter makes of Slurm's words; the adapter against a real Slurm is in tests/cluster."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from balsam.domain.clock import SystemClock
from balsam.platform.scheduler.base import (
    BackfillWindow,
    QueueLimits,
    SchedulerConfig,
    SchedulerState,
    SubmitRequest,
    no_crash,
)
from balsam.platform.scheduler.slurm import Slurm
from balsam.platform.scheduler.slurm_capacity import backfill_windows, partition_limits, qos_limits
from balsam.platform.scheduler.slurm_records import FACTS, FIELD, LISTED, accounted, listed
from balsam.platform.scheduler.slurm_words import hosts, is_hopeless, seconds, state_of
from tests.platform.fake_commands import write_program

S = SchedulerState
FACT = {
    "id": "17",
    "state": "RUNNING",
    "name": "balsam-1",
    "partition": "batch",
    "qos": "normal",
    "account": "proj1",
    "nodes": "2",
    "limit": "1-00:10:00",
    "submit": "1795671725",
    "start": "1795671726",
    "end": "1795672326",
    "hosts": "node[1-2]",
    "exit": "0",
    "reason": "None",
    "script_node": "node1",
}


def test_an_agents_own_job_is_not_the_allocations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What sbatch is given becomes the environment of the allocation's script."""
    write_program(tmp_path / "bin", "squeue", "exit 0")
    write_program(tmp_path / "bin", "sacct", "exit 0")
    write_program(tmp_path / "bin", "sbatch", f"env >{tmp_path}/$NAME; echo 17")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    mine = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_MPI_TYPE": "pmix", "SBATCH_QOS": "mine"}
    jobs = {"SLURM_NTASKS": "1", "SLURM_MEM_PER_NODE": "2048", "SLURMD_NODENAME": "login1"}
    for name, value in {**mine, **jobs}.items():
        monkeypatch.setenv(name, value)

    def given(name: str) -> dict[str, str]:
        monkeypatch.setenv("NAME", name)
        scheduler = Slurm(SchedulerConfig(tmp_path, {}, SystemClock(), no_crash))
        scheduler.submit(tmp_path / "script.sh", "balsam-1", SubmitRequest(1, 10, "batch", "proj1"))
        lines = (tmp_path / name).read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line.startswith(("SLURM", "SBATCH")))

    assert given("outside") == mine | jobs, "a person's own wishes"
    monkeypatch.setenv("SLURM_JOB_ID", "16")
    assert given("inside") == mine


def squeue(**facts: str) -> str:
    record = FACT | facts
    return "".join(record[name] + FIELD for name in LISTED) + "\n"


def sacct(**facts: str) -> str:
    record = FACT | {"limit": "1450", "exit": "0:0"} | facts
    return FIELD.join(record[name] for name in FACTS) + "\n"


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING", S.QUEUED),
        ("CONFIGURING", S.QUEUED),
        ("REQUEUED", S.QUEUED),
        ("SPECIAL_EXIT", S.QUEUED),
        ("RUNNING", S.RUNNING),
        ("COMPLETING", S.RUNNING),
        ("SUSPENDED", S.RUNNING),
        ("COMPLETED", S.FINISHED),
        ("FAILED", S.FAILED),
        ("TIMEOUT", S.FAILED),
        ("NODE_FAIL", S.FAILED),
        ("PREEMPTED", S.FAILED),
        ("OUT_OF_MEMORY", S.FAILED),
        ("CANCELLED by 1001", S.CANCELLED),
        ("CANCELLED+", S.CANCELLED),
        ("", S.UNKNOWN),
        ("running", S.UNKNOWN),
        ("A_STATE_OF_2031", S.UNKNOWN),
    ],
)
def test_states(word: str, state: SchedulerState) -> None:
    assert state_of(word) is state


@pytest.mark.parametrize(
    ("reason", "hopeless"),
    [
        ("PartitionTimeLimit", True),
        ("PartitionNodeLimit", True),
        ("QOSMaxWallDurationPerJobLimit", True),
        ("AssocMaxNodePerJobLimit", True),
        ("QOSMaxCpuMinutesPerJobLimit", True),
        ("InvalidQOS", True),
        ("BadConstraints", True),
        ("QOSMaxJobsPerUserLimit", False),
        ("AssocGrpCpuLimit", False),
        ("Priority", False),
        ("Resources", False),
        ("ReqNodeNotAvail, UnavailableNodes:node4", False),
        ("JobHeldUser", False),
        ("None", False),
    ],
)
def test_reasons_that_never_pass(reason: str, hopeless: bool) -> None:
    assert is_hopeless(reason) is hopeless


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node1", ("node1",)),
        ("node[1-3]", ("node1", "node2", "node3")),
        ("node[08-10],gpu7", ("node08", "node09", "node10", "gpu7")),
        ("r[0-1]n[1,3]", ("r0n1", "r0n3", "r1n1", "r1n3")),
        ("a[1-2]-ib", ("a1-ib", "a2-ib")),
        ("None assigned", ()),
        ("", ()),
        ("(null)", ()),
    ],
)
def test_host_lists(text: str, names: tuple[str, ...]) -> None:
    assert hosts(text) == names


@pytest.mark.parametrize(
    ("text", "value"),
    [("0:00", 0), ("9:58", 598), ("1:00:00", 3600), ("2-03:00:01", 183601), ("INVALID", None), ("", None), ("7", None)],
)
def test_durations(text: str, value: float | None) -> None:
    assert seconds(text) == value


def test_a_running_allocation() -> None:
    (job,) = listed(squeue(), "partition")
    assert (job.scheduler_id, job.name, job.state, job.reason) == ("17", "balsam-1", S.RUNNING, "")
    assert (job.queue, job.project, job.num_nodes, job.wall_time_min) == ("batch", "proj1", 2, 1450)
    assert job.start_time == datetime(2026, 11, 26, 5, 42, 6, tzinfo=UTC)
    assert (job.end_time, job.expected_start, job.exit_code) == (None, None, None)
    assert (job.node_names, job.script_node) == (("node1", "node2"), "node1")
    assert next(listed(squeue(), "qos")).queue == "normal"


def test_a_waiting_allocation_has_an_expected_start_and_no_start() -> None:
    waits = {"state": "PENDING", "hosts": "", "script_node": "n/a"}
    (job,) = listed(squeue(**waits, reason="ReqNodeNotAvail, UnavailableNodes:node4"), "partition")
    assert job.script_node == ""
    assert (job.state, job.start_time, job.end_time, job.node_names) == (S.QUEUED, None, None, ())
    assert job.expected_start is not None
    assert (job.reason, job.is_hopeless) == ("ReqNodeNotAvail, UnavailableNodes:node4", False)
    (job,) = listed(squeue(state="PENDING", start="N/A", reason="PartitionTimeLimit"), "partition")
    assert (job.is_hopeless, job.expected_start) == (True, None)


@pytest.mark.parametrize(
    ("line", "state", "code", "reason"),
    [
        (squeue(state="FAILED", exit="1792", reason="NonZeroExitCode"), S.FAILED, 7, "FAILED: exit code 7"),
        (squeue(state="FAILED", exit="9"), S.FAILED, 137, "FAILED: exit code 137"),
        (squeue(state="COMPLETED"), S.FINISHED, 0, ""),
        (squeue(state="TIMEOUT", reason="TimeLimit"), S.FAILED, None, "TIMEOUT"),
        (squeue(state="NODE_FAIL"), S.FAILED, None, "NODE_FAIL"),
        (squeue(state="COMPLETING"), S.RUNNING, None, "COMPLETING"),
        (squeue(state="MOONLIT"), S.UNKNOWN, None, "Slurm calls its state 'MOONLIT', which this version does not know"),
    ],
)
def test_ends_that_squeue_tells(line: str, state: SchedulerState, code: int | None, reason: str) -> None:
    (job,) = listed(line, "partition")
    assert (job.state, job.exit_code, job.reason) == (state, code, reason)
    assert job.was_taken is (reason == "NODE_FAIL")


def test_what_was_cancelled_before_it_started_has_no_start() -> None:
    (job,) = listed(squeue(state="CANCELLED", hosts="", start="1795672326"), "partition")
    assert (job.state, job.start_time, job.end_time is not None) == (S.CANCELLED, None, True)


def test_ends_that_sacct_tells() -> None:
    text = sacct(id="1", state="CANCELLED by 0") + sacct(id="2", state="FAILED", exit="0:9") + sacct(id="3", exit="3:0")
    jobs = {job.scheduler_id: job for job in accounted(text, "partition")}
    assert (jobs["1"].state, jobs["1"].reason, jobs["1"].exit_code) == (S.CANCELLED, "CANCELLED by root", None)
    assert (jobs["2"].state, jobs["2"].exit_code, jobs["2"].wall_time_min) == (S.FAILED, 137, 1450)
    assert (jobs["3"].state, jobs["3"].exit_code) == (S.RUNNING, None)


def test_lines_that_are_none_are_passed_over() -> None:
    text = squeue(id="1") + squeue(id="2", name="a|b\nc") + "slurmstepd: hello\n\n" + squeue(id="3")
    assert [job.scheduler_id for job in listed(text, "partition")] == ["1", "3"]


def test_limits_of_partitions() -> None:
    text = (
        "PartitionName=debug MaxNodes=UNLIMITED MaxTime=00:30:00 State=UP TotalCPUs=32 TotalNodes=4\n"
        "PartitionName=big MaxNodes=2 MaxTime=UNLIMITED State=DRAIN TotalNodes=4\n"
    )
    sizes = "debug|8|gpu:2\ndebug|16|gpu:a100:4(S:0-1)\nbig|8+|(null)\n"
    assert partition_limits(text, sizes) == {
        "debug": QueueLimits(4, 30, None, is_open=True, cpus_per_node=8, gpus_per_node=2),
        "big": QueueLimits(2, None, None, is_open=False, cpus_per_node=8, gpus_per_node=0),
    }


def test_limits_of_qos() -> None:
    assert qos_limits("normal|||\nshort|02:00:00|cpu=99,node=3|5\n") == {
        "normal": QueueLimits(),
        "short": QueueLimits(3, 120, 5),
    }


def test_backfill_windows_end_with_the_next_who_wants_the_nodes() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    soon = int((now + timedelta(minutes=45, seconds=30)).timestamp())
    later = int((now + timedelta(minutes=90)).timestamp())
    idle = "debug|3|30:00\nbatch|2|1-00:00:00\nlong|4|infinite\nfull|0|30:00\n"
    waiting = f"batch|{soon}\nbatch,other|N/A\n"
    assert backfill_windows(idle, waiting, "No reservations in the system\n", now) == {
        "debug": [BackfillWindow(3, 30)],
        "batch": [BackfillWindow(2, 45)],
    }
    windows = backfill_windows(idle, waiting, f"ReservationName=maint StartTime={later} EndTime=1\n", now)
    assert windows["long"] == [BackfillWindow(4, 90)]
