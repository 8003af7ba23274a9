"""JobExecutor: `concurrent.futures.Executor` whose calls are Jobs at a Site.

Each function becomes one App (`client/functions.py`), each call one Job; results come by push (`client/futures.py`).
What was submitted is the service's: it runs, and its results are kept, whatever becomes of this process.
"""

import copy
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack

from balsam.client.client import Client, default_client
from balsam.client.functions import arguments, register
from balsam.client.futures import Collector, JobFuture, cancel_all
from balsam.client.models.batch_job import BatchJob
from balsam.client.models.job import Job
from balsam.client.registration import resolve_site

if TYPE_CHECKING:
    from balsam.client.models.site import Site
    from balsam.client.signatures import JobFields

P = ParamSpec("P")
T = TypeVar("T")
TAG = "executor"  # of its Jobs; the value is the executor's name
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
_NOT_A_RESOURCE = "the arguments of the function are the parameters; give them to submit()"


class JobExecutor(Executor):
    """Runs functions at a Site, each call as a Job.

    `site`: name, id or Site. `name`: tag `executor` of all its Jobs; another process that gives the same name gets
    their futures by `futures()`. `allocation`: fields of a BatchJob that is requested for these Jobs alone and ended
    with the executor; without it they run in whatever allocations the Site has. `python_exe`: an interpreter at the
    Site. All else (`num_nodes`, `gpus_per_rank`, `tags` ...) is as for Jobs and goes for every call; see `using`.

    Functions, arguments and results travel as those of `run()` do. Raises ValidationFailed when there is no such Site.

    >>> from concurrent.futures import as_completed
    >>> def square(x):
    ...     return x * x
    >>> with JobExecutor(site="local", node_packing_count=4) as executor:
    ...     futures = [executor.submit(square, n) for n in range(3)]
    ...     sorted(future.result() for future in as_completed(futures, timeout=60))
    [0, 1, 4]
    """

    def __init__(
        self,
        site: "str | int | Site",
        *,
        name: str | None = None,
        allocation: Mapping[str, Any] | None = None,
        python_exe: str | None = None,
        client: Client | None = None,
        **resources: Unpack["JobFields"],
    ) -> None:
        self._client = client or default_client()
        self.name = f"executor-{uuid.uuid4().hex[:12]}" if name is None else name
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name is {name!r}; it names a directory: letters, digits, '-', '_' and '.', at most 100")
        self.site_id = resolve_site(self._client, site)
        self._python_exe = python_exe
        self._resources: dict[str, Any] = {}
        self._resources = self._with(resources)
        self._pool = _Pool(Collector(self._client))
        #: The BatchJob that was requested with the executor, or None.
        self.allocation: BatchJob | None = None
        if allocation is not None:
            asked = {"job_mode": "mpi", **allocation, "site_id": self.site_id, "filter_tags": {TAG: self.name}}
            self.allocation = self._client.BatchJob.objects.create(**asked)

    def using(self, **resources: Unpack["JobFields"]) -> "JobExecutor":
        """The same executor with other resources for what is submitted through it.

        >>> with JobExecutor(site="local") as executor:
        ...     future = executor.using(threads_per_rank=2, tags={"kind": "wide"}).submit(max, 3, 4)
        ...     future.job.threads_per_rank, future.job.tags["kind"], future.result(timeout=60)
        (2, 'wide', 4)
        """
        other = copy.copy(self)
        other._resources = self._with(resources)
        return other

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[T]:
        """Have `fn(*args, **kwargs)` called by a Job; returns when the service has it.

        Raises ValidationFailed for a function or an argument that can't be sent, and RuntimeError after `shutdown`.

        >>> with JobExecutor(site="local") as executor:
        ...     executor.submit(divmod, 7, 2).result(timeout=60)
        (3, 1)
        """
        return self._submit_all(fn, [(args, kwargs)])[0]

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """Like `map`, by one Job for each call, submitted in bulk; results in the order of the calls.

        `chunksize` is accepted and does nothing: workers stay warm between Jobs. The iterator raises what a call
        raised, TimeoutError after `timeout` seconds, and cancels what is left when it is closed.

        >>> with JobExecutor(site="local", node_packing_count=4) as executor:
        ...     list(executor.map(pow, [2, 3], [5, 2], timeout=60))
        [32, 9]
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        end = None if timeout is None else time.monotonic() + timeout
        return _results(self._submit_all(fn, [(args, {}) for args in zip(*iterables, strict=False)]), end)

    def futures(self) -> list[JobFuture[Any]]:
        """A future for every Job of this name at the Site, the oldest first, whichever process submitted it.

        Raises RuntimeError after a `shutdown` that waited.

        >>> with JobExecutor(site="local", name="docs-scan") as executor:
        ...     _ = executor.submit(max, 3, 4)
        >>> [future.result(timeout=60) for future in JobExecutor(site="local", name="docs-scan").futures()][-1]
        4
        """
        jobs = self._client.Job.objects.filter(site_id=self.site_id, tags={TAG: self.name}).order_by("id")
        return [self._pool.collector.future_of(job) for job in jobs]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no further calls. `cancel_futures`: cancel what is not done, running calls included.

        `wait`: return when nothing of what this process submitted or asked for runs any more, and end the requested
        allocation. Without it the Jobs and the allocation live on, for another executor of the same name.

        >>> executor = JobExecutor(site="local", name="docs-later")
        >>> future = executor.submit(max, 3, 4)
        >>> executor.shutdown(wait=False)
        >>> future.result(timeout=60)
        4
        """
        pool = self._pool
        with pool.lock:
            pool.closed = True
        if cancel_futures:
            cancel_all(pool.collector.open_futures)
        if not wait:
            return
        pool.collector.finish()
        if self.allocation is not None:
            self.allocation.cancel()

    def _submit_all(
        self, fn: Callable[..., Any], calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]]
    ) -> list[JobFuture[Any]]:
        pool = self._pool
        if pool.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        app_id = self._app_id(fn)
        jobs = [self._job(app_id, arguments(fn, tuple(args), kwargs)) for args, kwargs in calls]
        if len(jobs) == 1:
            jobs[0].save()  # its errors count no rows
        else:
            self._client.Job.objects.bulk_create(jobs, progress=False)
        return [pool.collector.future_of(job) for job in jobs]

    def _app_id(self, fn: Callable[..., Any]) -> int:
        """Pickled and registered once for each function."""
        key = id(fn), self._python_exe
        with self._pool.lock:
            if key not in self._pool.apps:
                self._pool.apps[key] = (register(self._client, self.site_id, fn, self._python_exe), fn)
            return self._pool.apps[key][0]

    def _job(self, app_id: int, parameters: dict[str, Any]) -> Job:
        workdir = f"{TAG}/{self.name}/{uuid.uuid4().hex[:16]}"
        return self._client.Job(app_id=app_id, workdir=workdir, parameters=parameters, **self._resources)

    def _with(self, resources: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of Jobs, these in addition. Raises TypeError for a name that Jobs do not have."""
        if "parameters" in resources:
            raise TypeError(_NOT_A_RESOURCE)
        tags = {**self._resources.get("tags", {}), **resources.get("tags", {}), TAG: self.name}
        given = {**self._resources, **resources, "tags": tags}
        self._client.Job(app_id=0, workdir=TAG, **given)
        return given


class _Pool:
    """What an executor and those made of it by `using` share."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self.lock = threading.Lock()
        self.closed = False
        # By identity: functions need not be hashable; they are kept, so that no other one gets the same id.
        self.apps: dict[tuple[int, str | None], tuple[int, Callable[..., Any]]] = {}


def _results(futures: list[JobFuture[T]], end: float | None) -> Iterator[T]:
    left = list(reversed(futures))
    try:
        while left:
            yield left[-1].result(None if end is None else max(0.0, end - time.monotonic()))
            left.pop()
    finally:
        cancel_all(left)
