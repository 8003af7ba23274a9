"""Bringing results home by themselves: what this process's Jobs stage out to `client:` is fetched when they are done.

One per client and process, made when the first such Job is submitted or waited for. Threads of its own fetch, so that
waiting keeps to its timeout; `Completions` lets a Job count as done for its waiters once its results are here. A path
that the service names is written to only when this user named it on this machine (`origin.py`).
"""

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from balsam.client.arrivals import Sent, bring, mark_collected, sent_home, told
from balsam.client.blobs import ServiceBlobs
from balsam.client.errors import BalsamError, ServiceUnavailable, TransferFailed
from balsam.transfer.base import PeerAway, PeerRefused

if TYPE_CHECKING:
    from balsam.client.client import Client
    from balsam.client.completions import Inbox
    from balsam.client.models.job import Job
    from balsam.client.models.job_arrivals import JobArrivals
    from balsam.client.watcher import Watch

logger = logging.getLogger("balsam.client")

THREADS = 4
JOBS_AT_ONCE = 256
FIRST_PAUSE_SEC = 0.5
LONGEST_PAUSE_SEC = 10.0


class Fetch:
    """What one Job sends home, shared by all who wait for it. `named`: slot and path that this process gave itself."""

    __slots__ = ("__weakref__", "arrived", "error", "inboxes", "job_id", "named", "owner", "settled", "taken", "watch")

    def __init__(self, job_id: int, named: Mapping[str, str], owner: "Collector | None") -> None:
        self.job_id = job_id
        self.named = named
        self.owner = owner
        self.watch: Watch | None = None  # held, so that the end of the Job is told
        self.taken = False  # a thread has it, or will
        self.settled = owner is None
        self.arrived: set[int] = set()  # items in place, of which the service may not know yet
        self.error: TransferFailed | None = None
        self.inboxes: list[Inbox] = []


