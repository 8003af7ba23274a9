"""Completions: Jobs that somebody waits for, and which of them are done. Of one `wait` or `as_completed`.

Blocking callers hand in a queue that they sleep on (`Watcher.completed`), an event loop an inbox of its own
(`balsam.aio`). Nothing here sends a request or waits.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from balsam.client.models.job import Job
    from balsam.client.watcher import Watch, Watcher


class Inbox(Protocol):
    """Where the ids of Jobs that are done are put, from any thread; None: watching has come to an end."""

    def put(self, job_id: int | None, /) -> object: ...


class Completions:
    """Those `jobs` that were done already are in `done`; the ids of the others come into `inbox`, and go to `take`.

    A Job that sends results to this client is done when they are here, or can't be put in place.
    """

    def __init__(self, watcher: "Watcher", jobs: "Sequence[Job]", inbox: Inbox) -> None:
        self._watcher = watcher
        self._inbox = inbox
        self._open: dict[int, list[Job]] = {}
        self.done: list[Job] = []
        for job in jobs:
            job._saved_id()
            if job._known_done() and job._is_home(inbox):
                self.done.append(job)
            else:
                self._open.setdefault(job.id, []).append(job)
        self._watches: dict[int, Watch] = {}
        for job_id, same in self._open.items():
            not_done = [job for job in same if not job._known_done()]
            if not_done:
                self._watches[job_id] = watcher.enter(not_done[0], inbox)

    @property
    def are_open(self) -> bool:
        """Whether any Job is waited for still."""
        return bool(self._open)

    def take(self, job_id: int | None) -> "list[Job]":
        """The Jobs behind an entry of the inbox, as they are now.

        Raises `Job.DoesNotExist` for one that was deleted, and what ended the watching.
        """
        if job_id is None:
            self._watcher.check()
            return []
        jobs, watch = self._open.get(job_id, []), self._watches.get(job_id)
        if watch is not None:
            for job in jobs:
                if watch.gone:
                    raise job.DoesNotExist(f"Job {job_id} was deleted while it was waited for")
                self._watcher.take_over(job, watch)
        if not all(job._is_home(self._inbox) for job in jobs):
            return []
        return self._open.pop(job_id, [])

    def close(self) -> None:
        """Nothing comes into the inbox any more."""
        self._watcher.leave(self._watches.values(), self._inbox)
        for jobs in self._open.values():
            jobs[0]._leave_home(self._inbox)
