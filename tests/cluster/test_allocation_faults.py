"""Faults around allocations on a real Slurm: each one made, and what the user sees and keeps."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from balsam.testing.command_faults import CommandFaults
from tests.cluster.live_cluster import LiveCluster, answers, eventually, finished, live_cluster, next_line
from tests.testbed.slurm_bed import PROGRAMS, SlurmBed

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left")]


@pytest.fixture(scope="module")
def cluster(slurm: SlurmBed) -> Iterator[LiveCluster]:
    with live_cluster(slurm) as running:
        yield running


def begun(cluster: LiveCluster, code: str) -> tuple[subprocess.Popen[str], list[Any]]:
    """A script of the user that went as far as its first line of output, and that line."""
    script = cluster.begin(code)
    return script, next_line(script)


def test_slurmctld_away_for_more_than_a_minute(cluster: LiveCluster) -> None:
    """S11, S12: what runs goes on and is unknown meanwhile; what is asked for meanwhile is submitted once."""
    starts = cluster.starts()
    script, (_, scheduler_id) = begun(
        cluster,
        """
        batch = reach(allocation(), "running")
        print(json.dumps([batch.id, batch.scheduler_id]), flush=True)
        reach(batch, "unknown", seconds=150)
        print(json.dumps(batch.status_info), flush=True)
        job = submit("meanwhile", "true")
        assert job.wait(90), job.explain()
        print(json.dumps([str(job.state.value), job.explain().reasons]), flush=True)
        later = allocation(num_nodes=2)
        until(lambda: reach(later, "pending_submission").status_info.get("error"), "nothing is told")
        print(json.dumps(later.status_info["error"]), flush=True)
        reach(later, "running", seconds=150)
        reach(batch, "running", seconds=150)
        print(json.dumps([batch.scheduler_id, batch.status_info]), flush=True)
        for one in (batch, later):
            one.cancel()
            reach(one, "finished")
        """,
    )
    cluster.bed.stop_controller()
    try:
        unknown, done, pending = (next_line(script) for _ in range(3))
    finally:
        cluster.bed.start_controller()
    (number, info) = answers(finished(script, 300))[0]
    assert "squeue" in unknown["scheduler"] and "last heard of at" in unknown["scheduler"]
    assert unknown["unknown_since"]
    assert done[0] == "JOB_FINISHED"
    assert pending
    assert number == scheduler_id and "unknown_since" not in info
    assert cluster.starts() == starts + 2


def test_agent_away_while_allocations_start_and_end(cluster: LiveCluster) -> None:
    """Right afterwards, though squeue has forgotten them: how each ended, and when."""
    cluster.bed.user.run(
        "sbatch", "--partition=batch", "--job-name=blocker", "--nodes=4", "--exclusive", "--wrap=sleep 600"
    )
    said = cluster.run(
        """
        ends = [reach(allocation(optional_params={"fail": fail}), "queued") for fail in ("no", "yes")]
        job = submit("away", "true")
        print(json.dumps([[batch.id, batch.scheduler_id] for batch in ends]))
        """
    )
    ((cancelled, number), (failing, _)) = answers(said)[0]
    cluster.kill_agent()
    try:
        cluster.bed.user.run("scancel", "--name=blocker")
        eventually(
            lambda: "RUNNING" in cluster.bed.user.run("squeue", "-h", "-j", number, "-o", "%T"), "it does not start"
        )
        said = cluster.run(
            f"""
            job = Job.objects.get(workdir="away")
            assert job.wait(90), job.explain()
            batch = BatchJob.objects.get(id={cancelled})
            print(json.dumps([batch.state.value, batch.start_time is not None]))
            """
        )
        assert answers(said) == [["running", True]], "its launcher had a Session"
        cluster.bed.user.run("scancel", number)
        eventually(
            lambda: not cluster.bed.user.run("squeue", "-h", "--me", "--states=all"), "squeue forgets nothing", 90
        )
        gone = time.time()
    finally:
        cluster.start_agent()
    said = cluster.run(
        f"""
        for number in ({cancelled}, {failing}):
            batch = reach(BatchJob.objects.get(id=number), "finished")
            print(json.dumps([batch.status_info["error"], batch.start_time.timestamp(), batch.end_time.timestamp()]))
        """
    )
    (why, start, end), (failed, start2, end2) = answers(said)
    assert why == "CANCELLED by sci"
    assert failed == "FAILED: exit code 3"
    assert start <= end < gone and start2 <= end2 < gone


def test_preempted_by_a_partition_above(cluster: LiveCluster) -> None:
    script, (number,) = begun(
        cluster,
        """
        batch = reach(allocation(num_nodes=4, filter_tags={"group": "preempted"}), "running")
        job = submit("preempted", "exec sleep 600", tags={"group": "preempted"})
        until(lambda: states_of(job)[-1] == "RUNNING", "the Job does not run")
        print(json.dumps([batch.scheduler_id]), flush=True)
        reach(batch, "finished", seconds=120)
        until(lambda: states_of(job)[-1] == "RESTART_READY", "the Job does not come back")
        print(json.dumps([batch.status_info["error"], states_of(job)[-2:]]))
        job.cancel()
        """,
    )
    cluster.bed.user.run("sbatch", "--partition=urgent", "--nodes=4", "--exclusive", "--wrap=sleep 600")
    ((error, states),) = answers(finished(script, 200))
    assert error.startswith("PREEMPTED")
    assert states == ["RUN_TIMEOUT", "RESTART_READY"]
    assert number not in cluster.bed.user.run("squeue", "-h", "--me", "--states=PENDING,RUNNING", "-o", "%i")


def test_requeued_by_an_administrator_against_our_wish(cluster: LiveCluster) -> None:
    """Fault 16: the same id waits and starts again. Its new launcher opens a new Session; the Job runs once."""
    script, (number, _) = begun(
        cluster,
        """
        batch = reach(allocation(filter_tags={"group": "requeued"}), "running")
        code = "echo attempt $BALSAM_ATTEMPT; [ $BALSAM_ATTEMPT = 2 ] || exec sleep 600"
        job = submit("requeued", code, tags={"group": "requeued"})
        until(lambda: states_of(job)[-1] == "RUNNING", "the Job does not run")
        print(json.dumps([batch.scheduler_id, batch.id]), flush=True)
        reach(batch, "queued", seconds=60)
        print(json.dumps(batch.status_info["scheduler"]), flush=True)
        assert job.wait(150), job.explain()
        reach(batch, "running")
        print(json.dumps([batch.state.value, batch.scheduler_id, job.read_text("job.out")]))
        batch.cancel()
        reach(batch, "finished")
        """,
    )
    cluster.bed.do("update", f"jobid={number}", "requeue=1")
    cluster.bed.do("requeue", number)
    reason = next_line(script)
    assert reason
    eventually(
        lambda: "PENDING" in cluster.bed.user.run("squeue", "-h", "-j", number, "-o", "%T"), "it is not requeued"
    )
    cluster.bed.do("update", f"jobid={number}", "starttime=now")
    (state, again, out) = answers(finished(script, 250))[0]
    assert (state, again, out) == ("running", number, "attempt 2\n")


def test_a_node_that_is_lost(cluster: LiveCluster) -> None:
    script, (node,) = begun(
        cluster,
        """
        batch = reach(allocation(filter_tags={"group": "lost"}), "running")
        job = submit("lost", "hostname; [ $BALSAM_ATTEMPT = 2 ] || exec sleep 600", tags={"group": "lost"})
        until(lambda: states_of(job)[-1] == "RUNNING", "the Job does not run")
        until(lambda: job.read_text("job.out").strip(), "it says nothing")
        print(json.dumps([job.read_text("job.out").strip()]), flush=True)
        reach(batch, "finished", seconds=150)
        print(json.dumps(batch.status_info["error"]))
        again = allocation(filter_tags={"group": "lost"})
        assert job.wait(200), job.explain()
        print(json.dumps([job.state.value, states_of(job)]))
        again.cancel()
        reach(again, "finished")
        """,
    )
    cluster.bed.node(node, "crash")
    try:
        error, (state, states) = answers(finished(script, 380))
    finally:
        cluster.bed.node(node, "start")
    assert error.startswith("NODE_FAIL")
    assert state == "JOB_FINISHED"
    assert "RUN_TIMEOUT" in states


# What begins a script about an attempt that must be over before the next one runs: it waits for ever, and its successor
# says how long it still saw it alive, in tenths of a second. All nodes see the same processes.
ATTEMPTS = """
CODE = '''
if [ $BALSAM_ATTEMPT = 1 ]; then echo $$ > first; uname -n > where; exec sleep 900; fi
n=0; while kill -0 $(cat first) 2>/dev/null && [ $n -lt 100 ]; do n=$((n + 1)); sleep 0.1; done; echo $n > survived
'''
def said(job, name):
    path = ROOT / "data" / job.workdir / name
    return path.read_text().strip() if path.exists() else ""
