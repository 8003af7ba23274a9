"""An agent that is itself a long job of the batch system: the script of docs/guides/agents.md, on a real Slurm.

A facility's queue for such agents (a QOS with a wall time beyond the partition's) is made here by its administrator.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.live_cluster import LiveCluster, answers, end, eventually, live_cluster, next_line, with_srun
from tests.system.live_site import finished
from tests.testbed.slurm_bed import BED, SlurmBed

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left")]

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "agents.md"


def accounts(*words: str) -> None:
    """What an administrator says to Slurm's accounting."""
    environment = {**os.environ, "SLURM_CONF": f"{BED}/etc/slurm.conf"}
    done = subprocess.run(["sacctmgr", "-iQ", *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout, done.stderr)


@pytest.fixture
def workflow_queue(slurm: SlurmBed) -> Iterator[None]:
    accounts("add", "qos", "workflow", "set", "flags=PartitionTimeLimit")
    accounts("modify", "user", slurm.user.name, "set", "qos+=workflow")
    yield
    slurm.end_everything()
    accounts("modify", "user", slurm.user.name, "set", "qos-=workflow")
    accounts("delete", "qos", "workflow")


@pytest.fixture
def cluster(slurm: SlurmBed) -> Iterator[LiveCluster]:
    with live_cluster(slurm, with_srun) as running:
        (running.root / "my-site").symlink_to(running.site)
        yield running


def script(cluster: LiveCluster) -> Path:
    """The page's."""
    text = PAGE.read_text().partition("## A long job of the batch system\n")[2]
    (found,) = re.findall(r"^```\n(#!.*?)^```$", text, re.MULTILINE | re.DOTALL)[:1]
    path = cluster.root / "agent.sh"
    path.write_text(found)
    path.chmod(0o644)
    return path


def accounted(cluster: LiveCluster, number: str) -> tuple[str, str]:
    """How an allocation ended, once that is known: state and exit code."""

    def look() -> list[str]:
        said = cluster.bed.user.run("sacct", "-nXP", "-j", number, "-o", "State,ExitCode").strip()
        return [] if not said or said.startswith(("RUNNING", "PENDING", "COMPLETING")) else said.split("|")

    state, code = eventually(look, f"{number} does not end", 200)
    return state, code


def test_an_agent_ends_with_its_own_job_and_the_next_one_takes_over(
    cluster: LiveCluster, workflow_queue: None, figure: Callable[[str], None]
) -> None:
    said = cluster.run(facts_of(cluster, "outside"))
    ((outside, ended, why),) = answers(said)
    assert ended == "JOB_FINISHED", (why, outside)
    assert cluster.agent is not None
    cluster.agent.terminate()
    assert cluster.agent.wait(30) == 0

    home = {**cluster.environment, "HOME": str(cluster.root)}
    page = script(cluster)
    first, second = (
        cluster.bed.user.run("sbatch", "--parsable", str(page), env=home, cwd=cluster.root).strip() for _ in range(2)
    )
    ((inside, ended, why),) = answers(cluster.run(facts_of(cluster, "inside")))
    assert ended == "JOB_FINISHED", (why, inside)
    assert names(inside) == names(outside), "what the agent's own job was told is not for its allocations"

    long = cluster.begin(
        """
        batch = reach(allocation(filter_tags={"group": "long"}), "running")
        job = submit("long", "until [ -e ../over ]; do sleep 0.2; done", tags={"group": "long"})
        until(lambda: states_of(job)[-1] == "RUNNING", "the Job does not run")
        print(json.dumps([batch.scheduler_id]), flush=True)
        assert job.wait(200), job.explain()
        print(json.dumps([states_of(job)]), flush=True)
        batch.cancel()
        reach(batch, "finished")
        """
    )
    try:
        (number,) = next_line(long)
        begun = time.monotonic()
        cluster.bed.do("update", f"JobId={first}", "TimeLimit=2")  # its end is near: Slurm says so 120 s before
        assert accounted(cluster, first) == ("COMPLETED", "0:0")
        ended_sec = time.monotonic() - begun
        told = said_by(cluster, first)
        assert "agent stopped; allocations run on" in told and "Traceback" not in told
        eventually(lambda: "agent is running" in said_by(cluster, second), "no second agent")
        took_over_sec = time.monotonic() - begun - ended_sec
        assert cluster.bed.user.run("squeue", "-h", "-j", number, "-o", "%T").strip() == "RUNNING"
        (cluster.site / "data" / "over").touch()
        ((states,),) = answers(finished(long, 200))
    finally:
        end([long])
    assert states[-1] == "JOB_FINISHED" and states.count("RUNNING") == 1
    figure(f"an agent's job ended {ended_sec:.0f} s after it was told to; the next one ran {took_over_sec:.0f} s later")
    cluster.bed.user.run("scancel", second)
    accounted(cluster, second)


def said_by(cluster: LiveCluster, number: str) -> str:
    """What the script of a job has printed so far."""
    path = cluster.root / f"slurm-{number}.out"
    return path.read_text() if path.exists() else ""


def names(lines: list[str]) -> list[str]:
    return [line.partition("=")[0] for line in lines if "=" in line]


def facts_of(cluster: LiveCluster, name: str) -> str:
    """A script: which of Slurm's variables a Job in an allocation of the agent of the moment has, and how it ended."""
    code = "env | grep -E '^(SLURM|SBATCH|SRUN)_' | sort; srun --overlap -n 2 hostname"
    return f"""
        batch = reach(allocation(filter_tags={{"group": {name!r}}}), "running", seconds=90)
        job = submit({name!r}, {code!r}, tags={{"group": {name!r}}})
        assert job.wait(90), job.explain()
        lines = open(ROOT / "data" / {name!r} / "job.out").read().splitlines()
        print(json.dumps([lines, str(job.state.value), job.explain().reasons]))
        batch.cancel()
        reach(batch, "finished")
    """
