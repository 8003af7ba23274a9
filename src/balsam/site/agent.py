"""The agent: keeps a Site served until it is told to stop.

One loop does the Site's work, woken by the service's pushes, by the scheduler and by a slow safety poll; it sleeps
otherwise. Beside it run three threads that must never wait for that work: the stream, the agent's lease, and the files.
Nothing the service or the scheduler does ends the agent; only a signal does, or another agent that holds the lease.
It may die at any instant: the next one goes on from the ledger (L4).
"""

import logging
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from pydantic import ValidationError

from balsam.client.errors import BalsamError
from balsam.client.transport import EventStream, ServerEvent
from balsam.domain.clock import Clock
from balsam.platform.scheduler.base import Scheduler
from balsam.site.directory import SiteError
from balsam.site.lock import AgentLock, AgentStatus
from balsam.site.processing_loop import ProcessingLoop
from balsam.site.service import AnotherAgent, ServiceAway, ServiceLink
from balsam.site.services.allocations import Allocations
from balsam.site.services.batch_jobs import BatchJobs
from balsam.site.services.cleanup import FileCleaner
from balsam.site.services.files import Files
from balsam.site.services.scaling import Scaling
from balsam.site.services.submission import Submission
from balsam.site.services.transfers import Transfers
from balsam.wire.sites import AgentLeaseReply, AgentLeaseRequest, FileRequest, SitePatch
from balsam.wire.stream import JobIds, StreamEvent

log = logging.getLogger(__name__)

FIRST_PAUSE_SEC = 0.25
LONGEST_PAUSE_SEC = 5.0
RENEW_AGAIN_SEC = 5.0
REFUSED_STREAM_SEC = 15.0


