"""Queries of an AsyncClient: a selection is narrowed at once, and awaited when it asks the service."""

from collections.abc import AsyncIterator
from itertools import islice
from typing import Any, Generic, TypeVar

from balsam.aio.calls import Calls
from balsam.client.model import Model
from balsam.client.objects import Manager
from balsam.client.query import Changed, Query

M = TypeVar("M", bound=Model)
ROWS_AT_ONCE = 1000


class AsyncQuery(Generic[M]):
    """A selection. Narrow it like a Query; `async for` streams its rows, every method that asks is awaited.

    >>> [one.path == site.path async for one in balsam.Site.objects.filter(id=site.id)]
    [True]
    """

    def __init__(self, calls: Calls, query: Query[M]) -> None:
        self._calls = calls
        self.query = query

    def filter(self, **filters: Any) -> "AsyncQuery[M]":
        """See `Query.filter`.

        >>> await balsam.Job.objects.all().filter(id=job.id, num_nodes__gt=1).count()
        0
        """
        return AsyncQuery(self._calls, self.query.filter(**filters))

    def order_by(self, *fields: str) -> "AsyncQuery[M]":
        """See `Query.order_by`.

        >>> events = balsam.EventLog.objects.filter(job_id=job.id).order_by("timestamp")
        >>> (await events.first()).to_state.value
        'READY'
        """
        return AsyncQuery(self._calls, self.query.order_by(*fields))

    def __getitem__(self, part: slice) -> "AsyncQuery[M]":
        """A part of the selection: `query[100:200]`. A single row: `await query[5:].first()`."""
        if not isinstance(part, slice) or part.step is not None:
            raise TypeError("an AsyncQuery is sliced like [10:20]; for one row: await query[10:].first()")
        sliced = self.query[part]
        if isinstance(sliced, list):
            raise TypeError("a slice without a step is a query")
        return AsyncQuery(self._calls, sliced)

    async def __aiter__(self) -> AsyncIterator[M]:
        rows = iter(self.query)
        while part := await self._calls.run(_next_rows, rows):
            for row in part:
                yield row

    async def list(self) -> list[M]:
        """All rows.

        >>> await balsam.Job.objects.filter(id=job.id).list() == [job]
        True
        """
        return await self._calls.run(list[M], self.query)

    async def get(self, **filters: Any) -> M:
        """See `Query.get`.

        >>> (await balsam.Site.objects.all().get(id=site.id)) == site
        True
        """
        return await self._calls.run(self.query.get, **filters)

    async def first(self) -> M:
        """See `Query.first`.

        >>> (await balsam.EventLog.objects.filter(job_id=job.id).first()).to_state.value
        'JOB_FINISHED'
        """
        return await self._calls.run(self.query.first)

    async def count(self) -> int:
        """See `Query.count`.

        >>> await balsam.Job.objects.filter(id=job.id).count()
        1
        """
        return await self._calls.run(self.query.count)

    async def exists(self) -> bool:
        """See `Query.exists`.

        >>> await balsam.Job.objects.filter(id=job.id).exists()
        True
        """
        return await self._calls.run(self.query.exists)

    async def update(self, **fields: Any) -> Changed:
        """See `Query.update`.

        >>> await balsam.Job.objects.filter(id=job.id).update(tags={"seen": "yes"})
        1
        """
        return await self._calls.run(self.query.update, **fields)

    async def delete(self) -> Changed:
        """See `Query.delete`.

        >>> await balsam.Job.objects.filter(workdir="aio/nowhere").delete()
        0
        """
        return await self._calls.run(self.query.delete)


class AsyncManager(Generic[M]):
    """`objects` of a model of an AsyncClient.

    >>> (await balsam.Site.objects.get(id=site.id)).name == site.name
    True
    """

    def __init__(self, calls: Calls, manager: Manager[M]) -> None:
        self._calls = calls
        self._manager = manager

    def all(self) -> AsyncQuery[M]:
        """Every row that is yours.

        >>> await balsam.Site.objects.all().count()
        1
        """
        return AsyncQuery(self._calls, self._manager.all())

    def filter(self, **filters: Any) -> AsyncQuery[M]:
        """Rows that match every filter; see `Query.filter`.

        >>> [one.name async for one in balsam.App.objects.filter(site_id=site.id, name="Hello")]
        ['Hello']
        """
        return AsyncQuery(self._calls, self._manager.filter(**filters))

    def order_by(self, *fields: str) -> AsyncQuery[M]:
        """Every row, ordered.

        >>> newest = await balsam.Job.objects.order_by("-id").first()
        >>> newest.id >= job.id
        True
        """
        return AsyncQuery(self._calls, self._manager.order_by(*fields))

    async def get(self, **filters: Any) -> M:
        """The only match. Raises `DoesNotExist` or `MultipleObjectsReturned` of the model.

        >>> (await balsam.Job.objects.get(id=job.id)) == job
        True
        """
        return await self._calls.run(self._manager.get, **filters)

    async def first(self) -> M:
        """The first row. Raises IndexError when there is none.

        >>> (await balsam.Site.objects.first()) == site
        True
        """
        return await self._calls.run(self._manager.first)

    async def count(self) -> int:
        """Number of rows.

        >>> await balsam.Site.objects.count()
        1
        """
        return await self._calls.run(self._manager.count)

    async def create(self, **fields: Any) -> M:
        """Make an instance and save it.

        >>> made = await balsam.Job.objects.create(app_id=Hello, workdir="aio/made", parameters={"name": "x"})
        >>> made.workdir
        'aio/made'
        """
        return await self._calls.run(self._manager.create, **fields)

    def __aiter__(self) -> AsyncIterator[M]:
        return self.all().__aiter__()


def _next_rows(rows: Any) -> list[Any]:
    return list(islice(rows, ROWS_AT_ONCE))
