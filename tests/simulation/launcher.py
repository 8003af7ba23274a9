"""The launcher in the simulation: the real machine, the real side towards the service with its real outbox and reports.

Only what the kernel of a machine does is played: processes, pipes, sockets. `SimLauncher` is to `launcher/loop.py` what
`SimCourier` is to `launcher/courier.py`: the same order of acts, written for simulated time.
"""

from __future__ import annotations

import contextlib
import json
import select
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from balsam.client.errors import BalsamError, NotFound, ServiceUnavailable, SessionEnded, Unauthorized
from balsam.client.outbox import BATCH_RECORDS, PATTERN, OutboxError, outbox_path, read_outbox
from balsam.launcher.apps import AppShelf
from balsam.launcher.courier import DOUBT_SEC, LONGEST_PAUSE_SEC, RENEW_TRY_SEC, TRY_SEC
from balsam.launcher.fleet import Fleet
from balsam.launcher.loop import CLOSE_SEC, EXIT_LEASE
from balsam.launcher.machine import Machine
from balsam.launcher.machine_messages import (
    Acquire,
    Drain,
    Exited,
    ExitReason,
    Gone,
    Input,
    NodesLost,
    Note,
    Output,
    Record,
    Signal,
    Start,
    Started,
)
from balsam.launcher.partition import Partition
from balsam.launcher.service_side import ServiceSide
from balsam.server.usecases import acquire, sessions
from balsam.wire.sessions import (
    AcquireRequest,
    Report,
    ReportRecord,
    SessionClose,
    SessionCreate,
    SessionView,
)
from tests.simulation.disk import SimPath
from tests.simulation.kernel import Mailbox, Process, Task
from tests.simulation.machine_room import MachineRoom, Rank
from tests.simulation.nodes import HUB_FD, WATCH_FD, NoEpoll, SimHub, SimWatch, luck_of_a_start
from tests.simulation.service import Network

if TYPE_CHECKING:
    from tests.simulation.guardian import SimGuardian
    from tests.simulation.world import World

OVER = (SessionEnded, NotFound, Unauthorized)
EXIT_FAULT, EXIT_CONFIG = 1, 78
_COURIER_FD = 7


@lru_cache(maxsize=1000)
def _token_in(credentials: bytes) -> str:
    token: str = json.loads(credentials)["token"]
    return token


