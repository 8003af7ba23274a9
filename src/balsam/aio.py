"""Balsam in an event loop: an asyncio client beside the blocking one.

It has the same models, filters and promises: what is a method with a request in it there is awaited here. Calls run on
a few threads of the client's own, over the same transport (repeats, idempotency keys, one stream of pushes); waiting
takes no thread, however many Jobs are waited for. A call that is cancelled is not repeated any more; the try that was
under way may still have been carried out.

The examples with a bare `await` run in a notebook, or in `python -m asyncio`; `balsam` is an `AsyncClient()` there.
"""

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar

from balsam.client.client import Client
from balsam.client.completions import Completions
from balsam.client.model import Model
from balsam.client.models.job import Job
from balsam.client.models.job import Job as OneJob  # in a class that has a property of that name
from balsam.client.models.job_objects import JobManager, WaitResult, check_return_when
from balsam.client.objects import Manager
from balsam.client.query import Changed, Query
from balsam.client.transport.abandon import give_up_on

if TYPE_CHECKING:
    from balsam.client.models.app import App
    from balsam.client.models.application import ApplicationDefinition
    from balsam.client.models.batch_job import BatchJob
    from balsam.client.models.event import EventLog
    from balsam.client.models.session import Session
    from balsam.client.models.site import Site
    from balsam.client.models.transfer import TransferItem
    from balsam.client.settings import ClientSettings

__all__ = ["AsyncClient", "AsyncJobManager", "AsyncManager", "AsyncModel", "AsyncQuery"]

logger = logging.getLogger("balsam.client")
M = TypeVar("M", bound=Model)
P = ParamSpec("P")
R = TypeVar("R")
MAX_CALLS = 16  # at once; more wait for their turn
ROWS_AT_ONCE = 1000


