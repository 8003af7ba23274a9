"""Futures of Jobs, filled by one thread per executor: it hears by push which Jobs are done and reads results in bulk.

Used by `client/executor.py`. A future that is cancelled is so at once; a Job that ran is gone a moment later.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from balsam.client.errors import BalsamError, JobCancelled, NoResult
from balsam.client.models.job_result import outcome_of
from balsam.domain.states import JobState
from balsam.wire.results import ResultsPage, ResultsQuery, ResultView

if TYPE_CHECKING:
    from balsam.client.client import Client
    from balsam.client.models.job import Job

RESULTS_AT_ONCE = 200  # their ids fit into a request line
T = TypeVar("T")


class JobFuture(Future[T]):
    """A call that is carried out by a Job. `job` is that Job: its state, its `job.out`, its tags.

    >>> with JobExecutor(site="local") as executor:
    ...     future = executor.submit(max, 3, 4)
    ...     future.result(timeout=60), future.job.state.value
    (4, 'JOB_FINISHED')
    """

    def __init__(self, job: "Job") -> None:
        super().__init__()
        self.job = job
        self._once = threading.RLock()

    def cancel(self) -> bool:
        """End the call, also when it runs already; False when it was done before.

        The future is cancelled when the service has heard it. A running Job's processes are killed at once, and gone
        when `future.job.wait()` returns.

        >>> with JobExecutor(site="local", num_nodes=1000) as executor:
        ...     executor.submit(max, 3, 4).cancel()
        True
        """
        cancel_all([self])
        return self.cancelled()

    def running(self) -> bool:
        """Whether the Job runs now, as far as is known.

        >>> with JobExecutor(site="local") as executor:
        ...     future = executor.submit(max, 3, 4)
        >>> future.running()
        False
        """
        return not self.done() and self.job.poll_state() is JobState.RUNNING

    def _settle(self, end: Callable[[], object]) -> None:
        """Bring it to its end, unless it has come to one: cancelled here while its result was on the way."""
        with self._once:
            if not self.done():
                end()

    def _end_cancelled(self) -> None:
        super().cancel()
        self.set_running_or_notify_cancel()


def cancel_all(futures: Iterable[JobFuture[Any]]) -> None:
    """Cancel what is not done, in one call. Those that ended before the service heard it keep their results."""
    live = {future.job.id: future for future in futures if not future.done()}
    if not live:
        return
    jobs = [future.job for future in live.values()]
    refused = jobs[0]._jobs().cancel(jobs, "cancelled by its future").refused
    for job_id, future in live.items():
        if job_id not in refused:
            future._settle(future._end_cancelled)


class Collector:
    """Fills the futures of one executor. Those that are open wait for their Jobs, cancelled ones included."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._inbox: SimpleQueue[int | None] = SimpleQueue()
        self._open: dict[int, JobFuture[Any]] = {}
        self._changed = threading.Condition()  # guards what is above and below
        self._thread: threading.Thread | None = None
        self._closed = False

    def future_of(self, job: "Job") -> JobFuture[Any]:
        """The future of a Job, that of an earlier call while it is open. Raises RuntimeError after `finish`."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the executor is shut down; make another one of the same name to get its futures")
            future = self._open.get(job.id)
            if future is not None:
                return future
            future = self._open[job.id] = JobFuture(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="balsam-results", daemon=True)
                self._thread.start()
        self._watch(future)
        return future

    @property
    def open_futures(self) -> list[JobFuture[Any]]:
        """Those that wait for their Jobs."""
        with self._changed:
            return list(self._open.values())

    def finish(self) -> None:
        """Return when every future is filled and every Job is gone; no more are taken then."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open)
            self._closed = True
        self._inbox.put(None)

    def _watch(self, future: JobFuture[Any]) -> None:
        if future.job._known_done():
            self._inbox.put(future.job.id)
        else:
            self._client.watcher.enter(future.job, self._inbox)

    def _work(self) -> None:
        while not self._closed:
            job_ids = [self._inbox.get()]
            with suppress(Empty):
                while True:
                    job_ids.append(self._inbox.get_nowait())
            try:
                self._collect([job_id for job_id in job_ids if job_id is not None])
                if None in job_ids and not self._closed:
                    self._client.watcher.check()
            except Exception as error:  # nobody may wait for ever, whatever went wrong
                self._close(self.open_futures, error)

    def _collect(self, job_ids: list[int]) -> None:
        with self._changed:
            found = [self._open[job_id] for job_id in dict.fromkeys(job_ids) if job_id in self._open]
        waiting = iter([future for future in found if not self._gone(future)])
        while part := list(islice(waiting, RESULTS_AT_ONCE)):
            try:
                self._deliver(part)
            except BalsamError as error:
                _fail(part, error)
        self._close([future for future in found if future.done()])

    def _close(self, futures: Iterable[JobFuture[Any]], error: Exception | None = None) -> None:
        """They wait for nothing any more; fail them with the error if there is one."""
        futures = list(futures)
        if error is not None:
            _fail(futures, error)
        with self._changed:
            for future in futures:
                self._open.pop(future.job.id, None)
            self._changed.notify_all()

    def _gone(self, future: JobFuture[Any]) -> bool:
        watch = future.job._watch
        if watch is None:
            return False
        if watch.gone:
            error = future.job.DoesNotExist(f"Job {future.job.id} was deleted while it was waited for")
            _fail([future], error)
            return True
        self._client.watcher.take_over(future.job, watch)
        return False

    def _deliver(self, futures: list[JobFuture[Any]]) -> None:
        left = {future.job.id: future for future in futures}
        while left:
            query = ResultsQuery(id=list(left))
            page = self._client.transport.request("GET", "/jobs/results", query=query, reply=ResultsPage)
            if not page.results:
                break
            for view in page.results:
                self._settle(left.pop(view.job_id), view)
        for future in left.values():
            _fail([future], future.job.DoesNotExist(f"Job {future.job.id} does not exist (any more)"))

    def _settle(self, future: JobFuture[Any], view: ResultView) -> None:
        try:
            value = outcome_of(view)
        except JobCancelled:
            future._settle(future._end_cancelled)
        except NoResult:  # somebody has it run again
            future.job.refresh_from_db()
            self._watch(future)
        except Exception as error:  # whatever the function raised
            _fail([future], error)
        else:
            future._settle(partial(future.set_result, value))


def _fail(futures: Iterable[JobFuture[Any]], error: BaseException) -> None:
    for future in futures:
        future._settle(partial(future.set_exception, error))
