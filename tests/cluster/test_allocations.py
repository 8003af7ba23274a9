"""Allocations of a Site on a real Slurm, asked for, used and ended as a user does it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster.live_cluster import LiveCluster, live_cluster
from tests.testbed.slurm_bed import SlurmBed

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cluster(slurm: SlurmBed) -> Iterator[LiveCluster]:
    with live_cluster(slurm) as running:
        yield running


def test_a_job_runs_in_an_allocation_of_slurm(cluster: LiveCluster) -> None:
    said = cluster.run(
        """
        batch = allocation()
        job = submit("first", "hostname; echo $GREETING $SLURM_JOB_NAME; id -un")
        assert job.wait(90), job.explain()
        batch.refresh_from_db()
        print(json.dumps([job.state.value, job.read_text("job.out").split(), str(batch.state.value),
                          batch.scheduler_id, batch.id, (batch.start_time - batch.created_at).total_seconds() < 60]))
        batch.cancel()
        reach(batch, "finished")
        print(json.dumps([batch.status_info, batch.end_time >= batch.start_time]))
        """
    )
    (state, out, batch_state, number, batch_id, soon), (_info, ordered) = map(json.loads, said.splitlines())
    assert (state, batch_state, soon, ordered) == ("JOB_FINISHED", "running", True, True)
    assert out[0].startswith("node") and out[1] == "hello" and out[3] == "sci"
    assert out[2].startswith("balsam-") and f"-{batch_id}-" in out[2]
    assert int(number) > 0
