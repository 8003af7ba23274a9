"""A Site on a real Grid Engine: from the user's request to the result, and the notice before the kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.live_cluster import TEMPLATE, LiveCluster, live_cluster
from tests.testbed.grid_engine_bed import GridEngineBed

pytestmark = pytest.mark.timeout(300)

WITHOUT_SLURM = "\n".join(line for line in TEMPLATE.splitlines() if "#SBATCH" not in line) + "\n"


def for_grid_engine(settings: dict[str, Any]) -> None:
    scheduler = settings["scheduler"]
    scheduler["scheduler_class"] = "gridengine"
    scheduler["scheduler_options"] |= {"parallel_environment": "smp", "slots_per_node": 4}
    scheduler["allowed_queues"]["all.q"] = {"max_nodes": 2, "max_walltime": 60, "max_queued_jobs": 0}


@pytest.fixture(scope="module")
def cluster(grid_engine: GridEngineBed) -> Iterator[LiveCluster]:
    with live_cluster(grid_engine, for_grid_engine, WITHOUT_SLURM) as running:
        yield running


def test_a_job_runs_in_an_allocation(cluster: LiveCluster) -> None:
    said = cluster.run(
        """
        batch = allocation("all.q")
        job = submit("first", "hostname; echo $JOB_NAME $NSLOTS; id -un")
        assert job.wait(90), job.explain()
        reach(batch, "running")
        print(json.dumps([job.state.value, job.read_text("job.out").split(), batch.state.value, batch.id]))
        batch.cancel()
        reach(batch, "finished")
        print(json.dumps([batch.status_info.get("error"), batch.end_time >= batch.start_time]))
        """
    )
    (state, out, batch_state, number), (error, ordered) = map(json.loads, said.splitlines())
    assert (state, batch_state, error, ordered) == ("JOB_FINISHED", "running", None, True)
    assert out[0] == "grid1" and out[2:] == ["4", "gridsci"]
    assert f"-{number}-" in out[1]


def test_revoked_while_it_runs_the_jobs_are_told_before_the_kill(cluster: LiveCluster) -> None:
    """The notice itself is tested with the adapter (`qsub -notify`) and with the guardian (SIGUSR2)."""
    said = cluster.run(
        """
        batch = allocation("all.q")
        job = submit("revoked", "trap 'echo told; exit 0' TERM; echo up; sleep 600 & wait")
        until(lambda: states_of(job)[-1] == "RUNNING", "the Job does not run")
        until(lambda: "up" in job.read_text("job.out"), "the Job says nothing")
        batch.cancel()
        until(lambda: states_of(job)[-1] == "RESTART_READY", "the Job does not come back")
        print(json.dumps([states_of(job)[-2:], job.read_text("job.out").split()]))
        job.cancel()
        reach(batch, "finished")
        """
    )
    states, out = json.loads(said)
    assert states == ["RUN_TIMEOUT", "RESTART_READY"]
    assert out == ["up", "told"]


def test_what_waits_says_why_and_is_revoked(cluster: LiveCluster) -> None:
    said = cluster.run(
        """
        batches = [allocation("all.q", num_nodes=2) for _ in range(2)]
        reach(batches[0], "running")
        until(lambda: "smp" in reach(batches[1], "queued").status_info.get("scheduler", ""), "no reason is told")
        print(json.dumps(batches[1].status_info["scheduler"]))
        for batch in reversed(batches):
            batch.cancel()
            reach(batch, "finished")
        """
    )
    assert "slots" in json.loads(said)
