"""Allocations of a Site on a real Slurm, asked for, used and ended as a user does it.

What takes a minute (the wall time, a request that Slurm would let wait for ever) begins when the module starts and is
looked at by the last tests; the others use the nodes that are left meanwhile.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.live_cluster import LiveCluster, eventually, finished, live_cluster
from tests.testbed.slurm_bed import SlurmBed

pytestmark = pytest.mark.timeout(300)

# One allocation reaches its wall time under a Job. Another one goes to a partition whose limit an administrator lowered
# after the agent had asked for it.
MINUTE = """
import subprocess
short = allocation(wall_time_min=1, filter_tags={"group": "short"})
job = submit("minute", "trap '' TERM; while :; do sleep 1; done", tags={"group": "short"})
until(lambda: states_of(job)[-1] == "RUNNING", "the Job does not run")
print("ready", flush=True)
until(lambda: b"MaxTime=00:10:00" in subprocess.check_output(["scontrol", "show", "partition", "urgent"]), "no change")
hopeless = reach(allocation("urgent", wall_time_min=30), "queued")
reach(hopeless, "finished", seconds=150)
reach(short, "finished", seconds=150)
job.refresh_from_db()
print(json.dumps([short.status_info, (short.end_time - short.start_time).total_seconds(), states_of(job),
                  hopeless.status_info, hopeless.start_time is None]))
