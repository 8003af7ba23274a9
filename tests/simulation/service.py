"""The service in the simulation: the real store, use cases and sweeps; and the network that leads to it.

Every call goes through the real authentication and one real transaction. The network loses, repeats and delays; what a
client does about that is the shipping retry schedule.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Generator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from balsam.client.errors import BalsamError, Problem, ServiceUnavailable, from_reply
from balsam.client.transport.retry import Attempts, Failure
from balsam.domain.envelope import Envelope
from balsam.domain.lifecycle import Hook
from balsam.server.errors import ServiceError, Unavailable
from balsam.server.principal import Principal
from balsam.server.store.memory import MemoryStore
from balsam.server.store.protocol import Store, Tx, Wake
from balsam.server.sweeps.expire_sessions import SessionExpiry
from balsam.server.usecases import accounts, apps, report, sites
from balsam.server.usecases.idempotent import once
from balsam.wire.apps import AppSync, PythonCode
from balsam.wire.base import Message
from balsam.wire.sessions import Report, ReportReply
from balsam.wire.sites import QueueLimits, SiteCreate
from tests.simulation.kernel import Kernel, NodeClock, Process, Resume

if TYPE_CHECKING:
    from tests.simulation.world import World

UseCase = Callable[[Tx, Principal, Any], Any]
SWEEP_SEC = 10.0
USER_TOKEN = "user"
SITE_TOKEN = "site"


class LinkLost(Exception):
    """A try without answer."""

    def __init__(self, reason: str, maybe_done: bool, retry_after_sec: float | None = None) -> None:
        super().__init__(reason)
        self.failure = Failure(reason, maybe_done, retry_after_sec)


class SimService:
    """The service's process. Its rows are durable; what it was doing when it died is undone or done, never half."""

    def __init__(self, world: World, store: Store) -> None:
        self.world = world
        self.kernel = world.kernel
        self.clock = NodeClock(world.kernel)
        self.store = store
        self.up = False
        self.generation = 0
        self.process = Process(world.kernel, "service")
        self.listeners: dict[tuple[str, int], Callable[[str, Any], None]] = {}
        self._secrets = 0
        store.subscribe(self._heard)
        self._set_up()
        self.start()

    def _set_up(self) -> None:
        now = self.clock.now()
        write = self.store.write_sync
        self.user = write(lambda tx: accounts.ensure_local_user(tx, "ada", USER_TOKEN, now))
        limits = {"local": QueueLimits(max_nodes=4, max_walltime=600)}
        made = SiteCreate(name="cluster", path="/site", allowed_projects=["local"], allowed_queues=limits)
        self.site_id = write(lambda tx: sites.create_site(tx, self.user, made, SITE_TOKEN, now)).site.id
        app = AppSync(site_id=self.site_id, name="sim", command_template="true")
        self.app_id = write(lambda tx: apps.sync_app(tx, self.user, app, now)).id
        envelope = Envelope.seal(b"never opened", python="3.11", pickler="cloudpickle 3").as_json()
        hooked = AppSync(
            site_id=self.site_id,
            name="hooked",
            command_template="true",
            hooks=list(Hook),
            code=PythonCode(envelope=envelope),
        )
        self.hooked_app_id = write(lambda tx: apps.sync_app(tx, self.user, hooked, now)).id

    def start(self) -> None:
        self.up = True
        self.generation += 1
        self.process = Process(self.kernel, f"service {self.generation}")
        self.expiry = SessionExpiry(self.clock.now())
        self._sweep()

    def crash(self) -> None:
        """Everything that listens is cut off."""
        self.up = False
        self.process.die()
        listeners, self.listeners = self.listeners, {}
        for heard in listeners.values():
            heard("cut", None)

    def _sweep(self) -> None:
        self.process.after(SWEEP_SEC, self._sweep)
        self.expiry.run_once(self.store, self.clock.now())

    def secret(self) -> str:
        self._secrets += 1
        return f"secret {self._secrets}"

    def carry_out(self, token: str, use: UseCase) -> Any:
        """One request: authenticated, then one transaction. Raises ServiceError."""
        now = self.clock.now()

        def transaction(tx: Tx) -> Any:
            return use(tx, accounts.authenticate(tx, token, now).principal, now)

        return self.store.write_sync(transaction)

    def report(self, session_id: int, message: Report) -> UseCase:
        """The report use case, watched: a record with an old token must change nothing (S7)."""

        def use(tx: Tx, principal: Principal, now: Any) -> ReportReply:
            before = tx.hot_jobs({record.job_id for record in message.records})
            reply = report.report(tx, principal, session_id, message, now)
            self.world.checkers.reported(before, tx.hot_jobs(before), message)
            return reply

        return use

    def created(self, key: str | None, body: Message, reply: type[Message], do: UseCase) -> UseCase:
        """A creating call with its idempotency key, as the routes wrap it."""
        body_hash = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
        return lambda tx, who, now: once(tx, who, key, body_hash, reply, now, lambda: do(tx, who, now))

    def selected(self, verb: Callable[..., Awaitable[Any]], message: Message) -> Any:
        """A verb over a selection of the user's Jobs."""
        call = verb(self.store, self.user, message, self.clock.now())
        if not isinstance(self.store, MemoryStore):
            return asyncio.run(call)  # type: ignore[arg-type]
        try:
            call.send(None)  # type: ignore[attr-defined]
        except StopIteration as end:
            return end.value
        raise AssertionError("the memory store never waits")

    def _heard(self, wakes: Sequence[Wake]) -> None:
        for wake in wakes:
            if wake.topic == "jobs":
                self.world.checkers.moved(wake.data["jobs"])
            elif wake.topic == "work":
                for (topic, _), heard in list(self.listeners.items()):
                    if topic == "session":
                        self.process.after(0.0, heard, "work", {})
            else:
                listener = self.listeners.get((wake.topic, wake.key))
                if listener is not None:
                    self.process.after(0.0, listener, wake.event, wake.data)


