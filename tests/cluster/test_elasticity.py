"""An allocation of a real Slurm that a Site asks for by itself, in a backfill window of the cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.live_cluster import LiveCluster, eventually, live_cluster
from tests.testbed.slurm_bed import ClusterUser, SlurmBed

pytestmark = pytest.mark.timeout(300)

OTHER = ClusterUser("sci2")
ELASTIC = {
    "submit_project": "proj1",
    "submit_queue": "batch",
    "service_period": 1.0,
    "min_wall_time_min": 4,
    "max_wall_time_min": 60,
    "wall_time_pad_min": 1,
    "max_num_nodes": 3,
}


def on_its_own(settings: dict[str, Any]) -> None:
    settings["elastic_queue"] = ELASTIC
    settings["launcher"]["idle_ttl_sec"] = 3.0


@pytest.fixture(scope="module")
def cluster(slurm: SlurmBed) -> Iterator[LiveCluster]:
    with live_cluster(slurm, on_its_own) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_left(cluster: LiveCluster) -> Iterator[None]:
    yield
    for bed in (cluster.bed, SlurmBed(OTHER)):
        bed.end_everything()


def answers(said: str) -> list[Any]:
    return [json.loads(line) for line in said.splitlines()]


def test_a_request_is_made_to_fit_a_backfill_window(cluster: LiveCluster) -> None:
    """One node is idle until somebody else's job over all four can begin: asked for that long, it starts at once."""
    wide = ("sbatch", "--partition=batch", "--exclusive", "--time=10", "--wrap=sleep 600")
    OTHER.run(*wide, "--nodes=3")
    eventually(lambda: "RUNNING" in OTHER.run("squeue", "-h", "--me", "-o", "%T"), "the first does not run")
    OTHER.run(*wide, "--nodes=4", "--job-name=next")
    eventually(
        lambda: "N/A" not in OTHER.run("squeue", "-h", "--me", "--name=next", "-o", "%S"), "Slurm has no plan for it"
    )
    said = cluster.run(
        """
        job = submit("window", "uname -n")
        assert job.wait(90), job.explain()
        batch = BatchJob.objects.get(id=job.batch_job_id)
        reach(batch, "running", "finished")
        print(json.dumps([batch.num_nodes, batch.wall_time_min, (batch.start_time - batch.created_at).total_seconds()]))
        """
    )
    ((nodes, minutes, waited_sec),) = answers(said)
    assert nodes == 1 and 4 <= minutes <= 9
    assert waited_sec < 60, "it waited for its turn"
    assert "PENDING" in OTHER.run("squeue", "-h", "--me", "--name=next", "-o", "%T"), "the other had its turn before"
