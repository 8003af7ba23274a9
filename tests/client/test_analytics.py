"""Curves from real events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from balsam import analytics
from balsam.client.client import Client
from balsam.wire.batch_jobs import BatchJobPatch, BatchJobView
from balsam.wire.sessions import LaunchEvent
from tests.client.conftest import hello_app, new_site
from tests.client.runner import Runner


@pytest.fixture(scope="module")
def ran(service: Any) -> Any:
    """Four Jobs: two that share a node, one of three nodes that is run twice, one that runs still."""
    from balsam.client.settings import ClientSettings

    with Client(ClientSettings(service.url, service.token)) as client:
        site = new_site(client)
        hello = hello_app(client, site)
        jobs = [hello.submit(f"a/{i}", name="x", save=False) for i in range(4)]
        jobs[0].node_packing_count = jobs[1].node_packing_count = 2
        jobs[2].num_nodes = 3
        client.Job.objects.bulk_create(jobs)
        with Runner(client.url, site) as runner:
            ids = runner.acquire()
            for job in jobs:
                nodes = job.num_nodes / job.node_packing_count
                runner.tell([job.id], LaunchEvent.STARTED, data={"num_nodes": nodes})
            runner.tell(ids[:3], LaunchEvent.NOTED)
            runner.tell(ids[:2], LaunchEvent.RUN_DONE)
            runner.tell(ids[2:3], LaunchEvent.RUN_TIMEOUT)
            runner.acquire()
            runner.tell(ids[2:3], LaunchEvent.STARTED, data={"num_nodes": 3.0})
            runner.tell(ids[2:3], LaunchEvent.RUN_DONE)
            yield client, site, jobs


def test_throughput(ran: Any) -> None:
    client, _, jobs = ran
    mine = client.EventLog.objects.filter(job_id=jobs)
    times, done = analytics.throughput_report(mine)
    assert done == [1, 2, 3] and times == sorted(times) and times[0].tzinfo is not None
    assert analytics.throughput_report(mine, to_state="RUNNING")[1] == [1, 2, 3, 4, 5]
    assert analytics.throughput_report(mine.filter(job_id=[])) == ([], [])


def test_utilization(ran: Any) -> None:
    client, _, jobs = ran
    mine = client.EventLog.objects.filter(job_id=jobs)
    times, nodes = analytics.utilization_report(mine)
    assert nodes == [0.5, 1.0, 4.0, 5.0, 4.5, 4.0, 1.0, 4.0, 1.0]
    assert times == sorted(times)
    assert analytics.utilization_report(mine, node_weighting=False)[1] == [1, 2, 3, 4, 3, 2, 1, 2, 1]
    assert analytics.utilization_report(mine.filter(job_id=[])) == ([], [])


def test_jobs_that_ran_before_the_span_never_make_it_negative(ran: Any) -> None:
    client, _, jobs = ran
    mine = client.EventLog.objects.filter(job_id=jobs)
    fourth_start = analytics.throughput_report(mine, to_state="RUNNING")[0][3]
    levels = analytics.utilization_report(mine.filter(timestamp_after=fourth_start), node_weighting=False)[1]
    assert levels == [2, 1, 0, 1, 0], "three Jobs ran already; the one without an event is not known"


def test_runs_that_began_and_ended_in_one_report(client: Client, hello: Any, runner: Runner) -> None:
    jobs = client.Job.objects.bulk_create([hello.submit(f"b/{i}", name="x", save=False) for i in range(3)])
    runner.tell(runner.acquire(), LaunchEvent.STARTED, LaunchEvent.RUN_DONE)
    levels = analytics.utilization_report(client.EventLog.objects.filter(job_id=jobs))[1]
    assert levels == [1, 0, 1, 0, 1, 0]


def test_runs_of_no_length(client: Client, hello: Any, runner: Runner) -> None:
    jobs = client.Job.objects.bulk_create([hello.submit(f"d/{i}", name="x", save=False) for i in range(3)])
    at = datetime(2026, 1, 1, tzinfo=UTC)
    events = (LaunchEvent.STARTED, LaunchEvent.RUN_DONE)
    runner.report(runner.record(job_id, event, at=at) for job_id in runner.acquire() for event in events)
    times, levels = analytics.utilization_report(client.EventLog.objects.filter(job_id=jobs))
    assert (set(times), levels) == ({at}, [1, 0, 1, 0, 1, 0])


def test_an_end_and_the_next_start_in_one_report(client: Client, hello: Any, runner: Runner) -> None:
    """The service may record the start first; the Site's times say that the node was free by then."""
    first, second = (hello.submit(f"c/{i}", name="x", save=False) for i in range(2))
    client.Job.objects.bulk_create([second, first])  # a smaller id: what is recorded of it comes first
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    tokens = runner.acquire()
    assert {first.id, second.id} <= set(tokens)

    def told(job: Any, event: LaunchEvent, seconds: int) -> Any:
        return runner.record(job.id, event, at=begin + timedelta(seconds=seconds))

    runner.report([told(first, LaunchEvent.STARTED, 0)])
    runner.report([told(second, LaunchEvent.STARTED, 2), told(first, LaunchEvent.RUN_DONE, 1)])
    runner.report([told(second, LaunchEvent.RUN_DONE, 3)])
    times, levels = analytics.utilization_report(client.EventLog.objects.filter(job_id=[first, second]))
    assert levels == [1, 0, 1, 0]
    assert times == [begin + timedelta(seconds=seconds) for seconds in range(4)]


def test_available_nodes(client: Client) -> None:
    site = new_site(client)
    fields = {"site_id": site.id, "wall_time_min": 5, "job_mode": "mpi", "queue": "local", "project": "local"}
    made = [client.BatchJob.objects.create(**fields, num_nodes=nodes) for nodes in (1, 2, 4)]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with Runner(client.url, site) as agent:
        for one, begin, end in ((made[0], 0, 60), (made[1], 30, None)):
            patch = BatchJobPatch(state="running", start_time=start + timedelta(minutes=begin))
            agent.transport.request("PATCH", f"/batch-jobs/{one.id}", body=patch, reply=BatchJobView)
            if end is not None:
                patch = BatchJobPatch(state="finished", end_time=start + timedelta(minutes=end))
                agent.transport.request("PATCH", f"/batch-jobs/{one.id}", body=patch, reply=BatchJobView)
    times, nodes = analytics.available_nodes(client.BatchJob.objects.filter(site_id=site.id))
    assert [(moment - start) / timedelta(minutes=1) for moment in times] == [0, 30, 60]
    assert nodes == [1, 3, 2]
    assert analytics.available_nodes(client.BatchJob.objects.filter(id=made[2])) == ([], [])