class Line:
    """What connects one machine to the outside; all that runs there shares it."""

    cut = False


class Network:
    """The way from one client over a line to the service."""

    def __init__(self, world: World, name: str, line: Line) -> None:
        self.world = world
        self.kernel: Kernel = world.kernel
        self.random: Random = world.kernel.random(f"network {name}")
        self.line = line

    @property
    def reachable(self) -> bool:
        return self.world.service.up and not self.line.cut

    def _delay(self) -> float:
        rates = self.world.rates
        if self.random.random() < rates.slow:
            return self.random.uniform(0.0, rates.longest_delay_sec)
        return self.random.uniform(0.001, 0.02)

    def _silence(self) -> float:
        """After how long a client notices that nothing comes back."""
        return 30.0 if self.random.random() < 0.3 else self.random.uniform(0.05, 2.0)

    def try_call(self, token: str, use: UseCase) -> Callable[[Resume], None]:
        """One try: its answer, a BalsamError that the service answered, or LinkLost."""

        def start(resume: Resume) -> None:
            answered = False

            def answer(value: Any = None, error: BaseException | None = None) -> None:
                nonlocal answered
                if not answered:
                    answered = True
                    resume(value, error)

            if self.line.cut or self.random.random() < self.world.rates.lose_request:
                self.kernel.after(self._silence(), answer, None, LinkLost("request lost", maybe_done=True))
            else:
                self.kernel.after(self._delay(), self._arrive, token, use, answer)
            if self.random.random() < self.world.rates.duplicate:
                self.kernel.after(self.random.uniform(0.0, 60.0), self._arrive, token, use, None)

        return start

    def _arrive(self, token: str, use: UseCase, answer: Callable[..., None] | None) -> None:
        service = self.world.service
        if not service.up:
            if answer is not None:
                self.kernel.after(0.01, answer, None, LinkLost("connection refused", maybe_done=False))
            return
        value, error = self._carry_out(token, use)
        if answer is None:
            return
        if self.line.cut or self.random.random() < self.world.rates.lose_reply:
            self.kernel.after(self._silence(), answer, None, LinkLost("reply lost", maybe_done=True))
        else:
            self.kernel.after(self._delay(), answer, value, error)

    def _carry_out(self, token: str, use: UseCase) -> tuple[Any, Exception | None]:
        try:
            return self.world.service.carry_out(token, use), None
        except Unavailable as error:
            return None, LinkLost(error.message, maybe_done=False, retry_after_sec=error.retry_after_sec)
        except ServiceError as error:
            return None, _as_client_sees(error)

    def call_at_once(self, token: str, use: UseCase) -> Any:
        """One try in no time, for the agent's synchronous code. Raises LinkLost, BalsamError."""
        rates = self.world.rates
        if not self.reachable or self.random.random() < rates.lose_request:
            raise LinkLost("no answer", maybe_done=True)
        if self.random.random() < rates.duplicate:
            self.kernel.after(self.random.uniform(0.0, 60.0), self._arrive, token, use, None)
        value, error = self._carry_out(token, use)
        if self.random.random() < rates.lose_reply:
            raise LinkLost("reply lost", maybe_done=True)
        if error is not None:
            raise error
        return value

    def request(
        self, process: Process, token: str, use: UseCase, *, repeatable: bool, patience_sec: float
    ) -> Generator[Any, Any, Any]:
        """A call with its repeats, by the shipping schedule. Raises BalsamError, ServiceUnavailable at the end."""
        attempts = Attempts(repeatable, self.kernel.now + patience_sec, self.random)
        while True:
            try:
                answer = yield self.try_call(token, use)
            except LinkLost as lost:
                pause = attempts.failed(lost.failure, self.kernel.now)
                if pause is None:
                    raise ServiceUnavailable(str(lost)) from None
                yield process.sleep(pause)
            else:
                return answer


def _as_client_sees(error: ServiceError) -> BalsamError:
    details = [Problem(detail.where, detail.message) for detail in error.details]
    return from_reply(error.status, error.code, error.message, url="sim", where="sim", details=details)