"""


@pytest.fixture(scope="module")
def cluster(slurm: SlurmBed) -> Iterator[LiveCluster]:
    with live_cluster(slurm) as running:
        yield running


@pytest.fixture(scope="module")
def minute(cluster: LiveCluster) -> Iterator[subprocess.Popen[str]]:
    running = cluster.begin(MINUTE)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n", running.communicate()
    cluster.bed.do("update", "partitionname=urgent", "maxtime=10")
    yield running
    cluster.bed.do("update", "partitionname=urgent", "maxtime=60")
    if running.poll() is None:
        running.kill()
        running.communicate()


def answers(said: str) -> list[Any]:
    return [json.loads(line) for line in said.splitlines()]


def test_a_job_runs_in_an_allocation_of_slurm(cluster: LiveCluster, minute: object) -> None:
    said = cluster.run(
        """
        batch = allocation()
        job = submit("first", "hostname; echo $GREETING $SLURM_JOB_NAME; id -un")
        assert job.wait(90), job.explain()
        reach(batch, "running")
        print(json.dumps([job.state.value, job.read_text("job.out").split(), str(batch.state.value),
                          batch.scheduler_id, batch.id, (batch.start_time - batch.created_at).total_seconds() < 60]))
        batch.cancel()
        reach(batch, "finished")
        print(json.dumps(batch.end_time >= batch.start_time))
        """
    )
    (state, out, batch_state, number, batch_id, soon), ordered = answers(said)
    assert (state, batch_state, soon, ordered) == ("JOB_FINISHED", "running", True, True)
    assert out[0].startswith("node") and out[1] == "hello" and out[3] == "sci"
    assert out[2].startswith("balsam-") and f"-{batch_id}-" in out[2]
    assert int(number) > 0


def test_all_that_is_asked_for_arrives(cluster: LiveCluster, minute: object) -> None:
    said = cluster.run(
        """
        batch = allocation("debug", "proj2", num_nodes=2, wall_time_min=7, job_mode="serial",
                           optional_params={"greeting": "good-day"}, filter_tags={"kind": "a"})
        wanted = submit("wanted", "echo $GREETING $NUM_NODES", tags={"kind": "a"})
        other = submit("other", "true", tags={"kind": "b"})
        assert wanted.wait(90), wanted.explain()
        other.refresh_from_db()
        reach(batch, "running")
        print(json.dumps([wanted.read_text("job.out"), str(other.state.value), batch.scheduler_id]))
        batch.cancel()
        parts = allocation(partitions=[{"job_mode": "serial", "num_nodes": 1, "filter_tags": {"kind": "b"}}])
        assert other.wait(90), other.explain()
        parts.cancel()
        reach(parts, "finished")
        reach(batch, "finished")
        """
    )
    ((out, state, number),) = answers(said)
    assert (out, state) == ("good-day 2\n", "PREPROCESSED")
    job = cluster.bed.do("--oneliner", "show", "job", number)
    for fact in ("Partition=debug", "Account=proj2", "NumNodes=2", "TimeLimit=00:07:00", "Requeue=0"):
        assert fact in job


def test_revoked_while_it_runs(cluster: LiveCluster, minute: object) -> None:
    said = cluster.run(
        """
        batch = allocation(filter_tags={"group": "revoked"})
        code = "echo attempt $BALSAM_ATTEMPT; [ $BALSAM_ATTEMPT = 2 ] || exec sleep 600"
        job = submit("revoked", code, tags={"group": "revoked"})
        until(lambda: states_of(job)[-1] == "RUNNING", "the Job does not run")
        batch.cancel()
        reach(batch, "finished")
        print(json.dumps([states_of(job)[-2:], batch.status_info.get("error")]))
        again = allocation(filter_tags={"group": "revoked"})
        assert job.wait(90), job.explain()
        again.cancel()
        print(json.dumps([job.state.value, job.read_text("job.out")]))
        """
    )
    (states, error), again = answers(said)
    assert (states, error) == (["RUN_TIMEOUT", "RESTART_READY"], None)
    assert again == ["JOB_FINISHED", "attempt 2\n"]


def test_revoked_while_it_waits_and_while_the_agent_is_away(cluster: LiveCluster, minute: object) -> None:
    cluster.bed.user.run("sbatch", "--partition=batch", "--job-name=blocker", "--exclusive", "--wrap=sleep 600")
    starts = cluster.starts()
    said = cluster.run(
        """
        waits = [allocation(num_nodes=4) for _ in range(2)]
        for batch in waits:
            reach(batch, "queued")
        until(lambda: reach(waits[0], "queued").status_info.get("scheduler"), "no reason is told")
        print(json.dumps(waits[0].status_info["scheduler"]))
        waits[0].cancel()
        reach(waits[0], "finished")
        print(json.dumps([waits[1].id, waits[0].start_time is None]))
        """
    )
    reason, (left, never_started) = answers(said)
    assert reason in ("Resources", "Priority") and never_started
    assert reason in cluster.balsam("queue", "ls")
    cluster.kill_agent()
    try:
        cluster.balsam("queue", "rm", str(left))
        assert "pending_deletion" in cluster.balsam("queue", "ls")
    finally:
        cluster.start_agent()
    cluster.run(f"reach(BatchJob.objects.get(id={left}), 'finished')")
    assert cluster.starts() == starts
    cluster.bed.user.run("scancel", "--name=blocker")


def test_requests_over_the_limits_are_refused_with_the_limit(cluster: LiveCluster, minute: object) -> None:
    said = cluster.run(
        """
        for asked in ({"queue": "debug", "wall_time_min": 45}, {"num_nodes": 9}):
            batch = reach(allocation(**asked), "submit_failed")
            print(json.dumps([batch.status_info["error"], batch.scheduler_id]))
        """
    )
    assert answers(said) == [
        ["45 minutes are more than the 30 that the scheduler's queue 'debug' allows", None],
        ["9 nodes are more than the 4 that the scheduler's queue 'batch' allows", None],
    ]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ('project="nobody"', "Invalid account or account/partition combination specified"),
        ('queue="nowhere"', "invalid partition specified: nowhere"),
        ('optional_params={"qos": "gold"}', "Invalid qos specification"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_words(cluster: LiveCluster, minute: object, asked: str, told: str) -> None:
    said = cluster.run(f"print(json.dumps(reach(allocation({asked}), 'submit_failed').status_info))")
    (info,) = answers(said)
    assert told in info["error"]
    assert info["submit_script"].endswith("/script.sh")


def test_scancel_by_hand_is_told_with_the_name(cluster: LiveCluster, minute: object) -> None:
    said = cluster.run(
        """
        import subprocess
        batch = reach(allocation(), "running")
        until(lambda: (ROOT / "starts").exists(), "the script was not started")
        subprocess.run(["scancel", batch.scheduler_id], check=True)
        print(json.dumps(reach(batch, "finished").status_info))
        """
    )
    assert answers(said)[0]["error"].startswith("CANCELLED")


def test_after_three_instant_failures_the_next_is_held_back(cluster: LiveCluster, minute: object) -> None:
    said = cluster.run(
        """
        def broken():
            return allocation("debug", optional_params={"fail": "yes"})
        for _ in range(3):
            failed = reach(broken(), "finished")
        print(json.dumps(failed.status_info))
        held = broken()
        until(lambda: reach(held, "pending_submission").status_info.get("error"), "nothing is told")
        job = submit("held", "true")
        print(json.dumps([held.status_info["error"], job.explain().reasons]))
        held.cancel()
        job.cancel()
        reach(held, "finished")
        """
    )
    failed, (error, reasons) = answers(said)
    assert failed["error"] == "FAILED: exit code 3"
    assert failed["exit_code"] == 3
    assert failed["output_tail"] == "no such module"
    assert "3 BatchJobs in a row came to nothing in queue 'debug' with project 'proj1'" in error
    assert "FAILED: exit code 3; its output ends with: no such module" in error and "balsam site sync" in error
    assert any("pending_submission" in reason and "came to nothing" in reason for reason in reasons)


def test_wall_time_and_a_request_that_would_wait_for_ever(cluster: LiveCluster, minute: subprocess.Popen[str]) -> None:
    """L3: the Job was reported before the end, and Slurm did not have to kill anything."""
    ((short, lasted_sec, states, hopeless, never_started),) = answers(finished(minute, 200))
    assert states[-2:] == ["RUN_TIMEOUT", "RESTART_READY"]
    assert lasted_sec <= 65
    assert "error" not in short
    assert never_started
    assert "would let it wait for ever (PartitionTimeLimit)" in hopeless["error"]
    eventually(lambda: not cluster.bed.user.run("squeue", "--noheader", "--me"), "something is left in the queue")