class Agent:
    """One Site's agent. `run` returns after `stop`, which may be called from a signal handler or another thread.

    `on_status` hears of every change of the agent's state; `offer` is what the Site tells the service about itself.
    `tidy_up` is called after each pass, `reload_wanted` before the next.
    """

    def __init__(
        self,
        lock: AgentLock,
        link: ServiceLink,
        scheduler: Scheduler,
        batch_jobs: BatchJobs,
        allocations: Allocations,
        submission: Submission,
        files: Files,
        transfers: Transfers,
        processing: ProcessingLoop | None,
        cleaner: FileCleaner | None,
        scaling: Scaling,
        offer: SitePatch,
        sync_period_sec: float,
        clock: Clock,
        on_status: Callable[[AgentStatus], None] = lambda status: None,
        reload_wanted: Callable[[], bool] = lambda: False,
        tidy_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._lock = lock
        self._link = link
        self._scheduler = scheduler
        self._batch_jobs = batch_jobs
        self._allocations = allocations
        self._submission = submission
        self._files = files
        self._transfers = transfers
        self._processing = processing
        self._cleaner = cleaner
        self._scaling = scaling
        self._offer: SitePatch | None = offer
        self._period_sec = sync_period_sec
        self._clock = clock
        self._on_status = on_status
        self._reload_wanted = reload_wanted
        self._reloading = False
        self._tidy_up = tidy_up
        self._wakes: SimpleQueue[str] = SimpleQueue()
        self._stopping = threading.Event()
        self._ousted = ""
        self._stream: EventStream | None = None
        self._url = link.url

    def run(self) -> bool:
        """Serve until stopped; True when it is to begin anew with other settings, for which it keeps its claims.

        Raises SiteError when another agent holds the Site's lease.
        """
        self._say("starting")
        lease = self._first_lease()
        if lease is None:
            self._link.close()
            if not self._reloading:
                self._say("stopped")
            return self._reloading
        self._say("running")
        watches = self._scheduler.watch(lambda scheduler_id: self._wakes.put("scheduler"))
        self._allocations.is_polled = not watches
        self._files.start()
        self._transfers.start()
        if self._processing is not None:
            self._processing.start()
        if self._cleaner is not None:
            self._cleaner.start()
        threads = [
            threading.Thread(target=self._follow_stream, name="balsam-stream", daemon=True),
            threading.Thread(target=self._renew, args=(lease,), name="balsam-lease", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            self._work()
        finally:
            self._end()
        if self._ousted:
            raise SiteError(f"{self._ousted}; this agent stops")
        return self._reloading

    def look(self) -> None:
        """Look now whether settings are to be loaded again. May be called from any thread."""
        self._wakes.put("look")

    def stop(self) -> None:
        """Ask `run` to return soon. Allocations run on."""
        self._stopping.set()
        self._wakes.put("stop")

    def _first_lease(self) -> AgentLeaseReply | None:
        """The service's word that this is the Site's agent; None when stopped before. Raises SiteError."""
        candidates = [*self._lock.dead_instances, ""]
        pause_sec = FIRST_PAUSE_SEC
        while not self._stopping.is_set():
            try:
                return self._link.hold_agent_lease(self._claim(candidates[0]))
            except AnotherAgent as error:
                if len(candidates) == 1:
                    text = f"{error}. If that agent is dead, its claim ends by itself; try again then"
                    raise SiteError(text) from error
                candidates.pop(0)
            except ServiceAway as away:
                self._say("waiting", str(away))
                if self._begins_anew():
                    return None
                self._stopping.wait(pause_sec)
                pause_sec = min(pause_sec * 2, LONGEST_PAUSE_SEC)
        return None

    def _claim(self, replaces: str = "") -> AgentLeaseRequest:
        return AgentLeaseRequest(
            instance=self._lock.instance, hostname=os.uname().nodename, pid=os.getpid(), replaces=replaces
        )

    def _work(self) -> None:
        list_at = poll_at = 0.0
        pause_sec = FIRST_PAUSE_SEC
        reasons = {"start"}
        while not self._stopping.is_set():
            now = self._clock.monotonic()
            listing = "service" in reasons or now >= list_at
            polling = "scheduler" in reasons or (now >= poll_at and self._allocations.any_open)
            heard = self._pass(listing=listing, polling=polling)
            now = self._clock.monotonic()
            if listing:
                list_at = now + self._period_sec
            if polling:
                poll_at = now + self._period_sec
            unfinished = not heard or self._batch_jobs.has_unfinished_business
            if unfinished:
                wait_sec, pause_sec = pause_sec, min(pause_sec * 2, LONGEST_PAUSE_SEC)
                if not heard:
                    list_at = min(list_at, now + wait_sec)
            else:
                pause_sec = FIRST_PAUSE_SEC
                wait_sec = min(list_at - now, self._scaling.wait_sec)
            if self._allocations.any_open:
                wait_sec = min(wait_sec, poll_at - now)
            reasons = self._wait(min(wait_sec, list_at - now))
            if not self._stopping.is_set() and self._begins_anew():
                return

    def _begins_anew(self) -> bool:
        self._reloading = self._reload_wanted()
        return self._reloading

    def _pass(self, *, listing: bool, polling: bool) -> bool:
        """One pass over the Site's duties. Whatever goes wrong in it, there will be another one."""
        try:
            heard = self._batch_jobs.run_once(listing=listing, polling=polling)
            if heard and self._offer is not None:
                self._link.update_site(self._offer)
                self._offer = None
            if heard and self._scaling.run_due():
                self._wakes.put("service")
            self._tidy_up()
        except ServiceAway:
            heard = False
        except Exception:
            log.exception("a pass of the agent failed; the next one tries again")
            heard = False
        if self._link.url != self._url:
            self._url = self._link.url
            self._submission.move_service(self._url)
        return heard

    def _wait(self, seconds: float) -> set[str]:
        """Sleep until woken or time is up; why we were woken."""
        try:
            reasons = {self._wakes.get(timeout=max(0.0, seconds))}
        except Empty:
            return set()
        while not self._wakes.empty():
            reasons.add(self._wakes.get())
        return reasons

    def _follow_stream(self) -> None:
        while True:
            self._stream = self._link.events()
            if self._stopping.is_set():  # else `_end` closes this one
                return
            try:
                for event in self._stream:
                    self._heard(event)
            except BalsamError as error:
                self._link.trouble(error)
                self._stopping.wait(REFUSED_STREAM_SEC)
            except Exception:
                log.exception("the stream of the service failed; opening it again")
                self._stopping.wait(REFUSED_STREAM_SEC)

    def _heard(self, event: ServerEvent) -> None:
        if event.name == StreamEvent.FILE_REQUEST:
            try:
                self._files.ask(FileRequest.model_validate_json(event.data, extra="ignore"))
            except ValidationError as error:
                log.warning("a file request of the service can't be understood: %s", error)
        elif event.name == StreamEvent.CANCEL:
            if self._processing is not None:
                self._processing.cancel(JobIds.model_validate_json(event.data, extra="ignore").job_ids)
        elif event.name in (StreamEvent.HELLO, StreamEvent.BATCH_JOBS):
            self._wakes.put("service")
        if event.name in (StreamEvent.HELLO, StreamEvent.TRANSFERS):
            self._transfers.look()
        if self._processing is not None and event.name in (StreamEvent.HELLO, StreamEvent.HOOKS):
            self._processing.hint()

    def _renew(self, lease: AgentLeaseReply) -> None:
        pause_sec = lease.renew_sec
        while not self._stopping.wait(pause_sec):
            try:
                pause_sec = self._link.hold_agent_lease(self._claim()).renew_sec
            except ServiceAway:
                pause_sec = min(RENEW_AGAIN_SEC, lease.renew_sec)
            except AnotherAgent as error:
                # This one was frozen or cut off for so long that another one took over (F27).
                self._ousted = str(error)
                log.error("%s; this agent stops", error)
                self.stop()
            except Exception:
                log.exception("renewing the agent's lease failed; trying again")
                pause_sec = RENEW_AGAIN_SEC

    def _end(self) -> None:
        self._stopping.set()
        if self._stream is not None:
            self._stream.close()
        self._files.close()
        self._transfers.close()
        if self._processing is not None:
            self._processing.stop()
        if self._cleaner is not None:
            self._cleaner.close()
        self._scheduler.close()
        if not self._ousted and not self._reloading:
            try:
                self._link.release_agent_lease(self._lock.instance)
            except ServiceAway:
                log.info("the service did not hear that this agent stops; its claim ends by itself")
        if not self._reloading:
            self._say("stopped", self._ousted)
        self._link.close()

    def _say(self, state: str, detail: str = "") -> None:
        self._on_status(self._lock.say(state, self._clock.now().isoformat(), detail))
