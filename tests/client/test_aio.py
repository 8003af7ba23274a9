"""The asyncio client: the same promises as the blocking one, no blocked loop, no thread per waiting, cancellation."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from balsam.aio import AsyncClient
from balsam.client import errors
from balsam.client.client import Client
from balsam.client.settings import ClientSettings
from balsam.client.transport import Transport
from balsam.domain.states import JobState
from tests.client.runner import Runner
from tests.services import RunningService


def run(main: Callable[[AsyncClient], Awaitable[Any]], client: Client) -> Any:
    async def within() -> Any:
        async with AsyncClient(client=client) as balsam:
            return await main(balsam)

    return asyncio.run(within())


def test_create_query_change_delete(client: Client, hello: Any, site: Any) -> None:
    async def main(balsam: AsyncClient) -> None:
        jobs = [hello.submit(f"aio/{i}", name=str(i), tags={"n": str(i % 2)}, save=False) for i in range(6)]
        assert await balsam.Job.objects.bulk_create(jobs) == jobs
        mine = balsam.Job.objects.filter(site_id=site.id)
        assert [job.workdir async for job in mine.order_by("-id")] == [f"aio/{i}" for i in range(5, -1, -1)]
        assert [job.workdir for job in await mine[2:4].list()] == ["aio/2", "aio/3"]
        assert await mine.count() == 6 and await mine.exists() and (await mine.first()).workdir == "aio/0"
        assert await mine.filter(tags={"n": "1"}, id__gt=jobs[2]).count() == 2
        assert await balsam.Job.objects.count_by("tags__n", site_id=site.id) == {"0": 3, "1": 3}
        assert await mine.filter(tags={"n": "1"}).update(priority=5) == 3
        assert (await balsam.Job.objects.get(id=jobs[1])).priority == 5
        jobs[0].tags["n"] = "7"
        await balsam.save(jobs[0])
        jobs[2].data = {"x": 1}
        await balsam.Job.objects.bulk_update(jobs[2:3])
        await balsam.Job.objects.bulk_refresh(jobs)
        assert (jobs[0].tags, jobs[1].priority, jobs[2].data) == ({"n": "7"}, 5, {"x": 1})
        one = await balsam.Job.objects.create(app_id=hello, workdir="aio/one", parameters={"name": "x"})
        await balsam.refresh(one)
        await balsam.delete(one)
        with pytest.raises(balsam.Job.DoesNotExist):
            await balsam.Job.objects.get(id=10**9)
        assert await balsam.Job.objects.cancel(mine[:2].query, reason="test") == 2
        assert await balsam.Job.objects.cancel(mine.filter(state__ne="CANCELLED")) == 4
        assert await balsam.Job.objects.retry(jobs[:3]) == 3
        assert await mine.delete() == 6
        fresh = balsam.Job(app_id=hello, workdir="aio/fresh", parameters={"name": "y"})
        assert await balsam.call(hello.submit, "aio/by_call", name="z") is not None
        await balsam.save(fresh)
        assert fresh.state is JobState.PREPROCESSED

    run(main, client)


def test_other_models(client: Client, site: Any, hello: Any) -> None:
    async def main(balsam: AsyncClient) -> None:
        assert await balsam.Site.objects.get(name=site.name) == site
        assert site in [one async for one in balsam.Site.objects]
        await balsam.call(hello.sync)
        assert (await balsam.App.objects.filter(site_id=site.id).first()).name == "Hello"
        made = await balsam.BatchJob.objects.create(
            site_id=site.id, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="local", project="local"
        )
        assert await balsam.BatchJob.objects.filter(id=made.id).update(state="pending_deletion") == 1
        assert await balsam.Session.objects.filter(id=[10**9]).count() == 0
        assert await balsam.TransferItem.objects.filter(job_id=[10**9]).count() == 0
        assert await balsam.EventLog.objects.filter(job_id=[]).list() == []
        assert balsam.ApplicationDefinition is balsam.client.ApplicationDefinition
        with pytest.raises(TypeError, match="sliced like"):
            balsam.Site.objects.all()[3]  # type: ignore[index]

    run(main, client)


def test_a_thousand_are_waited_for_without_a_thread_each_or_a_request_each(
    client: Client, hello: Any, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = client.Job.objects.bulk_create([hello.submit(f"w/{i}", name="x", save=False) for i in range(1000)])
    ids = runner.start()
    asked: list[str] = []
    request = Transport.request

    def noted(self: Transport, method: str, path: str, **more: Any) -> Any:
        asked.append(path)
        return request(self, method, path, **more)

    monkeypatch.setattr(Transport, "request", noted)

    async def main(balsam: AsyncClient) -> None:
        before = threading.active_count()
        waits = [asyncio.create_task(balsam.Job.objects.wait([job], timeout=60)) for job in jobs[:50]]
        seen: set[int] = set()
        async for job in balsam.Job.objects.as_completed(jobs, timeout=60):
            if not seen:
                assert threading.active_count() <= before + 5
            seen.add(job.id)
            assert job.state is JobState.JOB_FINISHED and job.return_code == 0
        assert seen == set(ids)
        assert all(found.done for found in await asyncio.gather(*waits))

    finisher = threading.Timer(1.0, runner.finish, (ids,))
    finisher.start()
    run(main, client)
    finisher.join()
    assert len([path for path in asked if "sessions" not in path]) <= 20


def test_results_and_time_outs(client: Client, hello: Any, runner: Runner) -> None:
    good, bad, never = client.Job.objects.bulk_create([hello.submit(f"r/{i}", name="x", save=False) for i in range(3)])

    async def main(balsam: AsyncClient) -> None:
        begin = time.monotonic()
        with pytest.raises(
            TimeoutError, match=r"1 of 1 Jobs are not done after 0\.2 s; Job \d+ is PREPROCESSED, its explain"
        ):
            async for _ in balsam.Job.objects.as_completed([good], timeout=0.2):
                pass
        assert (await balsam.Job.objects.wait([good], timeout=0.1)) == ([], [good])
        with pytest.raises(TimeoutError, match=f"Job {never.id} is not done"):
            await balsam.result(never, timeout=0.1)
        assert time.monotonic() - begin < 10
        ids = await balsam.call(runner.start)
        await balsam.call(runner.finish, ids[:1])
        await balsam.call(runner.finish, ids[1:2], 3)
        assert await balsam.result(good, timeout=30) is None
        with pytest.raises(errors.JobFailed, match="return code 3"):
            await balsam.result(bad, timeout=30)
        first = await balsam.Job.objects.wait([never, bad], timeout=30, return_when="FIRST_COMPLETED")
        assert first == ([bad], [never])
        with pytest.raises(ValueError, match="return_when"):
            await balsam.Job.objects.wait([good], return_when="SOON")
        waiting = asyncio.create_task(balsam.Job.objects.wait([never]))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(main, client)


def test_what_the_caller_does_with_a_job_is_not_timed(client: Client, hello: Any, runner: Runner) -> None:
    jobs = client.Job.objects.bulk_create([hello.submit(f"t/{i}", name="x", save=False) for i in range(2)])
    runner.run_all()

    async def main(balsam: AsyncClient) -> int:
        seen = 0
        async for _ in balsam.Job.objects.as_completed(jobs, timeout=10):
            await asyncio.sleep(0.2)
            seen += 1
        with pytest.raises(TimeoutError):
            async for _ in balsam.Job.objects.as_completed([*jobs, hello.submit("t/3", name="x")], timeout=0.3):
                await asyncio.sleep(0.2)  # longer together than the time-out, and undisturbed
                seen += 1
        return seen

    assert run(main, client) == 4


def test_the_loop_goes_on_while_the_service_is_slow_or_away(own_service: RunningService) -> None:
    async def main() -> None:
        async with AsyncClient(ClientSettings(own_service.url, own_service.token, retry_for_sec=60)) as balsam:
            assert await balsam.Site.objects.count() == 0
            own_service.kill()
            call = asyncio.create_task(balsam.Site.objects.count())
            ticks = 0
            while ticks < 20:
                await asyncio.sleep(0.02)
                ticks += 1
            assert not call.done()
            begin = time.monotonic()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert time.monotonic() - begin < 1

    asyncio.run(main())


def test_a_call_that_was_cancelled_is_not_repeated(
    own_service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []
    attempt = Transport._try

    def counted(self: Transport, *given: Any) -> Any:
        tries.append(time.monotonic())
        return attempt(self, *given)

    monkeypatch.setattr(Transport, "_try", counted)

    async def main() -> None:
        async with AsyncClient(ClientSettings(own_service.url, own_service.token)) as balsam:
            own_service.kill()
            call = asyncio.create_task(balsam.Site.objects.create(name="late", path="/late"))
            while not tries:
                await asyncio.sleep(0.01)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            made = len(tries)
            await asyncio.sleep(1.5)
            assert len(tries) <= made + 1

    asyncio.run(main())


def test_an_error_of_the_stream_reaches_the_loop(client: Client, hello: Any) -> None:
    job = hello.submit("e", name="x")

    async def main(balsam: AsyncClient) -> None:
        waiting = asyncio.create_task(balsam.Job.objects.wait([job]))
        await asyncio.sleep(0.2)
        await balsam.call(job.delete)
        with pytest.raises(balsam.Job.DoesNotExist, match="was deleted while it was waited for"):
            await asyncio.wait_for(waiting, 60)

    run(main, client)


def test_without_settings_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.NotConfigured, match="balsam login"):
        AsyncClient()