def results(jobs):
    ids = [job.id for job in jobs]
    return EventLog.objects.filter(job_id=ids, to_state="RUN_DONE").count()
"""


def test_a_node_that_is_cut_off_while_its_tasks_live_on(cluster: LiveCluster) -> None:
    """S6, S7: Slurm gives the node away while launcher and Job run on there: they end as soon as the service knows."""
    script, (node,) = begun(
        cluster,
        ATTEMPTS
        + """
batch = reach(allocation(filter_tags={"group": "cut"}), "running")
job = submit("cut", CODE, tags={"group": "cut"})
until(lambda: said(job, "where"), "it does not run")
print(json.dumps([said(job, "where")]), flush=True)
again = allocation(filter_tags={"group": "cut"})
reach(batch, "finished", seconds=150)
assert job.wait(150), job.explain()
print(json.dumps([batch.status_info["error"], job.state.value, states_of(job), said(job, "survived"), results([job])]))
again.cancel()
reach(again, "finished")
""",
    )
    cluster.bed.node(node, "cut")
    cluster.bed.do("update", f"nodename={node}", "state=down", "reason=cut")
    try:
        ((error, state, states, survived, results),) = answers(finished(script, 250))
    finally:
        cluster.bed.node(node, "start")
    assert error.startswith("NODE_FAIL")
    assert state == "JOB_FINISHED" and results == 1
    assert [one for one in states if one.startswith("RUN")] == ["RUNNING", "RUN_TIMEOUT", "RUNNING", "RUN_DONE"]
    # Two seconds are the grace of an allocation's lease; without what ends the launcher it is a minute or two.
    assert int(survived) <= 50, "two attempts lived"


@contextmanager
def agent_with_faults(cluster: LiveCluster) -> Iterator[CommandFaults]:
    """The agent asks Slurm through wrappers that can lie."""
    directory = cluster.user.directory()
    faults = CommandFaults(directory / "wrappers", {name: Path("/usr/bin") / name for name in PROGRAMS})
    for path in (directory / "wrappers", *(directory / "wrappers").rglob("*")):
        os.chown(path, cluster.user.entry.pw_uid, cluster.user.entry.pw_gid)
    cluster.kill_agent()
    cluster.start_agent(PATH=f"{faults.bin}:{cluster.user.environment['PATH']}")
    try:
        yield faults
    finally:
        cluster.restart_agent()
        shutil.rmtree(directory)


def test_squeue_forgets_and_sacct_is_missing(cluster: LiveCluster) -> None:
    """S12: an empty listing ends nothing, and no accounting is no evidence either."""
    with agent_with_faults(cluster) as faults:
        script, _ = begun(
            cluster,
            """
            batch = reach(allocation(), "running")
            print(json.dumps([batch.id]), flush=True)
            reach(batch, "unknown", seconds=120)
            print(json.dumps(batch.status_info["scheduler"]), flush=True)
            reach(batch, "running", seconds=60)
            job = submit("still", "true")
            assert job.wait(60), job.explain()
            batch.cancel()
            reach(batch, "finished")
            print(json.dumps(batch.status_info.get("error")))
            """,
        )

        def times_accounting_was_asked() -> int:
            return sum(program == "sacct" for program, _ in faults.calls())

        with faults.fault("empty", "squeue"):
            # Accounting says that it runs: that is no end, however often the listing lacks it.
            before = times_accounting_was_asked()
            eventually(lambda: times_accounting_was_asked() >= before + 4, "accounting is not asked")
            (faults.bin / "sacct").rename(faults.bin / "sacct.away")
            (faults.bin / "sacct").write_text("#!/bin/sh\necho 'sacct: command not found' >&2\nexit 127\n")
            (faults.bin / "sacct").chmod(0o755)
            why = next_line(script)
        (faults.bin / "sacct.away").rename(faults.bin / "sacct")
        assert answers(finished(script, 200)) == [None]
    assert "accounting does not answer" in why and "last heard of at" in why


def test_slow_commands_and_a_submission_that_hangs_after_it_was_taken(cluster: LiveCluster) -> None:
    """S11: sbatch did its work and never came back: there is one allocation, under its name."""
    starts = cluster.starts()
    with agent_with_faults(cluster) as faults:
        with faults.fault("done-hang", "sbatch"):
            said = cluster.run(
                """
                batch = reach(allocation(), "running", seconds=90)
                until(lambda: reach(batch, "running").scheduler_id, "the agent does not find it by its name", 90)
                print(json.dumps([batch.scheduler_id, batch.id]))
                """
            )
        ((number, batch_id),) = answers(said)
        listed = cluster.bed.user.run("squeue", "-h", "--me", "-o", "%i %j").splitlines()
        assert [line.split()[0] for line in listed if f"-{batch_id}-" in line] == [number]
        cluster.run(f"batch = BatchJob.objects.get(id={batch_id})\nbatch.cancel()\nreach(batch, 'finished')")
    assert cluster.starts() == starts + 1


def test_a_full_home_is_told_and_gone_on_with_when_there_is_room(cluster: LiveCluster) -> None:
    """The Site's directory of submissions can't take a byte: the BatchJob says so and waits."""
    place = cluster.site / "qsubmit"
    cluster.kill_agent()
    kept = cluster.root / "kept"
    place.rename(kept)
    place.mkdir()
    entry = cluster.user.entry
    options = f"size=64k,mode=700,uid={entry.pw_uid},gid={entry.pw_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "balsam-test", str(place)], check=True)
    try:
        with pytest.raises(OSError, match="No space left"):
            (place / "fill").write_bytes(b"x" * 200_000)
        cluster.start_agent()
        script, told = begun(
            cluster,
            """
            batch = allocation()
            until(lambda: reach(batch, "pending_submission").status_info.get("error"), "nothing is told")
            print(json.dumps(batch.status_info["error"]), flush=True)
            reach(batch, "queued", "running", "finished", seconds=90)
            print(json.dumps(batch.scheduler_id))
            """,
        )
        assert "No space left on device" in str(told)
        (place / "fill").unlink()
        ((number),) = answers(finished(script, 150))
        assert int(number) > 0
        cluster.bed.end_everything()
    finally:
        cluster.kill_agent()
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()
        kept.rename(place)
        cluster.start_agent()
