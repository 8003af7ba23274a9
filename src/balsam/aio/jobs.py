"""`Job.objects` of an AsyncClient: bulk verbs, and waiting that takes no thread however many Jobs are waited for."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from balsam.aio.query import AsyncManager, AsyncQuery
from balsam.client.completions import Completions
from balsam.client.models.job import Job
from balsam.client.models.job_objects import JobManager, WaitResult, check_return_when, late, listed
from balsam.client.query import Changed, Query

logger = logging.getLogger("balsam.client")


class AsyncJobManager(AsyncManager[Job]):
    """`Job.objects` of an AsyncClient. What a push tells of a Job is its state and return code; `refresh` for more.

    >>> await balsam.Job.objects.count_by("state", id=job.id)
    {<JobState.JOB_FINISHED: 'JOB_FINISHED'>: 1}
    """

    _manager: JobManager

    async def bulk_create(self, jobs: Iterable[Job]) -> list[Job]:
        """See `JobManager.bulk_create`.

        >>> jobs = [Hello.submit(f"aio/bulk/{i}", name=str(i), save=False) for i in range(3)]
        >>> len(await balsam.Job.objects.bulk_create(jobs))
        3
        """
        return await self._calls.run(self._manager.bulk_create, jobs)

    async def bulk_update(self, jobs: Iterable[Job]) -> list[Job]:
        """See `JobManager.bulk_update`.

        >>> job.data = {"seen": True}
        >>> await balsam.Job.objects.bulk_update([job]) == [job]
        True
        """
        return await self._calls.run(self._manager.bulk_update, jobs)

    async def bulk_refresh(self, jobs: Iterable[Job]) -> None:
        """See `JobManager.bulk_refresh`.

        >>> await balsam.Job.objects.bulk_refresh([job])
        >>> job.return_code
        0
        """
        await self._calls.run(self._manager.bulk_refresh, jobs)

    async def count_by(self, field: str, **filters: Any) -> dict[Any, int]:
        """See `JobQuerySet.count_by`.

        >>> await balsam.Job.objects.count_by("app_name", id=job.id)
        {'Hello': 1}
        """
        return await self._calls.run(self._manager.count_by, field, **filters)

    async def cancel(self, jobs: AsyncQuery[Job] | Iterable[Job | int], reason: str = "") -> Changed:
        """See `JobManager.cancel`.

        >>> waiting = await balsam.call(Hello.submit, "aio/cancel", name="x", num_nodes=1000)
        >>> await balsam.Job.objects.cancel([waiting], reason="not needed")
        1
        """
        return await self._calls.run(self._manager.cancel, _plain(jobs), reason)

    async def retry(self, jobs: AsyncQuery[Job] | Iterable[Job | int]) -> Changed:
        """See `JobManager.retry`.

        >>> cancelled = await balsam.call(Hello.submit, "aio/retry", name="x", num_nodes=1000)
        >>> await balsam.Job.objects.cancel([cancelled]), await balsam.Job.objects.retry([cancelled])
        (1, 1)
        """
        return await self._calls.run(self._manager.retry, _plain(jobs))

    async def wait(
        self, jobs: Iterable[Job], timeout: float | None = None, return_when: str = "ALL_COMPLETED"
    ) -> WaitResult:
        """Wait until all Jobs are done (or with "FIRST_COMPLETED" one), or for `timeout` seconds. By push.

        >>> (await balsam.Job.objects.wait([job], timeout=60)).not_done
        []
        """
        check_return_when(return_when)
        given = listed(jobs, "wait")
        async for _ in self._completed(given, timeout):
            if return_when == "FIRST_COMPLETED":
                break
        done = [job for job in given if job._is_settled()]
        return WaitResult(done, [job for job in given if not job._is_settled()])

    async def as_completed(self, jobs: Iterable[Job], timeout: float | None = None) -> AsyncIterator[Job]:
        """Yield Jobs as they become done. Raises TimeoutError after `timeout` seconds.

        >>> [one.state.value async for one in balsam.Job.objects.as_completed([job], timeout=60)]
        ['JOB_FINISHED']
        """
        given = listed(jobs, "as_completed")
        found = 0
        async for job in self._completed(given, timeout):
            found += 1
            yield job
        if found < len(given):
            raise late(given, timeout)

    async def _completed(self, jobs: Sequence[Job], timeout: float | None) -> AsyncIterator[Job]:
        inbox = _LoopInbox()
        deadline = None if timeout is None else inbox.loop.time() + timeout
        completions = Completions(self._manager.client.watcher, jobs, inbox)
        try:
            for job in completions.done:
                yield job
            while completions.are_open:
                # Not around the yield: what the caller does with a Job is not timed.
                left = None if deadline is None else max(0.0, deadline - inbox.loop.time())
                try:
                    job_id = await asyncio.wait_for(inbox.queue.get(), left)
                except TimeoutError:
                    return
                for job in completions.take(job_id):
                    yield job
        finally:
            completions.close()


class _LoopInbox:
    """An inbox that wakes an event loop; `put` is called from the watcher's threads."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[int | None] = asyncio.Queue()

    def put(self, job_id: int | None, /) -> None:
        try:
            self.loop.call_soon_threadsafe(self.queue.put_nowait, job_id)
        except RuntimeError:
            logger.debug("the event loop that waited for Job %s is closed", job_id)


def _plain(jobs: AsyncQuery[Job] | Iterable[Job | int]) -> Query[Job] | Iterable[Job | int]:
    return jobs.query if isinstance(jobs, AsyncQuery) else jobs
