"""Jobs over several nodes of a real Slurm, started by srun in job mode mpi."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.live_cluster import LiveCluster, finished, live_cluster
from tests.testbed.slurm_bed import SlurmBed

pytestmark = pytest.mark.timeout(300)


def with_srun(settings: dict[str, Any]) -> None:
    settings["mpirun"] = "auto"
    settings["node"] = {"cpus": None}


@pytest.fixture(scope="module")
def cluster(slurm: SlurmBed) -> Iterator[LiveCluster]:
    with live_cluster(slurm, with_srun) as running:
        yield running


def answers(said: str) -> list[Any]:
    return [json.loads(line) for line in said.splitlines()]


def test_jobs_over_two_and_four_nodes(cluster: LiveCluster) -> None:
    """One over all nodes, then two at a time on two nodes each, then single ranks packed on all of them."""
    said = cluster.run(
        """
        batch = allocation(num_nodes=4)
        code = "echo $(uname -n) $SLURM_NTASKS; sleep 1"
        def over(name, nodes, ranks=1, packing=1):
            job = Job(app_id=Sh, workdir=name, parameters={"code": code}, num_nodes=nodes, ranks_per_node=ranks,
                      node_packing_count=packing)
            job.save()
            return job
        jobs = [over("four", 4, 2), over("two-a", 2), over("two-b", 2)]
        jobs += [over(f"small{n}", 1, 2, 4) for n in range(8)]
        for job in jobs:
            assert job.wait(90), job.explain()
        print(json.dumps([[job.state.value, sorted(job.read_text("job.out").split("\\n"))] for job in jobs]))
        starts = [[event.timestamp.timestamp() for event in EventLog.objects.filter(job_id=job.id)
                   if event.to_state.value in ("RUNNING", "RUN_DONE")] for job in jobs[1:3]]
        print(json.dumps(sorted(sorted(times) for times in starts)))
        batch.cancel()
        reach(batch, "finished")
        """
    )
    jobs, (first, second) = answers(said)
    assert {state for state, _ in jobs} == {"JOB_FINISHED"}
    lines = [out[1:] for _, out in jobs]
    assert lines[0] == [f"node{number} 8" for number in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert second[0] < first[1], "the two did not run at the same time"
    assert sorted(line.split()[0] for out in lines[1:3] for line in out) == ["node1", "node2", "node3", "node4"]
    assert len({line.split()[0] for out in lines[3:] for line in out}) == 2, "four of them share a node"


def test_a_node_that_crashes_takes_only_its_own_jobs(cluster: LiveCluster) -> None:
    """srun says 0 of the struck Job, as its rank on the node that lives ended well: that is no proof."""
    script = cluster.begin(
        """
        batch = allocation(num_nodes=4)
        def over(name, nodes, code):
            job = Job(app_id=Sh, workdir=name, parameters={"code": code}, num_nodes=nodes)
            job.save()
            return job
        again = "[ $BALSAM_ATTEMPT = 2 ] && exec touch ../again"
        struck = over("struck", 2, again + "; echo $(uname -n) $$; [ $SLURM_PROCID = 0 ] || exec sleep 600")
        out = ROOT / "data" / "struck" / "job.out"
        until(lambda: out.exists() and len(out.read_text().splitlines()) == 2, "it does not run")
        spared = over("spared", 1, "until [ -e ../again ]; do sleep 0.1; done")
        until(lambda: states_of(spared)[-1] == "RUNNING", "it does not run")
        print(json.dumps(out.read_text().split()[::2]), flush=True)
        assert struck.wait(80) and spared.wait(20), (struck.explain(), spared.explain())
        batch.refresh_from_db()
        print(json.dumps([states_of(struck), states_of(spared), str(batch.state.value),
                          [event.data.get("failure") for event in EventLog.objects.filter(job_id=struck.id)
                           if event.to_state.value == "RUN_ERROR"]]))
        batch.cancel()
        reach(batch, "finished")
        """
    )
    assert script.stdout is not None
    line = script.stdout.readline()
    assert line, finished(script, 10)
    assert sorted(json.loads(line)) == ["node1", "node2"]
    cluster.bed.node("node2", "crash")
    try:
        ((struck, spared, batch_state, failures),) = answers(finished(script, 120))
    finally:
        cluster.bed.node("node2", "start")
    ran = [state for state in struck if state.startswith("RUN") or state == "RESTART_READY"]
    assert ran == ["RUNNING", "RUN_ERROR", "RESTART_READY", "RUNNING", "RUN_DONE"]
    assert struck[-1] == spared[-1] == "JOB_FINISHED" and spared.count("RUNNING") == 1
    assert batch_state == "running"
    assert failures == ["lost_node"]
