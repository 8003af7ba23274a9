"""Watcher: the newest states of the Jobs somebody waits for, by push. One per client and process.

A reader thread holds the Jobs stream; a poller thread reads again what a push may have missed: after each connect, and
slowly as a safety net (every 30 s; every 2 s while the stream is down). Waiters are woken; nobody polls. It is the
poller, too, that has them told why their Jobs do not go on.
"""

import atexit
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from balsam.client.completions import Completions, Inbox
from balsam.client.errors import BalsamError, ServiceUnavailable
from balsam.client.waiting_notice import LOOK_SEC, WaitingNotice
from balsam.domain.states import DONE_STATES, JobState
from balsam.wire.jobs import JobExplanation, JobQuery, JobsPage
from balsam.wire.stream import JobStates, StreamEvent

if TYPE_CHECKING:
    from balsam.client.client import Client
    from balsam.client.models.job import Job
    from balsam.client.transport import EventStream

logger = logging.getLogger("balsam.client")

SAFETY_POLL_SEC = 30.0
DOWN_POLL_SEC = 2.0
READ_DEADLINE_SEC = 20.0
MAX_RECENT = 200_000
READ_AT_ONCE = 5_000


class ReReadQuery(JobQuery):
    """States of some Jobs, without a count."""

    with_count: bool = False


class Watch:
    """What is known of one Job, shared by all who look at it. Lives as long as one of them does."""

    __slots__ = (
        *("__weakref__", "gone", "job_id", "pid", "return_code", "state", "state_since", "sure", "version", "waiters"),
    )

    def __init__(self, job_id: int, state: JobState, return_code: int | None) -> None:
        self.job_id = job_id
        self.state = state
        self.state_since = time.monotonic()  # as far as is known here
        self.return_code = return_code
        self.version = 0  # grows with each push
        self.sure = False  # nothing that happened since the Job was read can have been missed
        self.gone = False  # it was deleted
        self.pid = os.getpid()
        self.waiters: dict[Inbox, float] = {}  # since when each waits; inf: nobody is held up by it

    @property
    def awaited_since(self) -> float:
        """Since when somebody is held up by it; inf: nobody is."""
        return min(self.waiters.values(), default=math.inf)

    @property
    def settled(self) -> bool:
        return self.gone or self.state in DONE_STATES


