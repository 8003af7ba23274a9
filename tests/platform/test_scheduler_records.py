"""What the adapters for PBS, LSF and Flux make of documented answers; test_schedulers_of_fakes runs whole adapters."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from balsam.platform.scheduler.base import SchedulerConfig, SchedulerState, SchedulerUnavailable
from balsam.platform.scheduler.flux import _FACTS, Flux, decoded, duration_sec
from balsam.platform.scheduler.lsf import Lsf
from balsam.platform.scheduler.pbs_records import listed, queue_limits
from balsam.testing.clock import FakeClock
from tests.platform.fake_commands import write_program

S = SchedulerState
BASE = "Job Id: 7.srv|Job_Name=balsam-1|queue=prod|Resource_List.nodect=2|Resource_List.walltime=01:30:00"


@pytest.mark.parametrize(
    ("facts", "state", "code", "reason"),
    [
        ("job_state=Q|comment=Not Running: a \\| b", S.QUEUED, None, "Not Running: a | b"),
        ("job_state=H", S.QUEUED, None, "it is held"),
        ("job_state=R|comment=Job run at Thu", S.RUNNING, None, ""),
        ("job_state=E", S.RUNNING, None, "state E"),
        ("job_state=S", S.RUNNING, None, "state S"),
        ("job_state=M", S.UNKNOWN, None, None),
        ("queue=prod", S.UNKNOWN, None, None),
        ("job_state=F|Exit_status=0|substate=92", S.FINISHED, 0, ""),
        ("job_state=F|Exit_status=7|substate=93", S.FAILED, 7, "exit code 7"),
        ("job_state=F|Exit_status=265|substate=93", S.FAILED, 137, "exit code 137"),
        ("job_state=F|Exit_status=-29|substate=93", S.FAILED, None, "PBS ended it with -29"),
        ("job_state=F|Exit_status=271|substate=91", S.CANCELLED, None, "deleted by qdel"),
        ("job_state=F|substate=91", S.CANCELLED, None, "deleted by qdel"),
        ("job_state=F|substate=93", S.FAILED, None, "it ended without an exit status"),
    ],
)
def test_pbs_states(facts: str, state: SchedulerState, code: int | None, reason: str | None) -> None:
    job = listed(f"{BASE}|{facts}\n")["7"]
    assert (job.state, job.exit_code, job.num_nodes, job.wall_time_min) == (state, code, 2, 90)
    assert job.reason == reason if reason is not None else job.reason


def test_pbs_says_that_it_never_will() -> None:
    job = listed(f"{BASE}|job_state=Q|comment=Can Never Run: Insufficient amount of resource: ngpus\n")["7"]
    assert job.is_hopeless


def test_pbs_times_hosts_and_a_cut_answer() -> None:
    text = f"{BASE}|job_state=R|stime=Thu Nov 26 07:58:15 2026|exec_host=n1/0*64+n1/1*64+n2/0*64\n"
    job = listed(text)["7"]
    assert (job.start_time, job.node_names) == (datetime(2026, 11, 26, 7, 58, 15, tzinfo=UTC), ("n1", "n2"))
    with pytest.raises(SchedulerUnavailable, match="cut off"):
        listed(text[:-1])
    assert listed("qstat: a warning\n" + text).keys() == {"7"}


def test_pbs_limits_of_queues() -> None:
    text = (
        "Queue: prod|queue_type=Route|enabled=True|max_queued=[u:PBS_GENERIC=100]|resources_max.walltime=24:00:00"
        "|resources_max.nodect=496\nQueue: debug|enabled=False\n"
    )
    prod, debug = queue_limits(text).values()
    assert (prod.max_nodes, prod.max_wall_time_min, prod.max_queued_jobs, prod.is_open) == (496, 1440, 100, True)
    assert not debug.is_open


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return tmp_path / "bin"


def lsf_job(commands: Path, now: datetime, **facts: str) -> tuple[object, ...]:
    record = {"JOBID": "7", "JOB_NAME": "balsam-1", "SLOTS": "84", "RUNTIMELIMIT": "01:30:00", **facts}
    answer = json.dumps({"COMMAND": "bjobs", "JOBS": 1, "RECORDS": [record]})
    write_program(commands, "bjobs", f"echo '{answer}'")
    clock = FakeClock(now)
    job = Lsf(SchedulerConfig(commands, {"slots_per_node": 42}, clock=clock)).jobs()["7"]
    assert (job.num_nodes, job.wall_time_min) == (2, 90)
    return job.state, job.exit_code, job.reason, job.start_time


def test_lsf_tells_no_year_so_the_last_one_is_meant(commands: Path) -> None:
    began = {"STAT": "RUN", "START_TIME": "Dec 31 23:59"}
    assert lsf_job(commands, datetime(2027, 1, 1, 8, tzinfo=UTC), **began)[3] == datetime(
        2026, 12, 31, 23, 59, tzinfo=UTC
    )
    leap = {"STAT": "RUN", "START_TIME": "Feb 29 10:00"}
    assert lsf_job(commands, datetime(2028, 3, 1, tzinfo=UTC), **leap)[3] == datetime(2028, 2, 29, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("facts", "state", "code", "reason"),
    [
        ({"STAT": "PEND", "PEND_REASON": "New job is waiting;"}, S.QUEUED, None, "New job is waiting"),
        ({"STAT": "PSUSP"}, S.QUEUED, None, "state PSUSP"),
        ({"STAT": "SSUSP", "START_TIME": "Nov 26 07:58"}, S.RUNNING, None, "SSUSP"),
        ({"STAT": "ZOMBI"}, S.UNKNOWN, None, None),
        ({"STAT": "DONE", "START_TIME": "Nov 26 07:58", "EXIT_CODE": ""}, S.FINISHED, 0, ""),
        (
            {
                "STAT": "EXIT",
                "START_TIME": "Nov 26 07:58",
                "EXIT_CODE": "140",
                "EXIT_REASON": "TERM_RUNLIMIT: job killed after reaching LSF run time limit",
            },
            *(S.FAILED, 140, "exit code 140; TERM_RUNLIMIT: job killed after reaching LSF run time limit"),
        ),
        (
            {"STAT": "EXIT", "START_TIME": "Nov 26 07:58", "EXIT_CODE": "130", "EXIT_REASON": "TERM_OWNER: job killed"},
            *(S.CANCELLED, None, "TERM_OWNER: job killed"),
        ),
        ({"STAT": "EXIT", "START_TIME": ""}, S.CANCELLED, None, "killed before it started"),
    ],
)
def test_lsf_states(
    commands: Path, facts: dict[str, str], state: SchedulerState, code: int | None, reason: str | None
) -> None:
    found = lsf_job(commands, datetime(2026, 11, 26, 9, tzinfo=UTC), **facts)
    assert found[:2] == (state, code)
    assert found[2] == reason if reason is not None else found[2]


def flux_line(**facts: str) -> str:
    known = {"id": "7", "status": "RUN", "name": "balsam-1", "nnodes": "2", "duration": "5400.0", "t_submit": "1.5"}
    every = known | {"nodelist": "n[1-2]"} | facts
    return "\x1f".join(every.get(name.rpartition(".")[2] if name != "id.dec" else "id", "") for name in _FACTS) + "\x1e"


@pytest.mark.parametrize(
    ("facts", "state", "code", "reason"),
    [
        ({"status": "DEPEND"}, S.QUEUED, None, "state DEPEND"),
        ({"status": "SCHED", "reason_pending": "insufficient resources"}, S.QUEUED, None, "insufficient resources"),
        ({"status": "CLEANUP"}, S.RUNNING, None, "CLEANUP"),
        ({"status": "COMPLETED", "returncode": "0"}, S.FINISHED, 0, ""),
        ({"status": "FAILED", "returncode": "7"}, S.FAILED, 7, "FAILED: exit code 7"),
        ({"status": "FAILED", "returncode": "-9"}, S.FAILED, 137, "FAILED: exit code 137"),
        (
            {"status": "TIMEOUT", "returncode": "142", "type": "timeout", "note": "resource allocation expired"},
            *(S.FAILED, 142, "TIMEOUT: exit code 142 (timeout resource allocation expired)"),
        ),
        ({"status": "CANCELED", "returncode": "-128", "type": "cancel"}, S.CANCELLED, None, "cancel"),
        ({"status": "MOONLIT"}, S.UNKNOWN, None, None),
    ],
)
def test_flux_states(
    commands: Path, facts: dict[str, str], state: SchedulerState, code: int | None, reason: str | None
) -> None:
    commands.mkdir(parents=True)
    (commands / "said").write_text(flux_line(**facts) + "\n")
    write_program(commands, "flux", f"cat '{commands}/said'")
    job = Flux(SchedulerConfig(commands)).jobs()["7"]
    assert (job.state, job.exit_code, job.num_nodes, job.wall_time_min) == (state, code, 2, 90)
    assert (job.node_names, job.submit_time) == (("n1", "n2"), datetime.fromtimestamp(1.5, UTC))
    assert job.reason == reason if reason is not None else job.reason


def test_flux_numbers_and_durations() -> None:
    assert decoded("1") == 0
    assert decoded("21") == 58
    assert [duration_sec(text) for text in ("30m", "1d", "90", "250ms", "inf", "")] == [
        1800,
        86400,
        90,
        0.25,
        None,
        None,
    ]