class AsyncClient:
    """Access to one service from an event loop. Settings default to this user's, like those of `Client`.

    >>> async def main() -> None:
    ...     async with AsyncClient() as balsam:
    ...         jobs = [Hello.submit(f"aio/{i}", name=str(i), save=False) for i in range(2)]
    ...         await balsam.Job.objects.bulk_create(jobs)
    ...         async for job in balsam.Job.objects.as_completed(jobs, timeout=60):
    ...             print(job.state.value)
    >>> asyncio.run(main())
    JOB_FINISHED
    JOB_FINISHED
    """

    def __init__(self, settings: "ClientSettings | None" = None, *, client: Client | None = None) -> None:
        """`client`: a blocking client to share; it is not closed with this one. Raises NotConfigured."""
        self.client = client or Client(settings)
        self._owns_client = client is None
        self._pool = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="balsam-aio")

    @property
    def Job(self) -> "AsyncJobs":  # noqa: N802 - it stands for a class
        return AsyncJobs(self, self.client.Job)

    @property
    def Site(self) -> "AsyncModel[Site]":  # noqa: N802
        return AsyncModel(self, self.client.Site)

    @property
    def App(self) -> "AsyncModel[App]":  # noqa: N802
        return AsyncModel(self, self.client.App)

    @property
    def BatchJob(self) -> "AsyncModel[BatchJob]":  # noqa: N802
        return AsyncModel(self, self.client.BatchJob)

    @property
    def Session(self) -> "AsyncModel[Session]":  # noqa: N802
        return AsyncModel(self, self.client.Session)

    @property
    def EventLog(self) -> "AsyncModel[EventLog]":  # noqa: N802
        return AsyncModel(self, self.client.EventLog)

    @property
    def TransferItem(self) -> "AsyncModel[TransferItem]":  # noqa: N802
        return AsyncModel(self, self.client.TransferItem)

    @property
    def ApplicationDefinition(self) -> "type[ApplicationDefinition]":  # noqa: N802
        """Base for Apps of this client: `await client.call(MyApp.submit, "a", x=1)`."""
        return self.client.ApplicationDefinition

    async def call(self, method: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Await any blocking method of the SDK: `await client.call(job.read_text, "job.out")`. Raises what it raises.

        >>> await balsam.call(job.read_text, "job.out")
        'Hello, World\\n'
        """
        given_up = threading.Event()
        context = contextvars.copy_context()

        def work() -> R:
            give_up_on(given_up)
            return method(*args, **kwargs)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, work)
        except asyncio.CancelledError:
            given_up.set()
            raise

    async def save(self, instance: Model) -> None:
        """See `Model.save`.

        >>> fresh = balsam.Job(app_id=Hello, workdir="aio/fresh", parameters={"name": "x"})
        >>> await balsam.save(fresh)
        >>> fresh.id > 0
        True
        """
        await self.call(instance.save)

    async def refresh(self, instance: Model) -> None:
        """See `Model.refresh_from_db`.

        >>> await balsam.refresh(job)
        >>> job.attempt
        1
        """
        await self.call(instance.refresh_from_db)

    async def delete(self, instance: Model) -> None:
        """See `Model.delete`.

        >>> unwanted = await balsam.call(Hello.submit, "aio/unwanted", name="x", num_nodes=1000)
        >>> await balsam.delete(unwanted)
        >>> unwanted.id is None
        True
        """
        await self.call(instance.delete)

    async def result(self, job: OneJob, timeout: float | None = None) -> Any:
        """What `job.result` returns or raises, without a thread that waits for it.

        >>> saying = await balsam.call(Hello.submit, "aio/result", name="you")
        >>> print(await balsam.result(saying, timeout=60))
        None
        """
        if (await self.Job.objects.wait([job], timeout)).not_done:
            raise TimeoutError(f"Job {job.id} is not done after {timeout} s")
        return await self.call(job.result_nowait)

    async def close(self) -> None:
        """Calls under way end with an error; the connections are closed.

        >>> other = AsyncClient()
        >>> await other.close()
        """
        if self._owns_client:
            self.client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncModel(Generic[M]):
    """A model class of an AsyncClient: `.objects` is awaited, calling it makes an instance that is not saved.

    >>> balsam.Job(app_id="Hello", workdir="aio/new", parameters={"name": "x"}).id is None
    True
    """

    def __init__(self, client: AsyncClient, model: type[M]) -> None:
        self._client = client
        self._model = model
        self.DoesNotExist = model.DoesNotExist
        self.MultipleObjectsReturned = model.MultipleObjectsReturned

    def __call__(self, **fields: Any) -> M:
        return self._model(**fields)

    @property
    def objects(self) -> "AsyncManager[M]":
        """Queries and verbs."""
        return AsyncManager(self._client, self._model._manager())


class AsyncJobs(AsyncModel["Job"]):
    """The Job class of an AsyncClient, whose `objects` can wait."""

    @property
    def objects(self) -> "AsyncJobManager":
        """Queries, bulk verbs and waiting."""
        return AsyncJobManager(self._client, JobManager(self._model))


class AsyncQuery(Generic[M]):
    """A selection. Narrow it like a Query; `async for` streams its rows, every method that asks is awaited.

    >>> [one.path == site.path async for one in balsam.Site.objects.filter(id=site.id)]
    [True]
    """

    def __init__(self, client: AsyncClient, query: Query[M]) -> None:
        self._client = client
        self.query = query

    def filter(self, **filters: Any) -> "AsyncQuery[M]":
        """See `Query.filter`.

        >>> await balsam.Job.objects.all().filter(id=job.id, num_nodes__gt=1).count()
        0
        """
        return AsyncQuery(self._client, self.query.filter(**filters))

    def order_by(self, *fields: str) -> "AsyncQuery[M]":
        """See `Query.order_by`.

        >>> events = balsam.EventLog.objects.filter(job_id=job.id).order_by("timestamp")
        >>> (await events.first()).to_state.value
        'READY'
        """
        return AsyncQuery(self._client, self.query.order_by(*fields))

    def __getitem__(self, part: slice) -> "AsyncQuery[M]":
        """A part of the selection: `query[100:200]`. A single row: `await query[5:].first()`."""
        if not isinstance(part, slice) or part.step is not None:
            raise TypeError("an AsyncQuery is sliced like [10:20]; for one row: await query[10:].first()")
        sliced = self.query[part]
        if isinstance(sliced, list):
            raise TypeError("a slice without a step is a query")
        return AsyncQuery(self._client, sliced)

    async def __aiter__(self) -> AsyncIterator[M]:
        rows = iter(self.query)
        while part := await self._client.call(_next_rows, rows):
            for row in part:
                yield row

    async def list(self) -> list[M]:
        """All rows.

        >>> await balsam.Job.objects.filter(id=job.id).list() == [job]
        True
        """
        return await self._client.call(list[M], self.query)

    async def get(self, **filters: Any) -> M:
        """See `Query.get`.

        >>> (await balsam.Site.objects.all().get(id=site.id)) == site
        True
        """
        return await self._client.call(self.query.get, **filters)

    async def first(self) -> M:
        """See `Query.first`.

        >>> (await balsam.EventLog.objects.filter(job_id=job.id).first()).to_state.value
        'JOB_FINISHED'
        """
        return await self._client.call(self.query.first)

    async def count(self) -> int:
        """See `Query.count`.

        >>> await balsam.Job.objects.filter(id=job.id).count()
        1
        """
        return await self._client.call(self.query.count)

    async def exists(self) -> bool:
        """See `Query.exists`.

        >>> await balsam.Job.objects.filter(id=job.id).exists()
        True
        """
        return await self._client.call(self.query.exists)

    async def update(self, **fields: Any) -> Changed:
        """See `Query.update`.

        >>> await balsam.Job.objects.filter(id=job.id).update(tags={"seen": "yes"})
        1
        """
        return await self._client.call(self.query.update, **fields)

    async def delete(self) -> Changed:
        """See `Query.delete`.

        >>> await balsam.Job.objects.filter(workdir="aio/nowhere").delete()
        0
        """
        return await self._client.call(self.query.delete)


class AsyncManager(Generic[M]):
    """`objects` of a model of an AsyncClient.

    >>> (await balsam.Site.objects.get(id=site.id)).name == site.name
    True
    """

    def __init__(self, client: AsyncClient, manager: Manager[M]) -> None:
        self._client = client
        self._manager = manager

    def all(self) -> AsyncQuery[M]:
        """Every row that is yours.

        >>> await balsam.Site.objects.all().count()
        1
        """
        return AsyncQuery(self._client, self._manager.all())

    def filter(self, **filters: Any) -> AsyncQuery[M]:
        """Rows that match every filter; see `Query.filter`.

        >>> [one.name async for one in balsam.App.objects.filter(site_id=site.id, name="Hello")]
        ['Hello']
        """
        return AsyncQuery(self._client, self._manager.filter(**filters))

    def order_by(self, *fields: str) -> AsyncQuery[M]:
        """Every row, ordered.

        >>> newest = await balsam.Job.objects.order_by("-id").first()
        >>> newest.id >= job.id
        True
        """
        return AsyncQuery(self._client, self._manager.order_by(*fields))

    async def get(self, **filters: Any) -> M:
        """The only match. Raises `DoesNotExist` or `MultipleObjectsReturned` of the model.

        >>> (await balsam.Job.objects.get(id=job.id)) == job
        True
        """
        return await self._client.call(self._manager.get, **filters)

    async def first(self) -> M:
        """The first row. Raises IndexError when there is none.

        >>> (await balsam.Site.objects.first()) == site
        True
        """
        return await self._client.call(self._manager.first)

    async def count(self) -> int:
        """Number of rows.

        >>> await balsam.Site.objects.count()
        1
        """
        return await self._client.call(self._manager.count)

    async def create(self, **fields: Any) -> M:
        """Make an instance and save it.

        >>> made = await balsam.Job.objects.create(app_id=Hello, workdir="aio/made", parameters={"name": "x"})
        >>> made.workdir
        'aio/made'
        """
        return await self._client.call(self._manager.create, **fields)

    def __aiter__(self) -> AsyncIterator[M]:
        return self.all().__aiter__()


class AsyncJobManager(AsyncManager["Job"]):
    """`Job.objects` of an AsyncClient. What a push tells of a Job is its state and return code; `refresh` for more.

    >>> await balsam.Job.objects.count_by("state", id=job.id)
    {<JobState.JOB_FINISHED: 'JOB_FINISHED'>: 1}
    """

    _manager: JobManager

    async def bulk_create(self, jobs: "Iterable[Job]") -> "list[Job]":
        """See `JobManager.bulk_create`.

        >>> jobs = [Hello.submit(f"aio/bulk/{i}", name=str(i), save=False) for i in range(3)]
        >>> len(await balsam.Job.objects.bulk_create(jobs))
        3
        """
        return await self._client.call(self._manager.bulk_create, jobs)

    async def bulk_update(self, jobs: "Iterable[Job]") -> "list[Job]":
        """See `JobManager.bulk_update`.

        >>> job.data = {"seen": True}
        >>> await balsam.Job.objects.bulk_update([job]) == [job]
        True
        """
        return await self._client.call(self._manager.bulk_update, jobs)

    async def bulk_refresh(self, jobs: "Iterable[Job]") -> None:
        """See `JobManager.bulk_refresh`.

        >>> await balsam.Job.objects.bulk_refresh([job])
        >>> job.return_code
        0
        """
        await self._client.call(self._manager.bulk_refresh, jobs)

    async def count_by(self, field: str, **filters: Any) -> dict[Any, int]:
        """See `JobQuerySet.count_by`.

        >>> await balsam.Job.objects.count_by("app_name", id=job.id)
        {'Hello': 1}
        """
        return await self._client.call(self._manager.count_by, field, **filters)

    async def cancel(self, jobs: "AsyncQuery[Job] | Iterable[Job | int]", reason: str = "") -> Changed:
        """See `JobManager.cancel`.

        >>> waiting = await balsam.call(Hello.submit, "aio/cancel", name="x", num_nodes=1000)
        >>> await balsam.Job.objects.cancel([waiting], reason="not needed")
        1
        """
        return await self._client.call(self._manager.cancel, _plain(jobs), reason)

    async def retry(self, jobs: "AsyncQuery[Job] | Iterable[Job | int]") -> Changed:
        """See `JobManager.retry`.

        >>> cancelled = await balsam.call(Hello.submit, "aio/retry", name="x", num_nodes=1000)
        >>> await balsam.Job.objects.cancel([cancelled]), await balsam.Job.objects.retry([cancelled])
        (1, 1)
        """
        return await self._client.call(self._manager.retry, _plain(jobs))

    async def wait(
        self, jobs: "Iterable[Job]", timeout: float | None = None, return_when: str = "ALL_COMPLETED"
    ) -> WaitResult:
        """Wait until all Jobs are done (or with "FIRST_COMPLETED" one), or for `timeout` seconds. By push.

        >>> (await balsam.Job.objects.wait([job], timeout=60)).not_done
        []
        """
        check_return_when(return_when)
        given = list(jobs)
        async for _ in self._completed(given, timeout):
            if return_when == "FIRST_COMPLETED":
                break
        done = [job for job in given if job._is_settled()]
        return WaitResult(done, [job for job in given if not job._is_settled()])

    async def as_completed(self, jobs: "Iterable[Job]", timeout: float | None = None) -> "AsyncIterator[Job]":
        """Yield Jobs as they become done. Raises TimeoutError after `timeout` seconds.

        >>> [one.state.value async for one in balsam.Job.objects.as_completed([job], timeout=60)]
        ['JOB_FINISHED']
        """
        given = list(jobs)
        found = 0
        async for job in self._completed(given, timeout):
            found += 1
            yield job
        if found < len(given):
            raise TimeoutError(f"{len(given) - found} of {len(given)} Jobs are not done after {timeout} s")

    async def _completed(self, jobs: "Sequence[Job]", timeout: float | None) -> "AsyncIterator[Job]":
        inbox = _LoopInbox()
        deadline = None if timeout is None else inbox.loop.time() + timeout
        completions = Completions(self._client.client.watcher, jobs, inbox)
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


def _next_rows(rows: Any) -> list[Any]:
    return list(islice(rows, ROWS_AT_ONCE))


def _plain(jobs: "AsyncQuery[Job] | Iterable[Job | int]") -> "Query[Job] | Iterable[Job | int]":
    return jobs.query if isinstance(jobs, AsyncQuery) else jobs
