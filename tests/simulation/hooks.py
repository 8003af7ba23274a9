"""Hooks in the simulation: the real Processing, Session and outbox; their workers are processes of simulated time.

`SimHooks` does what `site/processing_loop.py` does: passes and renewals, each in a task of the agent. A hook's process
outlives an agent that died for a moment, as keepers need one to see it; the next agent must not begin before (S6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from balsam.client.errors import BalsamError, NotFound, SessionEnded, ValidationFailed
from balsam.domain.lease import SessionPurpose
from balsam.domain.lifecycle import Hook
from balsam.server.usecases import acquire, sessions
from balsam.site.hook_workers import HookEnd, HookOrder
from balsam.site.processing_link import RecordsRefused, SessionOver
from balsam.site.processing_loop import FIRST_PAUSE_SEC, LONGEST_PAUSE_SEC, RENEW_AGAIN_SEC
from balsam.site.service import ServiceAway
from balsam.site.services import hook_session as hook_session_module
from balsam.site.services import processing as processing_module
from balsam.site.services.hook_apps import HookApps
from balsam.site.services.processing import HELD_PER_WORKER, Processing
from balsam.wire.sessions import (
    AcquireReply,
    AcquireRequest,
    RenewReply,
    Report,
    ReportReply,
    SessionClose,
    SessionCreate,
    SessionView,
)
from tests.simulation.disk import SimPath
from tests.simulation.faults import AgentDies
from tests.simulation.kernel import Mailbox, NodeClock, Process, Task
from tests.simulation.service import SITE_TOKEN, LinkLost, Network

if TYPE_CHECKING:
    from tests.simulation.site import SimAgent
    from tests.simulation.world import World

DIRECTORY = "/site/processing"
WORKERS = 2
LIMIT_SEC = 60.0
SEEN_SEC = 5.0  # on a busy machine a keeper may need so long to see that its agent is gone
WITH_CRASH_POINTS = (processing_module, hook_session_module)


@dataclass(frozen=True)
class HookPlan:
    """What a hook will do. `answer` as a worker gives it."""

    duration_sec: float
    answer: dict[str, Any]


def plan_of(world: World, order: HookOrder) -> HookPlan:
    """The same for every try of the same hook of an attempt, so that a repeat is seen to be one."""
    random = world.kernel.random(f"hook {order.workdir} {order.hook} {order.attempt}")
    duration_sec = random.choice((0.01, 0.1, 1.0, 5.0, 20.0)) * random.uniform(0.5, 2.0)
    fate = random.random()
    if fate < 0.03:
        return HookPlan(LIMIT_SEC, {"is": "lost", "reason": "it ran too long"})
    verdict = ""
    if fate < 0.08:
        verdict = "FAILED"
    elif fate < 0.2 and order.hook != Hook.PREPROCESS and order.attempt < 3:
        verdict = "RESTART_READY"
    outcome = {"verdict": verdict, "changes": {"merge_data": {order.hook: order.attempt}}}
    return HookPlan(duration_sec, {"is": "done", "stays": True, "outcome": outcome})


class HookRun(Process):
    """A hook with its keeper, on the login node."""

    def __init__(self, world: World, workers: SimWorkers, order: HookOrder) -> None:
        super().__init__(world.kernel, f"{order.hook} of Job {order.job_id}")
        self.world = world
        self.order = order
        self._workers = workers
        plan = plan_of(world, order)
        world.checkers.hook_started(self)
        self.after(plan.duration_sec, self._end, plan.answer)
        self.watch()

    def watch(self) -> None:
        """S6: it is killed when the lease of its agent ends, as its keeper reads it."""
        left_sec = self._workers.clock.delay_until(self._workers.until)
        if left_sec <= 1e-6:
            self._end({"is": "stopped"})
        else:
            self.after(left_sec, self.watch)

    def stop_soon(self) -> None:
        self.after(self._workers.random.uniform(0.0, SEEN_SEC), self._end, {"is": "stopped"})

    def _end(self, answer: dict[str, Any]) -> None:
        self.die()
        self.world.hook_runs.remove(self)
        self._workers.ended(self, answer)


class SimWorkers:
    """`Workers` of one agent."""

    def __init__(self, world: World, agent: SimAgent, clock: NodeClock, woken: Mailbox) -> None:
        self.world, self.clock = world, clock
        self.random = world.kernel.random(f"workers {world.kernel.now}")
        self.until = 0.0
        self._agent = agent
        self._woken = woken
        self._runs: dict[int, HookRun] = {}
        self._ends: list[HookEnd] = []

    @property
    def free(self) -> int:
        return WORKERS - len(self._runs)

    @property
    def running(self) -> Mapping[int, HookOrder]:
        return {job_id: run.order for job_id, run in self._runs.items()}

    def start(self, order: HookOrder) -> None:
        self.world.disk.writer = "agent"
        run = HookRun(self.world, self, order)
        self._runs[order.job_id] = run
        self.world.hook_runs.append(run)

    def stop(self, job_id: int) -> None:
        if job_id in self._runs:
            self._runs[job_id].stop_soon()

    def ends(self) -> list[HookEnd]:
        ended, self._ends = self._ends, []
        return ended

    def lease_until(self, until: float) -> None:
        self.until = until

    def kill_leftovers(self) -> bool:
        for run in self.world.hook_runs:
            run.stop_soon()
        return not self.world.hook_runs

    def ended(self, run: HookRun, answer: dict[str, Any]) -> None:
        del self._runs[run.order.job_id]
        if self._agent.alive:
            self._ends.append(HookEnd(run.order, answer))
            self._woken.put("end")

    def abandon(self) -> None:
        for run in list(self._runs.values()):
            run.stop_soon()


class _Service:
    """`HookService` over the simulated network, with the errors of `ProcessingLink`."""

    def __init__(self, world: World, network: Network) -> None:
        self.world, self.network = world, network
        self._random = world.kernel.random(f"keys {world.kernel.now}")

    def _call(self, use: Any) -> Any:
        try:
            return self.network.call_at_once(SITE_TOKEN, use)
        except (SessionEnded, NotFound) as error:
            raise SessionOver(str(error)) from error
        except ValidationFailed as error:
            raise RecordsRefused(str(error)) from error
        except (LinkLost, BalsamError) as error:
            raise ServiceAway(str(error)) from error

    def new_key(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def open_processing(self, label: str, key: str) -> SessionView:
        body = SessionCreate(site_id=self.world.service.site_id, purpose=SessionPurpose.PROCESSING, label=label)

        def use(tx: Any, who: Any, now: Any) -> SessionView:
            return sessions.open_session(tx, who, body, now)

        return self._call(self.world.service.created(key, body, SessionView, use))

    def acquire(self, session_id: int, request: AcquireRequest) -> AcquireReply:
        return self._call(lambda tx, who, now: acquire.acquire_jobs(tx, who, session_id, request, now))

    def report(self, session_id: int, body: bytes) -> ReportReply:
        return self._call(self.world.service.report(session_id, Report.model_validate_json(body)))

    def renew(self, session_id: int) -> RenewReply:
        return self._call(lambda tx, who, now: sessions.renew_session(tx, who, session_id, now))

    def close_session(self, session_id: int, close: SessionClose) -> None:
        try:
            self._call(lambda tx, who, now: sessions.close_session(tx, who, session_id, close, now))
        except SessionOver:
            return

    def is_open(self, session_id: int) -> bool:
        return any(one.id == session_id for one in self._call(lambda tx, who, now: _sessions(tx, who)))


def _sessions(tx: Any, who: Any) -> Any:
    return sessions.list_sessions(tx, who).results


class SimHooks:
    """The hooks of one agent, with its two threads as tasks."""

    def __init__(self, world: World, agent: SimAgent, clock: NodeClock, network: Network) -> None:
        self.world, self.agent, self.clock = world, agent, clock
        self._woken = Mailbox(world.kernel)
        self.workers = SimWorkers(world, agent, clock, self._woken)
        self.processing = Processing(
            directory=SimPath(DIRECTORY),  # type: ignore[arg-type]
            service=_Service(world, network),
            workers=self.workers,
            apps=HookApps(True, lambda: None),
            clock=clock,
            most_held=HELD_PER_WORKER * WORKERS,
            holder={"pid": world.agents, "hostname": "login"},
            is_dead=lambda holder: True,  # by this agent or one before it, on the one login node
        )
        agent.spawn(self._run())
        agent.spawn(self._renew())

    @property
    def session_id(self) -> int | None:
        """The Session under which hooks run, which is open for as long as the agent lives."""
        session = self.processing._session
        return session and session.id

    def heard(self, event: str, data: Any) -> None:
        """A push of the service; `hello` when the stream is open again."""
        if event == "cancel":
            self.processing.cancel(data["job_ids"])
        elif event in ("hello", "hooks"):
            self.processing.hint()
        else:
            return
        self._woken.put(event)

    def died(self) -> None:
        """The agent did: each keeper sees it."""
        self.workers.abandon()

    def close(self) -> None:
        """As an agent that is stopped in order, once nothing runs."""
        self.world.disk.writer = "agent"
        self.processing.close()

    def _run(self) -> Task:
        """As `ProcessingLoop._run`."""
        pause_sec = FIRST_PAUSE_SEC
        while True:
            wait_sec = pause_sec
            if self._pass():
                pause_sec = FIRST_PAUSE_SEC
                wait_sec = self.clock.delay_until(self.processing.due_at)
            else:
                pause_sec = min(pause_sec * 2, LONGEST_PAUSE_SEC)
            yield self._woken.wait(max(0.01, wait_sec))
            self._woken.take()

    def _pass(self) -> bool:
        self.world.disk.writer = "agent"
        try:
            return self.processing.run_once()
        except AgentDies:
            self.agent.die()
            return False

    def _renew(self) -> Task:
        """As `ProcessingLoop._renew`."""
        pause_sec = FIRST_PAUSE_SEC
        while True:
            yield self.agent.sleep(pause_sec)
            try:
                pause_sec = self.processing.renew()
            except ServiceAway:
                pause_sec = RENEW_AGAIN_SEC
            self._woken.put("renewed")