class Watcher:
    """See the module. `start` is called by the first look; everything else follows."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._reset()
        _watchers.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._watches: weakref.WeakValueDictionary[int, Watch] = weakref.WeakValueDictionary()
        self._recent: dict[int, tuple[JobState, int | None]] = {}
        self._stream: EventStream | None = None
        self._kick = threading.Event()
        self._error: BalsamError | None = None
        self._notice = WaitingNotice(self._explain)
        self._connection = os.getpid() << 32  # a forked child must not take its parent's numbers for its own
        self._is_greeted = False  # `_connection` is the number of the stream that is up, not of the one before
        self._threads: list[threading.Thread] = []

    @property
    def epoch(self) -> int | None:
        """The current connection of the stream; None while it is down."""
        stream = self._stream
        return self._connection if self._is_greeted and stream is not None and stream.connected else None

    def look(self, job: "Job") -> None:
        """Take over into `job` what is known of it. Sends nothing, waits for nothing."""
        watch = self._watch_of(job)
        self.check()
        self.take_over(job, watch)

    def completed(self, jobs: "Sequence[Job]", timeout: float | None) -> "Iterator[Job]":
        """Yield the Jobs as they become done; end when all are, or after `timeout` seconds.

        Raises `Job.DoesNotExist` for one that was deleted, Unauthorized and the like when watching is not possible.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        inbox: SimpleQueue[int | None] = SimpleQueue()
        completions = Completions(self, jobs, inbox)
        try:
            yield from completions.done
            while completions.are_open:
                try:
                    job_id = inbox.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
                except Empty:
                    return
                yield from completions.take(job_id)
        finally:
            completions.close()

    def check(self) -> None:
        """Raises what ended the watching, if anything did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop the threads; waiters end with an error."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        self._fail(ServiceUnavailable("the client was closed"))

    def enter(self, job: "Job", inbox: Inbox, *, is_awaited: bool = True) -> Watch:
        """Have the Job's id put into `inbox` when it is done. `is_awaited`: somebody is held up by it, and is told why
        when it does not go on."""
        watch = self._watch_of(job)
        with self._lock:
            watch.waiters[inbox] = time.monotonic() if is_awaited else math.inf
            if watch.settled:  # it was done before the waiter was there
                inbox.put(watch.job_id)
            elif self._error is not None:
                inbox.put(None)
        return watch

    def leave(self, watches: Iterable[Watch], inbox: Inbox) -> None:
        """Put nothing into `inbox` any more."""
        with self._lock:
            for watch in watches:
                watch.waiters.pop(inbox, None)

    def _watch_of(self, job: "Job") -> Watch:
        self._start()
        watch = job._watch
        if watch is not None and watch.pid == os.getpid():
            return watch
        row = job._row or {}
        with self._lock:
            watch = self._watches.get(job.id)
            if watch is None:
                watch = Watch(job.id, row["state"], row["return_code"])
                self._watches[job.id] = watch
            pushed = self._recent.get(job.id)
            epoch = self.epoch
            if epoch is not None and job._known_in == epoch:
                watch.sure = True  # every change since it was read was pushed to us
                if pushed is not None and not watch.version:
                    self._set(watch, *pushed)
        job._watch, job._seen = watch, 0
        if not watch.sure:
            self._kick.set()
        return watch

    def take_over(self, job: "Job", watch: Watch) -> None:
        """Let the Job know what is known of it."""
        if watch.version != job._seen:
            job._seen = watch.version
            job._observed(watch.state, watch.return_code)

    def _start(self) -> None:
        if self._threads and all(thread.is_alive() for thread in self._threads):
            return
        with self._lock:
            if self._threads and all(thread.is_alive() for thread in self._threads):
                return
            self._error = None
            stream = self._client.transport.stream("/jobs/stream")
            stream.on_drop = self._dropped
            self._is_greeted = False
            self._stream = stream
            self._kick.set()
            self._threads = [
                threading.Thread(target=target, args=(stream,), name=f"balsam-{name}", daemon=True)
                for name, target in (("reader", self._read_stream), ("poller", self._poll))
            ]
            for thread in self._threads:
                thread.start()

    def _read_stream(self, stream: "EventStream") -> None:
        try:
            for event in stream:
                if event.name == StreamEvent.HELLO:
                    self._connected()
                elif event.name == StreamEvent.STATES:
                    self._pushed(JobStates.model_validate_json(event.data, extra="ignore"))
        except BalsamError as error:
            self._fail(error)
        except Exception as error:
            logger.exception("the Jobs stream ended")
            self._fail(BalsamError(f"the Jobs stream ended: {error}"))
        finally:
            stream.close()
            self._kick.set()

    def _connected(self) -> None:
        with self._lock:
            self._connection += 1
            self._is_greeted = True
            self._recent.clear()
            self._doubt_all()  # what happened before the subscription was in place was not pushed

    def _dropped(self) -> None:
        with self._lock:
            self._is_greeted = False
            self._doubt_all()

    def _doubt_all(self) -> None:
        """Called with the lock."""
        for watch in list(self._watches.values()):
            watch.sure = False
        self._kick.set()

    def _pushed(self, states: JobStates) -> None:
        with self._lock:
            for job_id, state, return_code in states.jobs:
                self._recent[job_id] = (state, return_code)
                watch = self._watches.get(job_id)
                if watch is not None:
                    self._set(watch, state, return_code)
            if len(self._recent) > MAX_RECENT:
                self._recent.clear()
                self._connection += 1  # what was read before this can't be vouched for any more

    def _set(self, watch: Watch, state: JobState, return_code: int | None) -> None:
        """Called with the lock."""
        watch.state, watch.return_code, watch.state_since = state, return_code, time.monotonic()
        watch.version += 1
        if watch.settled:
            self._wake(watch)

    def _wake(self, watch: Watch) -> None:
        for inbox in watch.waiters:
            inbox.put(watch.job_id)
        watch.waiters.clear()

    def _fail(self, error: BalsamError) -> None:
        with self._lock:
            self._error = error
            for watch in list(self._watches.values()):
                for inbox in watch.waiters:
                    inbox.put(None)

    def _poll(self, stream: "EventStream") -> None:
        """Read what may have been missed: all open watches each period, unsure ones as soon as they appear."""
        everything = True
        while not stream.closed:
            self._kick.clear()
            try:
                self._read_again(everything)
            except ServiceUnavailable as error:
                logger.debug("the states of watched Jobs can't be read: %s", error)
            except BalsamError as error:
                self._fail(error)
                stream.close()
            everything = self._is_left_alone(stream)

    def _is_left_alone(self, stream: "EventStream") -> bool:
        """Until it is time for all open watches, or somebody has one that is not sure; whether it is the former."""
        end = time.monotonic() + (SAFETY_POLL_SEC if stream.connected else DOWN_POLL_SEC)
        while True:
            if stream.connected and self._notice.is_due():
                with self._lock:
                    question = self._notice.question(list(self._watches.values()))
                if question is not None:
                    self._notice.tell(question)
            left = end - time.monotonic()
            if left <= 0:
                return True
            if self._kick.wait(min(left, LOOK_SEC)):
                return False

    def _explain(self, job_id: int) -> JobExplanation:
        path = f"/jobs/{job_id}/explain"
        return self._client.transport.request("GET", path, reply=JobExplanation, deadline_sec=READ_DEADLINE_SEC)

    def _read_again(self, everything: bool) -> None:
        with self._lock:
            wanted = [
                (watch.job_id, watch.version)
                for watch in list(self._watches.values())
                if not watch.settled and (everything or not watch.sure)
            ]
            epoch = self.epoch
        for start in range(0, len(wanted), READ_AT_ONCE):
            part = dict(wanted[start : start + READ_AT_ONCE])
            query = ReReadQuery(id=list(part), limit=len(part), with_count=False)
            page = self._client.transport.search("/jobs", query, reply=JobsPage, deadline_sec=READ_DEADLINE_SEC)
            self._take_page(part, page, epoch)

    def _take_page(self, asked: dict[int, int], page: JobsPage, epoch: int | None) -> None:
        found = {view.id: view for view in page.results}
        with self._lock:
            for job_id, version in asked.items():
                watch = self._watches.get(job_id)
                if watch is None:
                    continue
                watch.sure = epoch is not None and epoch == self.epoch
                view = found.get(job_id)
                if view is None:
                    watch.gone = True
                    self._wake(watch)
                elif watch.version == version and (view.state, view.return_code) != (watch.state, watch.return_code):
                    self._set(watch, view.state, view.return_code)  # not when a push came meanwhile: it is newer


_watchers: "weakref.WeakSet[Watcher]" = weakref.WeakSet()


def _reset_in_child() -> None:
    for watcher in list(_watchers):
        watcher._reset()


def _close_all() -> None:
    for watcher in list(_watchers):
        stream = watcher._stream
        if stream is not None:
            stream.close()


os.register_at_fork(after_in_child=_reset_in_child)
atexit.register(_close_all)
