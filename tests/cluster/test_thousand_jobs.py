"""Many Jobs run on a real Slurm when the way to the service is cut, and when the first of their nodes is lost.

JOBS_IN_FLIGHT=1000 and CUT_SEC=60 are what is to be borne; here are fewer, for the time that CI has.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.live_cluster import LiveCluster, finished, live_cluster, next_line
from tests.testbed.slurm_bed import SlurmBed
from tests.testbed.stopping_proxy import StoppingProxy

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left")]
JOBS = int(os.environ.get("JOBS_IN_FLIGHT", "160"))
CUT_SEC = float(os.environ.get("CUT_SEC", "5"))
# So many Jobs in state RUNNING, whose first attempts wait without a sound for somebody to open the gate.
IN_FLIGHT = """
import os
GATE = ROOT / "data" / "gate-{group}"
os.mkfifo(GATE)
FIRST = "echo $$ > first; exec cat ../../gate-{group}"
jobs = [Job(app_id=Sh, workdir=f"{group}/{{i}}", node_packing_count={packing}, tags={{"group": "{group}"}},
            parameters={{"code": f"[ $BALSAM_ATTEMPT != 1 ] || {{{{ {{FIRST}}; }}}}; {after}"}})
        for i in range({number})]
Job.objects.bulk_create(jobs)
def files(name):
    return [ROOT / "data" / "{group}" / str(i) / name for i in range({number})]
def count(state):
    return Job.objects.filter(tags={{"group": "{group}"}}, state=state).count()
def events():
    return [EventLog.objects.filter(workdir__contains="{group}/", to_state=state).count()
            for state in ("RUNNING", "RUN_TIMEOUT", "RUN_DONE")]
def all_run():
    return count("RUNNING") == {number} and all(path.exists() for path in files("first"))
def say(*words):
    print(json.dumps(words), flush=True)
"""
# How long the first attempt was still alive when the second began, in tenths of a second.
SURVIVED = "n=0; while kill -0 $(cat first) 2>/dev/null && [ $n -lt 100 ]; do n=$((n + 1)); sleep 0.1; done; echo $n"


def many_cores(settings: dict[str, Any]) -> None:
    """As each Job takes a core."""
    settings["node"] = {"cpus": JOBS}


@pytest.fixture(scope="module")
def cluster(slurm: SlurmBed) -> Iterator[LiveCluster]:
    with live_cluster(slurm, many_cores) as running:
        yield running


def test_no_route_to_the_service_while_they_end(cluster: LiveCluster) -> None:
    """L2: nothing is lost and nothing runs twice; all of it is delivered when there is a way again."""
    wait = ("--partition=batch", "--job-name=blocker", "--nodes=4", "--exclusive", "--wrap=sleep 600")
    cluster.bed.user.run("sbatch", *wait)
    script = cluster.begin(
        IN_FLIGHT.format(number=JOBS, group="cut", packing=JOBS, after="true")
        + """
batch = reach(allocation(filter_tags={"group": "cut"}), "queued")
say(SITE.id, batch.id)
until(all_run, "not all run", 120)
say("running")
until((ROOT / "go").exists, "nobody says go", 120)
def all_ended():
    try:
        os.close(os.open(GATE, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # nobody waits, or not yet again
        pass
    return not any(Path("/proc", path.read_text().strip()).exists() for path in files("first"))
until(all_ended, "they do not end")
say(count("RUNNING"), reach(batch, "running").state.value)
until(lambda: count("JOB_FINISHED") == len(jobs), "not all are delivered", 120)
say(events())
batch.cancel()
reach(batch, "finished")
        """
    )
    site_id, number = next_line(script)
    path = cluster.site / "qsubmit" / f"balsam-{site_id}-{number}" / "credentials.json"
    with StoppingProxy(cluster.port) as proxy:
        path.write_text(json.dumps({**json.loads(path.read_text()), "url": f"http://127.0.0.1:{proxy.port}"}))
        cluster.bed.user.run("scancel", "--name=blocker")
        assert next_line(script) == ["running"]
        proxy.cut()
        cut_at = time.monotonic()
        (cluster.site / "go").touch()
        told = next_line(script)
        time.sleep(max(0.0, CUT_SEC - (time.monotonic() - cut_at)))
        proxy.heal()
        said = json.loads(finished(script, 250))
    assert told == [JOBS, "running"], "the launcher had a way to the service"
    assert said == [[JOBS, 0, JOBS]]


def test_the_first_node_is_lost_while_they_run(cluster: LiveCluster) -> None:
    """S6, L1: launcher and hub are gone. All run again in the next allocation, none beside its first attempt."""
    script = cluster.begin(
        IN_FLIGHT.format(number=JOBS, group="flight", packing=-(-JOBS // 4), after=SURVIVED)
        + """
serial = {"job_mode": "serial", "filter_tags": {"group": "flight"}}
batch = allocation(num_nodes=4, **serial)
until(all_run, "not all run", 120)
say(reach(batch, "running").scheduler_id)
reach(batch, "finished", seconds=100)
again = allocation(num_nodes=3, **serial)
until(lambda: count("JOB_FINISHED") == len(jobs), "they do not run again", 150)
again.cancel()
reach(again, "finished")
say(batch.status_info["error"], events(), max(int(path.read_text()) for path in files("job.out")))
        """
    )
    (scheduler_id,) = next_line(script)
    cluster.bed.node("node1", "crash")
    cluster.bed.do("update", "nodename=node1", "state=down", "reason=crash")  # Slurm would take half a minute to notice
    try:
        error, happened, survived = json.loads(finished(script, 250))
    finally:
        cluster.bed.node("node1", "start")
    assert error.startswith("NODE_FAIL")
    assert happened == [2 * JOBS, JOBS, JOBS]
    assert survived <= 20, "beyond the grace of an allocation's lease two attempts of a Job lived"
    assert not cluster.bed.processes(scheduler_id)
