"""Allocations of a real Slurm that a Site asks for by itself: for what waits, in a window, as told, as budgeted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.live_cluster import LiveCluster, answers, eventually, live_cluster
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
MAINTAINER = {
    "submit_project": "proj2",
    "submit_queue": "debug",
    "submit_period": 0.5,
    "num_queued_jobs": 2,
    "wall_time_min": 30,
}


def on_its_own(settings: dict[str, Any]) -> None:
    settings["mpirun"] = "auto"  # srun: ranks on any node
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


def in_slurm(cluster: LiveCluster, number: str) -> dict[str, str]:
    """What Slurm's accounting has of an allocation that has ended."""
    names = ("State", "NNodes", "TimelimitRaw", "ElapsedRaw", "Partition")
    format_ = ",".join(names)

    def ended() -> dict[str, str]:
        line = cluster.bed.user.run("sacct", "-XnP", "-j", number, "-o", format_).strip()
        found = dict(zip(names, line.split("|"), strict=False))
        return found if found.get("State") not in (None, "", "RUNNING", "PENDING") else {}

    found: dict[str, str] = eventually(ended, f"{number} does not end in the accounting")
    return found


def test_what_waits_is_asked_for_and_what_is_idle_given_back(cluster: LiveCluster) -> None:
    said = cluster.run(
        """
        before = {batch.id for batch in BatchJob.objects.all()}
        jobs = [Job(app_id=Sh, workdir=f"wide/{i}", parameters={"code": "uname -n; sleep 3"}) for i in range(3)]
        jobs = Job.objects.bulk_create(jobs)
        for job in jobs:
            assert job.wait(90), job.explain()
        asked = [batch for batch in BatchJob.objects.all() if batch.id not in before]
        for batch in asked:
            reach(batch, "finished")
        until(lambda: SITE.refresh_from_db() or "asks for nothing" in SITE.scaling["elastic_queue"], "no word")
        print(json.dumps([[job.state.value, job.read_text("job.out").strip()] for job in jobs]))
        print(json.dumps([[batch.scheduler_id, batch.num_nodes, batch.status_info.get("error")] for batch in asked]))
        """
    )
    ran, asked = answers(said)
    assert [state for state, _ in ran] == ["JOB_FINISHED"] * 3
    assert 1 <= len(asked) <= 3 and [error for _, _, error in asked] == [None] * len(asked)
    sizes = [nodes for _, nodes, _ in asked]  # more than one when it looked while the Jobs were still being written
    assert max(sizes) <= len({node for _, node in ran}) <= sum(sizes)
    for number, nodes, _ in asked:
        known = in_slurm(cluster, number)
        assert (known["State"], known["NNodes"], known["TimelimitRaw"]) == ("COMPLETED", str(nodes), "59")
        assert int(known["ElapsedRaw"]) < 60, "it was not given back"
    assert not cluster.bed.user.run("squeue", "--noheader", "--me")


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


def test_so_many_as_told_are_kept_and_no_more_than_the_budget_allows(cluster: LiveCluster) -> None:
    """Two of half an hour leave 0.2 node-hours: more is refused, also to a campaign; what ends early is given back."""

    def maintained(settings: dict[str, Any]) -> None:
        on_its_own(settings)
        settings["launcher"]["idle_ttl_sec"] = 600.0
        settings["queue_maintainer"] = MAINTAINER
        settings["budget"] = {"max_node_hours": 1.2, "campaigns": {"climate": 0.02}}

    cluster.kill_agent()
    cluster.change_settings(maintained)
    cluster.start_agent()
    try:
        check_maintained(cluster)
    finally:
        cluster.kill_agent()
        cluster.change_settings(on_its_own)
        cluster.bed.user.run("scancel", "--me")
        cluster.start_agent()
        cluster.run("for batch in BatchJob.objects.filter(queue='debug'): reach(batch, 'finished')")


def check_maintained(cluster: LiveCluster) -> None:
    def queued() -> list[str]:
        return sorted(cluster.bed.user.run("squeue", "-h", "--me", "--partition=debug", "-o", "%i").split())

    first = eventually(lambda: len(queued()) == 2 and queued(), "two are not kept")
    said = cluster.run(
        """
        wide = Job(app_id=Sh, workdir="beyond", parameters={"code": "true"}, num_nodes=3)
        wide.save()
        def paused():
            SITE.refresh_from_db()
            return SITE.scaling.get("elastic_queue", "").startswith("paused")
        until(paused, "the elastic queue does not see the budget")
        refused = reach(allocation(wall_time_min=30), "submit_failed")
        print(json.dumps([SITE.scaling, refused.status_info["error"]]))
        refused = reach(allocation(wall_time_min=3, filter_tags={"campaign": "climate"}), "submit_failed")
        print(json.dumps(refused.status_info["error"]))
        wide.cancel()
        """
    )
    (scaling, error), of_campaign = answers(said)
    assert "of the 0.02 of budget.campaigns.climate" in of_campaign
    assert scaling["node_hours"]["campaign=climate"]["promised"] == 0.0
    assert "2 of its allocations wait or run" in scaling["queue_maintainer"]
    assert scaling["node_hours"]["site"]["promised"] == 1.0
    assert all("of the 1.2 of budget.max_node_hours" in word for word in (scaling["elastic_queue"], error))
    assert queued() == first
    cluster.bed.user.run("scancel", first[0])
    second = eventually(lambda: len(queued()) == 2 and first[0] not in queued() and queued(), "it is not replaced")
    assert first[1] in second
