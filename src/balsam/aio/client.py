"""The AsyncClient and its model classes: what a script holds, over `calls`, `query` and `jobs`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar

from balsam.aio.calls import Calls
from balsam.aio.jobs import AsyncJobManager
from balsam.aio.query import AsyncManager
from balsam.client.client import Client
from balsam.client.model import Model
from balsam.client.models.job import Job as OneJob  # in a class that has a property of that name
from balsam.client.models.job_objects import JobManager

if TYPE_CHECKING:
    from balsam.client.models.app import App
    from balsam.client.models.application import ApplicationDefinition
    from balsam.client.models.batch_job import BatchJob
    from balsam.client.models.event import EventLog
    from balsam.client.models.session import Session
    from balsam.client.models.site import Site
    from balsam.client.models.transfer import TransferItem
    from balsam.client.settings import ClientSettings

M = TypeVar("M", bound=Model)
P = ParamSpec("P")
R = TypeVar("R")


class AsyncClient:
    """Access to one service from an event loop. Settings default to this user's, like those of `Client`.

    >>> import asyncio
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
        self._calls = Calls()

    @property
    def Job(self) -> "AsyncJobs":  # noqa: N802 - it stands for a class
        return AsyncJobs(self._calls, self.client.Job)

    @property
    def Site(self) -> "AsyncModel[Site]":  # noqa: N802
        return AsyncModel(self._calls, self.client.Site)

    @property
    def App(self) -> "AsyncModel[App]":  # noqa: N802
        return AsyncModel(self._calls, self.client.App)

    @property
    def BatchJob(self) -> "AsyncModel[BatchJob]":  # noqa: N802
        return AsyncModel(self._calls, self.client.BatchJob)

    @property
    def Session(self) -> "AsyncModel[Session]":  # noqa: N802
        return AsyncModel(self._calls, self.client.Session)

    @property
    def EventLog(self) -> "AsyncModel[EventLog]":  # noqa: N802
        return AsyncModel(self._calls, self.client.EventLog)

    @property
    def TransferItem(self) -> "AsyncModel[TransferItem]":  # noqa: N802
        return AsyncModel(self._calls, self.client.TransferItem)

    @property
    def ApplicationDefinition(self) -> "type[ApplicationDefinition]":  # noqa: N802
        """Base for Apps of this client: `await client.call(MyApp.submit, "a", x=1)`."""
        return self.client.ApplicationDefinition

    async def call(self, method: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Await any blocking method of the SDK: `await client.call(job.read_text, "job.out")`. Raises what it raises.

        >>> await balsam.call(job.read_text, "job.out")
        'Hello, World\\n'
        """
        return await self._calls.run(method, *args, **kwargs)

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
            raise TimeoutError(f"Job {job.id} is not done after {timeout} s: it {job._what_is_late()}")
        return await self.call(job.result_nowait)

    async def close(self) -> None:
        """Calls under way end with an error; the connections are closed.

        >>> other = AsyncClient()
        >>> await other.close()
        """
        if self._owns_client:
            self.client.close()
        self._calls.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncModel(Generic[M]):
    """A model class of an AsyncClient: `.objects` is awaited, calling it makes an instance that is not saved.

    >>> balsam.Job(app_id="Hello", workdir="aio/new", parameters={"name": "x"}).id is None
    True
    """

    def __init__(self, calls: Calls, model: type[M]) -> None:
        self._calls = calls
        self._model = model
        self.DoesNotExist = model.DoesNotExist
        self.MultipleObjectsReturned = model.MultipleObjectsReturned

    def __call__(self, **fields: Any) -> M:
        return self._model(**fields)

    @property
    def objects(self) -> AsyncManager[M]:
        """Queries and verbs."""
        return AsyncManager(self._calls, self._model._manager())


class AsyncJobs(AsyncModel[OneJob]):
    """The Job class of an AsyncClient, whose `objects` can wait."""

    @property
    def objects(self) -> AsyncJobManager:
        """Queries, bulk verbs and waiting."""
        return AsyncJobManager(self._calls, JobManager(self._model))
