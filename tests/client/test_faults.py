"""S3 at the SDK: whatever the network loses or repeats, each call takes effect exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from balsam.client import errors
from balsam.client.client import Client
from balsam.client.settings import ClientSettings
from balsam.domain.states import JobState
from balsam.testing.faulty_transport import Faults, FaultyTransport
from tests.client.conftest import hello_app, new_site
from tests.services import RunningService

pytestmark = pytest.mark.slow
FAULTS = Faults(lose_request=0.15, lose_reply=0.25, duplicate=0.25, delay=0.1, max_delay_sec=0.01)


@pytest.fixture(params=range(5))
def faulty(request: pytest.FixtureRequest, service: RunningService) -> Iterator[tuple[Client, FaultyTransport]]:
    transport = FaultyTransport(ClientSettings(service.url, service.token), FAULTS, seed=request.param)
    with Client(transport=transport) as client:
        yield client, transport


def test_s3_each_submission_is_carried_out_once(faulty: Any) -> None:
    client, transport = faulty
    site = new_site(client)
    hello = hello_app(client, site)
    singles = [hello.submit(f"one/{i}", name="x") for i in range(30)]
    many = client.Job.objects.bulk_create([hello.submit(f"many/{i}", name="x", save=False) for i in range(500)])
    transport.heal()
    assert transport.happened["lose_reply"] and transport.happened["duplicate"] and transport.happened["lose_request"]
    there = list(client.Job.objects.filter(site_id=site.id))
    assert [job.id for job in there] == [job.id for job in singles + many]
    assert [job.workdir for job in there] == [job.workdir for job in singles + many]
    assert client.Site.objects.filter(name=site.name).count() == 1
    assert client.App.objects.filter(site_id=site.id).count() == 1


def test_s3_changes_cancels_retries_and_deletes_happen_once(faulty: Any) -> None:
    client, transport = faulty
    hello = hello_app(client, new_site(client))
    jobs = [hello.submit(f"a/{i}", name="x") for i in range(10)]
    ids = [job.id for job in jobs]
    for number, job in enumerate(jobs):
        job.tags = {"number": str(number)}
        job.save()
    client.Job.objects.cancel(jobs[:5])
    for job in jobs[:3]:
        job.refresh_from_db()
        job.retry()
    for job in jobs[3:6]:
        job.delete()
    transport.heal()
    assert [job.state.value for job in jobs[:3]] == ["RESTART_READY"] * 3
    left = list(client.Job.objects.filter(id=ids))
    assert [job.tags["number"] for job in left] == ["0", "1", "2", "6", "7", "8", "9"]
    events = client.EventLog.objects.filter(job_id=[job.id for job in jobs[:3]], to_state="RESTART_READY")
    assert events.count() == 3
    batch = {"num_nodes": 1, "wall_time_min": 5, "job_mode": "mpi", "queue": "local", "project": "local"}
    allocation = client.BatchJob.objects.create(site_id=jobs[0].site_id, **batch)
    assert client.BatchJob.objects.filter(site_id=jobs[0].site_id).get() == allocation


def test_s3_a_save_that_ended_without_answer_is_saved_again_without_a_second_job(service: RunningService) -> None:
    settings = ClientSettings(service.url, service.token, retry_for_sec=0.5)
    transport = FaultyTransport(settings, Faults(), seed=1)
    with Client(transport=transport) as client:
        hello = hello_app(client, new_site(client))
        hello.sync()
        job = hello.submit("a", name="x", save=False)
        transport._faulty.faults = Faults(lose_reply=1.0)
        with pytest.raises(errors.ServiceUnavailable, match="unknown"):
            job.save()
        transport.heal()
        assert client.Job.objects.filter(app_id=hello).count() == 1
        job.save()
        assert job.state is JobState.PREPROCESSED
        assert client.Job.objects.filter(app_id=hello).get() == job
        jobs = [hello.submit(f"b/{i}", name="x", save=False) for i in range(20)]
        transport._faulty.faults = Faults(lose_reply=1.0)
        with pytest.raises(errors.ServiceUnavailable):
            client.Job.objects.bulk_create(jobs)
        transport.heal()
        client.Job.objects.bulk_create(jobs)
        assert client.Job.objects.filter(app_id=hello).count() == 21


def test_waiting_survives_a_faulty_network(faulty: Any, client: Client) -> None:
    from tests.client.runner import Runner

    far, _ = faulty
    site = new_site(client)
    hello = hello_app(far, far.Site.objects.get(id=site.id))
    jobs = [hello.submit(f"w/{i}", name="x") for i in range(10)]
    with Runner(client.url, site) as runner:
        runner.run_all()
        done, not_done = far.Job.objects.wait(jobs, timeout=30)
    assert (len(done), not_done) == (10, [])
