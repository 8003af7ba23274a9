"""Processing: the hooks of Jobs, from the service's grant to its acknowledgement of the verdict.

The agent holds a Session for it, with the same numbers, tokens and outbox as a launcher; `run_once` is one pass and
never waits for a hook. A verdict is on disk before it is told, and told until it is acknowledged, whatever happens to
agent and service (S1, S3). Nothing runs under a lease that is over (S6). What a dead agent left is handed in by the
next one, which ends its Session at once.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue

from balsam.client.outbox import OutboxError
from balsam.domain.clock import Clock
from balsam.site.crash_points import crash_point
from balsam.site.hook_workers import HookOrder, NotBegun, Workers
from balsam.site.processing_link import HookService, SessionOver
from balsam.site.service import ServiceAway
from balsam.site.services import hook_records
from balsam.site.services.hook_apps import HookApps, HooksRefused
from balsam.site.services.hook_session import Holder, HookSession, settle_others
from balsam.wire.limits import MAX_ACQUIRE
from balsam.wire.sessions import GrantedJob

log = logging.getLogger(__name__)

POLL_SEC = 60.0
LOOK_AGAIN_SEC = 1.0
HELD_PER_WORKER = 16  # so many Jobs in reserve make the calls for them cheap


class Processing:
    """The hooks of one Site. One thread calls `run_once` and `close`; the other methods may be called from anywhere."""

    def __init__(
        self,
        directory: Path,
        service: HookService,
        workers: Workers,
        apps: HookApps,
        clock: Clock,
        most_held: int,
        holder: Holder,
        is_dead: Callable[[Holder], bool],
    ) -> None:
        self._directory = directory
        self._service = service
        self._workers = workers
        self._apps = apps
        self._clock = clock
        self._most_held = min(most_held, MAX_ACQUIRE)
        self._holder = holder
        self._is_dead = is_dead
        self._session: HookSession | None = None
        self._key = ""
        self._waiting: deque[GrantedJob] = deque()
        self._given_up: dict[int, bool] = {}  # hooks that are being stopped: whether the Job is to be handed back
        self._facts: list[hook_records.Fact] = []  # not on disk yet
        self._news: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._ask_at = 0.0
        self._others_at = 0.0
        self._stores = True
        self._is_alone = False

    # From any thread

    def hint(self) -> None:
        """There may be Jobs that wait for a hook."""
        self._news.put(self._ask_soon)

    def cancel(self, job_ids: Iterable[int]) -> None:
        """Users want the end of these Jobs."""
        ids = list(job_ids)
        self._news.put(lambda: self._stop(ids))

    def renew(self) -> float:
        """Renew the lease; seconds until the next time. Raises ServiceAway."""
        session = self._session
        if session is None:
            return POLL_SEC
        sent_at = self._clock.monotonic()
        try:
            reply = self._service.renew(session.id)
        except SessionOver as over:
            why = str(over)
            self._news.put(lambda: self._end_lease(session, why))
            return session.renew_sec
        self._news.put(lambda: self._renewed(session, sent_at))
        self.cancel(reply.cancel)
        return session.renew_sec

    # In the one thread

    @property
    def due_at(self) -> float:
        """When to call `run_once` again if nothing happens and the last pass was whole."""
        if self._session is None or self._facts:
            return 0.0
        if self._is_over(self._session):
            return self._clock.monotonic() + LOOK_AGAIN_SEC
        times = [self._others_at, self._session.lease.until or self._others_at]
        return min([*times, self._ask_at] if self._room() else times)

    def run_once(self) -> bool:
        """One pass. False when it was not whole: the service did not answer, the disk is full, no process started."""
        while not self._news.empty():
            self._news.get()()
        self._collect()
        self._check_lease()
        try:
            return self._work()
        except (ServiceAway, OutboxError):
            return False
        except SessionOver as over:
            if self._session is not None:
                self._end_lease(self._session, str(over))
            self._check_lease()
            return False

    def start_over(self) -> None:
        """After a fault of our own: give up what is held, so that nothing of it can be forgotten."""
        if self._session is not None:
            self._end_lease(self._session, "the agent begins anew")

    def _work(self) -> bool:
        if self._session is not None and self._is_over(self._session):
            return True  # until the last hook under it is gone
        if not self._keep_session():
            return False
        self._begin()
        self._write()
        self._deliver()
        self._acquire()
        return self._begin()

    def close(self) -> None:
        """Hand in what is known and end the Session; all hooks were stopped. What can't be told is left for the next
        agent."""
        session = self._session
        if session is None:
            return
        try:
            self._collect()
            if self._is_over(session):
                session.abandon()
                return
            self._write()
            session.deliver()
            session.close("the agent stopped")
        except (ServiceAway, SessionOver, OutboxError) as error:
            log.info("the next agent hands in what came of hooks: %s", error)
            session.abandon()

    # The lease

    def _keep_session(self) -> bool:
        """Open a Session, end those of others; False while something of an agent that died still runs (S6)."""
        now = self._clock.monotonic()
        if self._session is not None and now < self._others_at:
            return True
        self._is_alone = self._is_alone or self._workers.kill_leftovers()
        if not self._is_alone:
            return False
        own = None if self._session is None else self._session.id
        settle_others(self._service, self._directory, own, self._is_dead)
        self._others_at = now + POLL_SEC
        if self._session is None:
            self._key = self._key or self._service.new_key()
            session = HookSession.open(self._service, self._directory, self._holder, self._key, self._clock)
            self._key, self._session, self._stores = "", session, True
            self._workers.lease_until(session.lease.until or 0.0)
            self._ask_soon()
        return True

    def _renewed(self, session: HookSession, sent_at: float) -> None:
        if session is self._session and session.lease.renewed(sent_at):
            self._workers.lease_until(session.lease.until or 0.0)

    def _is_over(self, session: HookSession) -> bool:
        return session.lease.is_over(self._clock.monotonic())

    def _end_lease(self, session: HookSession, why: str) -> None:
        log.warning("the lease for hooks is over: %s", why)
        session.lease.end()

    def _check_lease(self) -> None:
        """S6: once over, stop everything, tell nothing more under it, and begin anew when all of it is gone."""
        session = self._session
        if session is None or not self._is_over(session):
            return
        self._waiting.clear()
        self._facts.clear()
        for job_id in self._workers.running:
            self._give_up(job_id, hand_back=False)
        if not self._workers.running:
            session.abandon()
            self._session = None
            self._given_up.clear()

    # Hooks

    def _ask_soon(self) -> None:
        self._ask_at = 0.0

    def _room(self) -> int:
        """How many more Jobs to ask for; 0 while that is not worth a call."""
        room = self._most_held - len(self._waiting) - len(self._workers.running) - len(self._facts)
        return room if room >= (self._most_held + 1) // 2 and self._stores else 0

    def _acquire(self) -> None:
        now, room = self._clock.monotonic(), self._room()
        if self._session is None or now < self._ask_at or not room:
            return
        reply = self._session.acquire(room, dict(self._apps.known))
        crash_point("after-grant-before-hook")
        for app in reply.apps:
            self._apps.add(app)
        self._waiting.extend(reply.jobs)
        self._ask_at = now if len(reply.jobs) >= room else now + POLL_SEC

    def _begin(self) -> bool:
        """Start hooks for as long as a worker is free; False when no process is to be had now."""
        while self._stores and self._waiting and self._workers.free > 0:
            job = self._waiting.popleft()
            try:
                self._begin_one(job)
            except (HooksRefused, NotBegun) as error:
                self._facts.append(hook_records.failed(job, job.hook, str(error), self._at()))
            except OSError as error:
                log.error("no hook can be run now: %s", error.strerror or error)
                self._waiting.appendleft(job)
                return False
        return True

    def _begin_one(self, job: GrantedJob) -> None:
        app = self._apps.get(job.app_id)
        if app is None or job.hook is None:
            self._facts.append(hook_records.absent(job, self._at()))
            return
        self._workers.start(HookOrder(job.id, job.token, job.hook.value, job.attempt, job.workdir, app))

    def _collect(self) -> None:
        """What came of the hooks that have ended."""
        for end in self._workers.ends():
            handed_back = self._given_up.pop(end.order.job_id, None)
            if handed_back is None:
                self._facts.append(hook_records.concluded(end, self._at()))
            elif handed_back:
                self._facts.append(hook_records.released(end.order, self._at()))

    def _stop(self, job_ids: Iterable[int]) -> None:
        """Cancelled Jobs are handed back when nothing of their hooks lives."""
        wanted = set(job_ids)
        for job in [job for job in self._waiting if job.id in wanted]:
            self._waiting.remove(job)
            self._facts.append(hook_records.released(job, self._at()))
        for job_id in wanted & self._workers.running.keys():
            self._give_up(job_id, hand_back=True)

    def _give_up(self, job_id: int, *, hand_back: bool) -> None:
        if job_id not in self._given_up:
            self._given_up[job_id] = hand_back
            self._workers.stop(job_id)

    # Records

    def _write(self) -> None:
        """Write down what is known. Raises OutboxError; while the disk is full no hook begins (F10)."""
        if self._session is None or not self._facts:
            return
        crash_point("after-hook-before-record")
        try:
            self._session.record(self._facts)
        except OutboxError as error:
            if self._stores:
                log.error("%s; no hook begins until verdicts can be kept again", error)
            self._stores = False
            raise
        self._facts, self._stores = [], True
        crash_point("after-record-before-verdict-report")

    def _deliver(self) -> None:
        if self._session is None or not self._session.undelivered:
            return
        # A record that was fenced (S7) is of a hook that has ended: nothing of it is left to stop.
        self._stop(self._session.deliver())

    def _at(self) -> str:
        return self._clock.now().isoformat()
