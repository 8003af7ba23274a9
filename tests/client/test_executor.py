"""JobExecutor against a real service, with somebody who reports for the Site: how many requests, and no hanging."""

from __future__ import annotations

import threading
from concurrent.futures import as_completed, wait
from typing import Any

import pytest

from balsam.client import errors
from balsam.client.client import Client
from balsam.client.executor import JobExecutor
from balsam.client.settings import ClientSettings
from balsam.wire.results import JobResult
from tests.client.runner import Runner
from tests.client.test_waiting import Traffic
from tests.services import RunningService

CALLS = 300


def double(x: int) -> int:
    return 2 * x


def test_hundreds_of_calls_take_one_registration_one_stream_and_few_requests(
    client: Client, site: Any, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic = Traffic(client, monkeypatch)
    executor = JobExecutor(site, client=client, name="many")
    results = executor.map(double, range(CALLS))
    executor.submit(double, 0)
    job_ids = runner.start(2000)
    assert len(job_ids) == CALLS + 1
    for start in range(0, len(job_ids), 100):
        runner.finish(job_ids[start : start + 100], result=JobResult(value=7))
    assert list(results) == [7] * CALLS
    executor.shutdown()
    ours = [path for path in traffic.paths if not path.startswith("/sessions")]
    assert ours.count("/jobs/stream") == 1
    assert ours.count("/apps") == 2, "looked for, and registered once"
    assert ours.count("/jobs") <= 6, "two submissions, and what was not sure after the connect"
    assert len(ours) <= 40


def test_another_executor_of_the_name_has_the_same_futures(client: Client, site: Any, runner: Runner) -> None:
    first = JobExecutor(site, client=client, name="again", tags={"kind": "a"})
    submitted = [first.submit(double, x) for x in range(3)]
    runner.finish(runner.start(), result=JobResult(value=1))
    first.shutdown()
    with JobExecutor(site, client=client, name="again") as second:
        found = second.futures()
        assert [future.job for future in found] == [future.job for future in submitted]
        assert [future.result(timeout=30) for future in found] == [1, 1, 1]
        assert {future.job.tags["kind"] for future in found} == {"a"}
    with JobExecutor(site, client=client, name="other") as third:
        assert third.futures() == []


def test_shutdown_waits_for_jobs_of_cancelled_futures_and_not_without_wait(
    client: Client, site: Any, runner: Runner
) -> None:
    executor = JobExecutor(site, client=client)
    future = executor.submit(double, 1)
    (job_id,) = runner.start()
    assert future.cancel() and future.cancelled()
    executor.shutdown(wait=False)
    waits = threading.Thread(target=executor.shutdown)
    waits.start()
    waits.join(0.3)
    assert waits.is_alive(), "its processes are still there"
    runner.finish([job_id], return_code=143)
    waits.join(30)
    assert not waits.is_alive()
    with pytest.raises(RuntimeError, match="shut down"):
        executor.futures()


def test_a_result_that_came_before_the_cancellation_stays(client: Client, site: Any, runner: Runner) -> None:
    with JobExecutor(site, client=client) as executor:
        future = executor.submit(double, 1)
        runner.finish(runner.start(), result=JobResult(value=2))
        assert not future.cancel()
        assert future.result(timeout=30) == 2
        assert not future.cancel() and not future.running()


def test_futures_fail_when_nobody_can_wait_any_more(service: RunningService, site: Any) -> None:
    """None of them hangs, and neither does shutdown."""
    client = Client(ClientSettings(service.url, service.token))
    executor = JobExecutor(site, client=client)
    futures = [executor.submit(double, x) for x in range(2)]
    client.close()
    assert len(wait(futures, timeout=30).done) == 2
    for future in as_completed(futures):
        assert isinstance(future.exception(), errors.ServiceUnavailable)
    executor.shutdown()