class Collector:
    """See the module. It is an Inbox itself: the watcher tells it which Jobs are done."""

    def __init__(self, client: "Client") -> None:
        self.pid = os.getpid()
        self._client = client
        self._blobs = ServiceBlobs(client.transport)
        self._open: dict[int, Fetch] = {}
        self._lock = threading.Lock()
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def expect(self, job: "Job", named: Mapping[str, str]) -> None:
        """The Job was submitted here and will send these home; without any there is nothing to wait for."""
        if not named:
            job._fetch = Fetch(job.id, named, None)
            return
        fetch = Fetch(job.id, named, self)
        with self._lock:
            self._open[job.id] = fetch
        job._fetch = fetch
        self._start()
        fetch.watch = self._client.watcher.enter(job, self, is_awaited=False)

    def put(self, job_id: int | None, /) -> None:
        """A Job is done. When watching has come to an end, its results come once somebody waits for it."""
        if job_id is not None:
            self._queue.put(job_id)

    def is_home(self, job: "JobArrivals", inbox: "Inbox | None" = None) -> bool:
        """Whether a Job that is done has its results here, or they can't be had; otherwise they are fetched, and its id
        is put into `inbox` then. Waits for nothing."""
        fetch = self._fetch_of(job)
        with self._lock:
            if fetch.settled:
                return True
            if inbox is not None:
                fetch.inboxes.append(inbox)
        self._start()
        self._queue.put(fetch.job_id)
        return False

    def leave(self, fetch: Fetch, inbox: "Inbox") -> None:
        """Put nothing into `inbox` any more."""
        with self._lock:
            fetch.inboxes[:] = [one for one in fetch.inboxes if one is not inbox]

    def close(self) -> None:
        """Stop the threads. What did not arrive stays at the service for the next client; waiters end with an error."""
        self._closed.set()
        for _ in self._threads:
            self._queue.put(None)
        with self._lock:
            for fetch in self._open.values():
                for inbox in fetch.inboxes:
                    inbox.put(None)

    def _fetch_of(self, job: "JobArrivals") -> Fetch:
        fetch = job._fetch
        if fetch is None or fetch.owner not in (self, None):
            with self._lock:
                fetch = self._open.get(job._saved_id())
                if fetch is None:
                    fetch = Fetch(job._saved_id(), {}, self)
                    self._open[fetch.job_id] = fetch
            job._fetch = fetch
        return fetch

    def _start(self) -> None:
        with self._lock:
            if self._threads or self._closed.is_set():
                return
            self._threads = [
                threading.Thread(target=self._serve, name=f"balsam-collector-{number}", daemon=True)
                for number in range(THREADS)
            ]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        """A thread: what came together is fetched together."""
        while (job_id := self._queue.get()) is not None:
            job_ids = [job_id]
            with suppress(Empty):
                while len(job_ids) < JOBS_AT_ONCE and (more := self._queue.get_nowait()) is not None:
                    job_ids.append(more)
            if self._closed.is_set():
                return
            self._take(job_ids)

    def _take(self, job_ids: Sequence[int]) -> None:
        """Fetch what these Jobs sent, however long that takes."""
        with self._lock:
            fetches = [fetch for job_id in dict.fromkeys(job_ids) if (fetch := self._open.get(job_id))]
            fetches = [fetch for fetch in fetches if not fetch.taken]
            for fetch in fetches:
                fetch.taken = True
        if not fetches:
            return
        errors: dict[int, TransferFailed] = {}
        try:
            errors = self._persist(fetches)
        except BalsamError as error:
            errors = {fetch.job_id: _failure(fetch.job_id, str(error)) for fetch in fetches}
        except Exception as error:
            logger.exception("results could not be fetched")
            errors = {fetch.job_id: _failure(fetch.job_id, f"{type(error).__name__}: {error}") for fetch in fetches}
        if not self._closed.is_set():
            self._settle(fetches, errors)

    def _persist(self, fetches: Sequence[Fetch]) -> dict[int, TransferFailed]:
        """What went wrong, by Job. An outage of the service is waited out."""
        pause_sec = FIRST_PAUSE_SEC
        while True:
            try:
                return self._bring({fetch.job_id: fetch for fetch in fetches})
            except ServiceUnavailable as error:
                reason = error
            except PeerAway as error:
                if not isinstance(error.__cause__, ServiceUnavailable):
                    raise error.__cause__ or error from None
                reason = error.__cause__
            logger.debug("results can't be fetched now: %s", reason)
            if self._closed.wait(pause_sec):
                return {}
            pause_sec = min(2 * pause_sec, LONGEST_PAUSE_SEC)

    def _bring(self, fetches: Mapping[int, Fetch]) -> dict[int, TransferFailed]:
        found = sent_home(self._client, list(fetches))
        here = [key for key, sent in found.items() if key in fetches[sent.item.job_id].arrived]
        due = {key: sent for key, sent in found.items() if key not in here and self._is_mine(fetches, sent)}
        errors: dict[int, TransferFailed] = {}
        for key, error in self._outcomes(due):
            item = due[key].item
            if error is None:
                fetches[item.job_id].arrived.add(key)
                here.append(key)
            else:
                is_lost = isinstance(error, PeerRefused) and error.is_final
                why = f"{item.slot!r} to {item.remote_path}: {told(error)}"
                errors.setdefault(item.job_id, _failure(item.job_id, why, is_lost=is_lost))
        mark_collected(self._client, here)
        return errors

    def _outcomes(self, due: Mapping[int, Sent]) -> Iterator[tuple[int, Exception | None]]:
        yield from ((key, sent.loss) for key, sent in due.items() if sent.loss)
        places = {key: (sent.content, sent.item.remote_path) for key, sent in due.items() if not sent.loss}
        yield from bring(self._blobs, places)

    def _is_mine(self, fetches: Mapping[int, Fetch], sent: Sent) -> bool:
        item = sent.item
        if fetches[item.job_id].named.get(item.slot) == item.remote_path:
            return True
        if self._client.origin.is_mine(item.origin, item.slot, item.remote_path):
            return True
        host = item.origin.partition(":")[0] or "another client"
        logger.info("the result %r of Job %d belongs to %s; it stays at the service", item.slot, item.job_id, host)
        return False

    def _settle(self, fetches: Sequence[Fetch], errors: Mapping[int, TransferFailed]) -> None:
        with self._lock:
            for fetch in fetches:
                if error := errors.get(fetch.job_id):
                    fetch.error = error
                    logger.error("%s", error)
                fetch.settled = True
                self._open.pop(fetch.job_id, None)
                for inbox in fetch.inboxes:
                    inbox.put(fetch.job_id)
                fetch.inboxes.clear()


def _failure(job_id: int, why: str, *, is_lost: bool = False) -> TransferFailed:
    text = f"a result of Job {job_id} did not arrive: {why}"
    if is_lost:
        return TransferFailed(text)
    return TransferFailed(
        f"{text}; it is kept at the service: wait() for the Job again when that is put right, or "
        f"`balsam job fetch {job_id} --to DIRECTORY`"
    )