class SimLauncher(Process):
    """The loop's process."""

    def __init__(
        self, world: World, room: MachineRoom, partition: Partition, guardian: SimGuardian, end: float
    ) -> None:
        super().__init__(world.kernel, f"launcher of {room.name}")
        self.world, self.room, self.partition, self.guardian = world, room, partition, guardian
        self.clock = room.clock
        self.random = room.random
        self.machine = Machine(partition.machine_settings(end))
        self.session_id: int | None = None
        self.courier: SimCourier | None = None
        self.told_lost: set[int] = set()  # nodes, to the machine
        self.inputs: list[Input] = []
        self._end = end
        self._is_restart = guardian.restarts > 0
        self._ranks: dict[int, Rank] = {}
        self._orders: dict[int, Start] = {}
        self._doubtful: set[int] = set()
        self._hub: SimHub | None = None
        self._watch = SimWatch(self) if len(partition.nodes) > 1 else None
        apps = AppShelf(None)
        self._fleet: Fleet | None = None
        if partition.is_spread:
            self._fleet = Fleet(NoEpoll(), partition, apps, room.name, end, self.clock, self.inputs, self._make_hub)  # type: ignore[arg-type]
        self._told_until: float | None = None
        self._turn = 0
        self._give_up_at: float | None = None
        self._is_orphaned = False
        self.service = ServiceSide(
            NoEpoll(),  # type: ignore[arg-type]
            partition,
            apps,
            self._make_courier,
            self.clock,
            self.inputs,
        )
        self.after(self.random.uniform(0.2, 1.0), self.turn)

    def die(self) -> None:
        super().die()
        if self.courier is not None:
            self.courier.die()
        if self._hub is not None:
            self._hub.die()
        self.guardian.launcher_died()

    def _exit(self, status: int) -> None:
        self.guardian.status = status
        self.die()

    def _make_courier(self, errand: dict[str, Any]) -> SimCourier:
        self.courier = SimCourier(self, errand)
        self.room.add(self.courier)
        return self.courier

    def _make_hub(self, argv: list[str]) -> Any:
        self._hub = SimHub(self)
        return self._hub

    # The loop

    def turn(self) -> None:
        """As `Loop._turn`, after it was woken."""
        if self._is_orphaned:
            return
        self._turn += 1
        self.world.disk.writer = self.room.name
        now = self.clock.monotonic()
        try:
            if self._give_up_at is not None:
                self._goodbye(now)
                return
            if self._may_report():
                self.service.ensure_courier(now)
            self._look_at_nodes(now)
            self._decide()
            if self._fleet is not None:
                self._fleet.flush()
            self.service.flush(now, self.machine.is_idle)
        except OutboxError as error:
            self.world.say(f"{self.name}: {error}")
            self._exit(EXIT_FAULT)
            return
        self._tell_guardian()
        if self.service.refused:
            self.world.say(f"{self.name}: refused: {self.service.refused}")
            self._exit(EXIT_CONFIG)
        elif self._fleet is not None and self._fleet.failed:
            self.world.say(f"{self.name}: {self._fleet.failed}")
            self.service.flush_reports(now)
            self._exit(EXIT_FAULT)
        elif self.machine.exit is not None:
            self._begin_goodbye(now)
        else:
            others = [one.due() for one in (self._watch, self._fleet) if one is not None]
            service_at = self.service.due(self.machine.is_idle) if self._may_report() else None
            self._wake_at([self.machine.wake_at(), service_at, *others])

    def _may_report(self) -> bool:
        return self._fleet is None or not self._is_restart or self._fleet.is_settled

    def _look_at_nodes(self, now: float) -> None:
        if self._fleet is not None:
            if self._hub is not None and self._hub.is_readable:
                self._fleet.heard(HUB_FD)
            self._fleet.sweep(now)
        if self._watch is not None:
            self._watch.tick(now)
        for said in self.inputs:
            if isinstance(said, NodesLost):
                self.told_lost.update(said.nodes)

    def hear_watch(self) -> None:
        """The question which nodes are left has its answer."""
        if self._watch is not None:
            self._watch.heard(WATCH_FD)
            self.turn()

    def hear_hub(self) -> None:
        """The hub's socket is readable."""
        self.turn()

    def _wake_at(self, times: list[float | None]) -> None:
        until = min((time for time in times if time is not None), default=None)
        if until is not None:
            self.after(self.clock.delay_until(until), self._wake, self._turn)

    def _wake(self, turn: int) -> None:
        if turn == self._turn:
            self.turn()

    def _decide(self) -> None:
        first = True
        while first or self.inputs:
            first = False
            heard = self.inputs.copy()
            self.inputs.clear()
            for output in self.machine.step(self.clock.monotonic(), heard):
                self._carry_out(output)

    def _carry_out(self, output: Output) -> None:
        match output:
            case Start():
                self._start(output)
            case Record():
                self.service.report(output)
            case Acquire():
                self.service.acquire(output)
            case Signal():
                self._signal(output)
            case Note():
                self.world.say(f"{self.name}: {output.text}")

    def _tell_guardian(self) -> None:
        lease = self.machine.lease
        if lease is not None and lease.until != self._told_until:
            self._told_until = lease.until
            self.guardian.take_line(json.dumps({"lease_until": lease.until}).encode())
            if self._fleet is not None:
                self._fleet.lease(lease.until)

    def drain(self, why: str) -> None:
        """SIGTERM."""
        self.after(0.001, self._hear, Drain(why))

    def orphaned(self) -> None:
        """The guardian is gone: as `Loop._orphaned`, which hears of nothing any more, nor of the ends that it makes."""
        self._is_orphaned = True
        self.room.kill_all_ranks()
        self.after(0.5, self._leave_orphaned)

    def _leave_orphaned(self) -> None:
        self.service.flush_reports(self.clock.monotonic())
        self.die()

    def _begin_goodbye(self, now: float) -> None:
        exit_ = self.machine.exit
        assert exit_ is not None
        self.world.say(f"{self.name} ends: {exit_.text}")
        if self._fleet is not None:
            self._fleet.close()
        if self._watch is not None:
            self._watch.close()
        self._give_up_at = min(now + CLOSE_SEC, self._end - self.partition.margin_sec * 0.2)
        self.service.flush_reports(now)
        if exit_.reason is not ExitReason.LEASE_ENDED:
            self.service.close(exit_.reason.value)
        else:
            self._give_up_at = now
        self._goodbye(now)

    def _goodbye(self, now: float) -> None:
        assert self._give_up_at is not None
        if self.service.can_close and not self.service.is_closed and now < self._give_up_at:
            self.service.flush(now, True)
            self._wake_at([self._give_up_at, self.service.due(True)])
            return
        self.service.leave()
        exit_ = self.machine.exit
        self._exit(EXIT_LEASE if exit_ is not None and exit_.reason is ExitReason.LEASE_ENDED else 0)

    def _hear(self, *heard: Input) -> None:
        self.inputs.extend(heard)
        self.turn()

    def hear_courier(self) -> None:
        """The courier's socket is readable."""
        self.world.disk.writer = self.room.name
        try:
            self.service.heard(_COURIER_FD, select.EPOLLIN)
        except OutboxError as error:
            self.world.say(f"{self.name}: {error}")
            self._exit(EXIT_FAULT)
            return
        self.turn()

    # Children

    def _start(self, order: Start) -> None:
        job = order.job
        self.world.checkers.placed(self, order)
        if self._fleet is not None:
            self._fleet.start(order)
            return
        failed = luck_of_a_start(self.random.random(), job.id)
        if failed is None:
            self._orders[job.id] = order
            self._ranks[job.id] = self.room.start_rank(self, job, order.placement)
        self.inputs.append(failed or Started(job.id))

    def _signal(self, order: Signal) -> None:
        if self._fleet is not None:
            self._fleet.signal(order)
            return
        rank = self._ranks.get(order.job_id)
        if rank is None:
            return
        if order.kill:
            rank.kill()
        else:
            rank.terminate(self.clock.delay_until(order.kill_at))

    def child_exited(self, rank: Rank, code: int) -> None:
        is_killed = rank.kill_at is not None or rank.doomed  # by us, not by the sweep that follows its end
        self.after(0.001, self._child_exited, rank, code, is_killed)

    def _child_exited(self, rank: Rank, code: int, is_killed: bool) -> None:
        """As Children: whether a node was lost is asked before the end counts."""
        job_id = rank.job.id
        is_asked = self._ranks.get(job_id) is rank and not is_killed
        if is_asked and self._watch is not None and self._watch.is_doubtful(self._orders[job_id], code):
            self._doubtful.add(job_id)
        self._hear(Exited(job_id, code))

    def child_gone(self, rank: Rank) -> None:
        self.after(0.002, self._child_gone, rank)

    def _child_gone(self, rank: Rank) -> None:
        if self._ranks.get(rank.job.id) is rank:
            del self._ranks[rank.job.id]
            if rank.job.id in self._doubtful and self._watch is not None:
                self._doubtful.discard(rank.job.id)
                self._watch.doubt(Gone(rank.job.id), self._orders[rank.job.id])
                self.turn()
            else:
                self._hear(Gone(rank.job.id))


class SimCourier(Process):
    """The courier's process and the loop's end of its socket (a CourierLink)."""

    def __init__(self, launcher: SimLauncher, errand: Mapping[str, Any]) -> None:
        super().__init__(launcher.kernel, f"courier of {launcher.room.name}")
        self.launcher, self.world, self.errand = launcher, launcher.world, errand
        self.network = Network(launcher.world, f"{launcher.room.name} {launcher.kernel.now}", launcher.room.line)
        self.random = launcher.random
        self.messages: list[dict[str, Any]] = []
        self._acquires = Mailbox(self.kernel)
        self._records = Mailbox(self.kernel)
        self._renewals = Mailbox(self.kernel)
        self._closing: str | None = None
        self._over = False
        self._session = 0
        self._renew_sec = 0.0
        self._loop_is_told = False
        self.after(0.3, self.spawn, self._guarded(self._open()))

    # The loop's end

    wants_to_send = False

    def fileno(self) -> int:
        return _COURIER_FD

    def flush(self) -> None:
        pass

    def send(self, order: Mapping[str, Any]) -> None:
        order = json.loads(json.dumps(order))
        self.after(0.0005, self._take, order)

    def send_records(self, records: list[bytes]) -> None:
        self.after(0.0005, self._take, {"do": "records", "records": [json.loads(record) for record in records]})

    def receive(self) -> list[dict[str, Any]] | None:
        messages, self.messages = self.messages, []
        return messages or (None if not self.alive else [])

    def close(self) -> None:
        super().die()
        self._stop_listening()

    def die(self) -> None:
        """Killed: the loop reads the end of file, after what was written."""
        if self.alive:
            super().die()
            self._stop_listening()
            self.launcher.after(0.001, self._ended)

    def _ended(self) -> None:
        if self.launcher.courier is self:
            self.launcher.hear_courier()
            if self.messages == [] and self.launcher.courier is self:
                self.launcher.hear_courier()

    def _say(self, **message: Any) -> None:
        self.messages.append(json.loads(json.dumps(message)))
        if not self._loop_is_told:
            self._loop_is_told = True
            self.launcher.after(0.0005, self._tell_loop)

    def _tell_loop(self) -> None:
        self._loop_is_told = False
        if self.messages and self.launcher.courier is self:
            self.launcher.hear_courier()

    # The courier's own threads

    def _take(self, order: dict[str, Any]) -> None:
        match order["do"]:
            case "acquire":
                self._acquires.put(order["request"])
            case "records":
                self._records.put(order["records"])
            case "close":
                self._closing = order["reason"]
                self._records.put([])

    def _guarded(self, task: Task) -> Task:
        try:
            yield from task
        except OVER as error:
            if not self._over:
                self._over = True
                self._say(**{"is": "ended", "reason": str(error)})

    def _token(self) -> str:
        file = self.world.disk.files.get(self.errand["credentials_path"])
        return "no credentials" if file is None else _token_in(file.synced)

    def _request(self, use: Any, patience_sec: float = TRY_SEC) -> Task:
        return self.network.request(self, self._token(), use, repeatable=True, patience_sec=patience_sec)

    def _until_answered(self, call: Callable[[], Task]) -> Task:
        doubtful_since: float | None = None
        while True:
            try:
                return (yield from call())
            except ServiceUnavailable:
                pass
            except (NotFound, Unauthorized):
                doubtful_since = self.kernel.now if doubtful_since is None else doubtful_since
                if self.kernel.now - doubtful_since > DOUBT_SEC:
                    raise
            yield self.sleep(self.random.uniform(0.3, 1.0) * LONGEST_PAUSE_SEC)

    def _open(self) -> Task:
        if self.errand["resume"] is not None:
            session = SessionView.model_validate(self.errand["resume"])
        else:
            try:
                yield from self._deliver_predecessors()
                session, sent_at = yield from self._create()
            except BalsamError as error:
                self._say(**{"is": "refused", "reason": str(error)})
                return
            self._say(**{"is": "opened", "sent_at": sent_at, "session": session.model_dump(mode="json")})
        self._session, self._renew_sec = session.id, session.renew_sec
        self.launcher.session_id = session.id
        for task in (self._acquire_loop(), self._report_loop(), self._renew_loop(), self._listen()):
            self.spawn(self._guarded(task))

    def _create(self) -> Task:
        body = SessionCreate.model_validate(self.errand["create"])
        key = f"{self.random.getrandbits(128):032x}"
        service = self.world.service

        def use(tx: Any, who: Any, now: Any) -> SessionView:
            return sessions.open_session(tx, who, body, now)

        def call() -> Task:
            sent_at = self.launcher.clock.monotonic()
            view = yield from self._request(service.created(key, body, SessionView, use))
            return view, sent_at

        return (yield from self._until_answered(call))

    def _deliver_predecessors(self) -> Task:
        for path in sorted(SimPath(self.errand["directory"]).glob(PATTERN)):
            try:
                contents = read_outbox(path)  # type: ignore[arg-type]
            except OutboxError:
                continue
            if contents.header.get("partition") != self.errand["partition"]:
                continue
            records = contents.records
            try:
                for start in range(0, len(records), BATCH_RECORDS):
                    yield from self._report_all(contents.session_id, records[start : start + BATCH_RECORDS])
                yield from self._close(contents.session_id, True, "its launcher died")
            except OVER:
                pass
            path.unlink(missing_ok=True)

    def _acquire_loop(self) -> Task:
        while True:
            yield self._acquires.wait()
            for request in self._acquires.take():
                body = AcquireRequest.model_validate(request)
                try:
                    reply = yield from self._until_answered(lambda body=body: self._request(self._acquire(body)))
                except OVER:
                    raise
                except BalsamError as error:
                    said = {"is": "acquire_refused", "acquire_seq": body.acquire_seq, "reason": str(error)}
                    self._say(**said)
                    continue
                self._say(**{"is": "granted", "reply": reply.model_dump(mode="json")})

    def _acquire(self, body: AcquireRequest) -> Any:
        return lambda tx, who, now: acquire.acquire_jobs(tx, who, self._session, body, now)

    def _report_loop(self) -> Task:
        waiting: list[dict[str, Any]] = []
        while True:
            if not waiting:
                yield self._records.wait()
            for records in self._records.take():
                waiting += records
            batch, waiting = waiting[:BATCH_RECORDS], waiting[BATCH_RECORDS:]
            if batch:
                yield from self._tell(batch)
            if self._closing is not None and not waiting and not self._records.items:
                with contextlib.suppress(*OVER):
                    yield from self._close(self._session, False, self._closing)
                self._say(**{"is": "closed"})
                return

    def _tell(self, batch: list[dict[str, Any]]) -> Task:
        file = self.world.disk.files.get(str(outbox_path(SimPath(self.errand["directory"]), self._session)))  # type: ignore[arg-type]
        if file is not None:
            file.synced = bytes(file.data)
        tokens = {record["job_id"]: record["token"] for record in batch}
        reply = yield from self._report_all(self._session, batch)
        fenced = [[job_id, tokens[job_id]] for job_id in reply.fenced if job_id in tokens]
        self._say(**{"is": "reported", "acked_seq": reply.acked_seq, "fenced": fenced, "cancel": reply.cancel})

    def _report_all(self, session: int, records: list[dict[str, Any]]) -> Task:
        body = Report(records=[ReportRecord.model_validate(record) for record in records])
        use = self.world.service.report(session, body)
        return (yield from self._until_answered(lambda: self._request(use)))

    def _close(self, session: int, lost: bool, reason: str) -> Task:
        body = SessionClose(lost=lost, reason=reason)

        def use(tx: Any, who: Any, now: Any) -> None:
            sessions.close_session(tx, who, session, body, now)

        yield from self._until_answered(lambda: self._request(use))

    def _renew_loop(self) -> Task:
        def use(tx: Any, who: Any, now: Any) -> Any:
            return sessions.renew_session(tx, who, self._session, now)

        def call() -> Task:
            sent_at = self.launcher.clock.monotonic()
            reply = yield from self._request(use, RENEW_TRY_SEC)
            return sent_at, reply

        while True:
            yield self._renewals.wait(self._renew_sec)
            self._renewals.take()
            sent_at, reply = yield from self._until_answered(call)
            self._say(**{"is": "renewed", "sent_at": sent_at, "cancel": reply.cancel})
            if reply.closing:
                self._say(**{"is": "closing"})

    # The stream

    def _listen(self) -> Task:
        key = ("session", self._session)
        cut = Mailbox(self.kernel)

        def heard(event: str, data: Any) -> None:
            if event == "cut" or self.random.random() < self.world.rates.lose_reply:
                if self.world.service.listeners.get(key) is heard:
                    del self.world.service.listeners[key]
                cut.put(event)
            else:
                self.after(self.random.uniform(0.001, 0.05), self._pushed, event, data)

        def use(tx: Any, who: Any, now: Any) -> Any:
            return sessions.check_stream(tx, who, self._session)

        while True:
            try:
                yield self.network.try_call(self._token(), use)
            except OVER:
                yield self.sleep(LONGEST_PAUSE_SEC)
                continue
            except Exception:
                yield self.sleep(self.random.uniform(0.5, 5.0))
                continue
            if self.world.service.up:
                self.world.service.listeners[key] = heard
                self._renewals.put("hello")
                self._say(**{"is": "work"})
                yield cut.wait()
                cut.take()
            yield self.sleep(self.random.uniform(0.1, 3.0))

    def _stop_listening(self) -> None:
        self.world.service.listeners.pop(("session", self._session), None)

    def _pushed(self, event: str, data: Any) -> None:
        match event:
            case "work":
                self._say(**{"is": "work"})
            case "cancel":
                self._say(**{"is": "cancel", "job_ids": data["job_ids"]})
            case "closing":
                self._say(**{"is": "closing"})
