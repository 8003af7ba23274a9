"""Processing by itself: grants, verdicts, the lease and the outbox, with the service's own rules and pretended workers.

The service here is its use cases over a store; it can be away, lose answers, and its clock is moved by hand.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from balsam.client.outbox import PATTERN, Outbox, OutboxError, outbox_path
from balsam.domain.lease import LEASE_GRACE_SEC, LEASE_MARGIN_SEC, LEASE_TTL_SEC
from balsam.domain.states import JobState
from balsam.server.errors import NotFound, SessionEnded
from balsam.server.principal import Principal
from balsam.server.store.memory import MemoryStore
from balsam.server.store.protocol import Tx
from balsam.server.usecases import acquire, report, sessions
from balsam.site.hook_workers import LOG_NAME, HookEnd, HookOrder, HookWorkers, NotBegun, _open_log
from balsam.site.processing_link import RecordsRefused, SessionOver
from balsam.site.processing_loop import ProcessingLoop
from balsam.site.service import ServiceAway
from balsam.site.services.hook_apps import HookApps, HooksRefused
from balsam.site.services.processing import POLL_SEC, Processing
from balsam.testing.clock import FakeClock
from balsam.testing.store_world import StoreWorld
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

S = JobState
T = TypeVar("T")
DONE = {"is": "done", "stays": True, "outcome": {"verdict": "", "changes": {}}}


class WorldService:
    """`HookService` over the use cases. `away`: no call gets through; `loses`: the numbers of calls without answer."""

    def __init__(self, world: StoreWorld) -> None:
        self.world = world
        self.away = False
        self.loses: set[int] = set()
        self.count = 0
        self.refuses: Callable[[bytes], bool] = lambda body: False
        self.calls: list[str] = []
        self._keys = 0
        self._opened: dict[str, SessionView] = {}

    def _call(self, name: str, use: Callable[[Tx, Principal], T]) -> T:
        self.calls.append(name)
        if self.away:
            raise ServiceAway("away")
        try:
            answer = self.world.write(lambda tx: use(tx, self.world.agent()))
        except (SessionEnded, NotFound) as error:
            raise SessionOver(str(error)) from error
        self.count += 1
        if self.count in self.loses:
            raise ServiceAway("the answer was lost")
        return answer

    def new_key(self) -> str:
        self._keys += 1
        return f"key{self._keys}"

    def open_processing(self, label: str, key: str) -> SessionView:
        message = SessionCreate(site_id=self.world.site.id, purpose="processing", label=label)

        def once(tx: Tx, who: Principal) -> SessionView:
            if key not in self._opened:
                self._opened[key] = sessions.open_session(tx, who, message, self.world.now)
            return self._opened[key]

        return self._call("open", once)

    def acquire(self, session_id: int, request: AcquireRequest) -> AcquireReply:
        return self._call("acquire", lambda tx, who: acquire.acquire_jobs(tx, who, session_id, request, self.world.now))

    def report(self, session_id: int, body: bytes) -> ReportReply:
        if self.refuses(body):
            raise RecordsRefused("records[0]: no good")
        message = Report.model_validate_json(body)
        return self._call("report", lambda tx, who: report.report(tx, who, session_id, message, self.world.now))

    def renew(self, session_id: int) -> RenewReply:
        return self._call("renew", lambda tx, who: sessions.renew_session(tx, who, session_id, self.world.now))

    def close_session(self, session_id: int, close: SessionClose) -> None:
        self._call("close", lambda tx, who: sessions.close_session(tx, who, session_id, close, self.world.now))

    def is_open(self, session_id: int) -> bool:
        return any(it.id == session_id for it in self._call("list", sessions.list_sessions).results)


class PretendedWorkers:
    """`Workers` that run hooks for as long as the test wants."""

    def __init__(self, most: int = 2) -> None:
        self.most = most
        self.orders: dict[int, HookOrder] = {}
        self.stopped: set[int] = set()
        self.until = 0.0
        self.leftovers = 0
        self.refusal: Exception | None = None
        self._ends: list[HookEnd] = []

    @property
    def free(self) -> int:
        return self.most - len(self.orders)

    @property
    def running(self) -> Mapping[int, HookOrder]:
        return dict(self.orders)

    def start(self, order: HookOrder) -> None:
        if self.refusal is not None:
            raise self.refusal
        assert order.job_id not in self.orders, "S6"
        assert self.free > 0
        self.orders[order.job_id] = order

    def stop(self, job_id: int) -> None:
        self.stopped.add(job_id)

    def ends(self) -> list[HookEnd]:
        ended, self._ends = self._ends, []
        return ended

    def lease_until(self, until: float) -> None:
        self.until = until

    def kill_leftovers(self) -> bool:
        self.leftovers -= 1
        return self.leftovers < 0

    def finish(self, job_id: int, answer: dict[str, Any] | None = None) -> None:
        order = self.orders.pop(job_id)
        answer = {"is": "stopped"} if job_id in self.stopped else answer or DONE
        self.stopped.discard(job_id)
        self._ends.append(HookEnd(order, answer))


class Bench:
    """A Site's processing, whose agent can die and come again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.world = StoreWorld(MemoryStore())
        self.service = WorldService(self.world)
        self.app = self.world.add_app_with_hooks()
        self.pid = 100
        self.dead: set[int] = set()
        self.begin()

    def begin(self, most: int = 2, hostname: str = "here") -> None:
        self.workers = PretendedWorkers(most)
        self.processing = Processing(
            directory=self.directory,
            service=self.service,
            workers=self.workers,
            apps=HookApps(True, lambda: None),
            clock=self.world.clock,
            most_held=16 * most,
            holder={"pid": self.pid, "hostname": hostname},
            is_dead=lambda holder: holder["pid"] in self.dead or holder["pid"] == self.pid,
        )

    def die(self, **how: Any) -> None:
        """kill -9, and the next agent."""
        self.dead.add(self.pid)
        self.pid += 1
        self.begin(**how)

    def submit(self, count: int = 1, **fields: Any) -> list[int]:
        return self.world.submit(count, app_id=self.app.id, **fields)

    def run(self, passes: int = 3) -> None:
        self.processing.hint()
        for _ in range(passes):
            self.processing.run_once()

    def states(self, ids: list[int]) -> list[JobState]:
        return [self.world.state(job_id) for job_id in ids]

    @property
    def outboxes(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob(PATTERN))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.world.store.close()


def test_from_the_grant_to_the_verdict(bench: Bench) -> None:
    ids = bench.submit(3)
    bench.run()
    assert list(bench.workers.orders) == ids[:2]
    order = bench.workers.orders[ids[0]]
    assert (order.hook, order.attempt, order.app.name) == ("preprocess", 0, "hooked")
    for job_id in ids[:2]:
        bench.workers.finish(job_id)
    bench.run(1)
    assert list(bench.workers.orders) == ids[2:]
    assert bench.states(ids) == [S.PREPROCESSED, S.PREPROCESSED, S.STAGED_IN]
    bench.workers.finish(ids[2])
    bench.run(1)
    assert bench.states(ids) == [S.PREPROCESSED] * 3
    bench.processing.close()
    assert bench.outboxes == []
    assert bench.world.read(lambda tx: sessions.list_sessions(tx, bench.world.ada)).count == 0


def test_an_idle_agent_asks_once_a_minute(bench: Bench) -> None:
    bench.run()
    bench.service.calls.clear()
    for _ in range(20):
        bench.processing.run_once()
    assert bench.service.calls == []
    assert bench.processing.due_at == bench.world.clock.monotonic() + POLL_SEC
    bench.world.clock.advance(POLL_SEC)
    bench.processing.run_once()
    assert bench.service.calls == ["acquire"]


def test_it_holds_no_more_than_it_may(bench: Bench) -> None:
    ids = bench.submit(100)
    bench.run()
    held = [job.id for job in bench.world.page() if job.session_id is not None]
    assert held == ids[:32]
    for job_id in ids[:20]:
        bench.workers.finish(job_id)
        bench.processing.run_once()
    held = [job.id for job in bench.world.page() if job.session_id is not None]
    assert len(held) <= 32
    assert ids[40] in held


@pytest.mark.parametrize("lost", range(1, 8))
def test_s3_lost_answers_change_nothing(bench: Bench, lost: int) -> None:
    """Whatever call's answer gets lost: it is put again, and each hook is run and told once."""
    ids = bench.submit(4)
    begun: list[int] = []
    bench.service.loses = {lost}
    for _ in range(30):
        bench.processing.run_once()
        for job_id in list(bench.workers.orders):
            begun.append(job_id)
            bench.workers.finish(job_id)
    assert bench.states(ids) == [S.PREPROCESSED] * 4
    assert sorted(begun) == ids
    assert [len(bench.world.events(job_id)) for job_id in ids] == [3] * 4


def test_s1_verdicts_survive_a_service_that_is_away_and_an_agent_that_dies(bench: Bench) -> None:
    ids = bench.submit(2)
    bench.run()
    bench.service.away = True
    bench.workers.finish(ids[0])
    assert not bench.processing.run_once()
    bench.die()
    assert not bench.processing.run_once()
    assert bench.outboxes == ["session-1.outbox"]
    bench.service.away = False
    bench.run()
    assert bench.states(ids) == [S.PREPROCESSED, S.STAGED_IN]
    assert list(bench.workers.orders) == ids[1:], "it waits for no time-out"
    assert bench.outboxes == ["session-2.outbox"]
    assert [event.attempt for event in bench.world.events(ids[0])] == [0, 0, 0]


def test_s6_hooks_of_a_dead_agent_are_gone_before_others_begin(bench: Bench) -> None:
    (job_id,) = bench.submit()
    bench.run()
    bench.die()
    bench.workers.leftovers = 2
    for _ in range(2):
        assert not bench.processing.run_once()
        assert bench.workers.orders == {}
    bench.run()
    assert list(bench.workers.orders) == [job_id]


def test_s6_an_agent_of_another_machine_is_left_its_lease(bench: Bench) -> None:
    """It may live, cut off; its Session ends by itself, and only then its Jobs are run here."""
    (job_id,) = bench.submit()
    bench.run()
    bench.pid += 1
    bench.begin(hostname="elsewhere")
    bench.run()
    assert bench.outboxes == ["session-1.outbox", "session-2.outbox"]
    assert bench.workers.orders == {}
    waited = 0.0
    while not bench.workers.orders:
        bench.processing.renew()
        bench.world.pass_time(30)
        waited += 30
        bench.run()
        assert waited < LEASE_TTL_SEC + LEASE_GRACE_SEC + 2 * POLL_SEC
    assert waited >= LEASE_TTL_SEC + LEASE_GRACE_SEC
    bench.world.pass_time(POLL_SEC)
    bench.run()
    assert bench.outboxes == ["session-2.outbox"]
    assert list(bench.workers.orders) == [job_id]


def test_s6_nothing_runs_under_a_lease_that_is_over(bench: Bench) -> None:
    ids = bench.submit(3)
    bench.run()
    begin = bench.world.clock.monotonic()
    assert bench.workers.until == begin + LEASE_TTL_SEC - LEASE_MARGIN_SEC
    bench.service.away = True
    bench.world.clock.advance(LEASE_TTL_SEC - LEASE_MARGIN_SEC)
    bench.processing.run_once()
    assert bench.workers.stopped == set(ids[:2])
    bench.service.away = False
    bench.run()
    assert bench.service.calls.count("open") == 1, "not before all of it is gone"
    for job_id in ids[:2]:
        bench.workers.finish(job_id)
    bench.run()
    assert bench.service.calls.count("open") == 2
    assert list(bench.workers.orders) == ids[:2], "the Session was ended at once, nothing was told under it"
    assert [order.token for order in bench.workers.orders.values()] == [2, 2]
    assert bench.outboxes == ["session-2.outbox"]


def test_renewals_keep_the_lease(bench: Bench) -> None:
    (job_id,) = bench.submit()
    bench.run()
    for _ in range(20):
        pause = bench.processing.renew()
        bench.world.pass_time(pause)
        bench.processing.run_once()
    assert bench.workers.until > bench.world.clock.monotonic()
    bench.workers.finish(job_id)
    bench.run()
    assert bench.states([job_id]) == [S.PREPROCESSED]


def test_a_session_that_the_service_ended_is_given_up(bench: Bench) -> None:
    (job_id,) = bench.submit()
    bench.run()
    bench.world.close(1, lost=True)
    bench.processing.renew()
    bench.processing.run_once()
    assert bench.workers.stopped == {job_id}
    bench.workers.finish(job_id)
    bench.run()
    assert [order.token for order in bench.workers.orders.values()] == [2]


def test_a_keeper_that_stopped_a_hook_has_it_run_again(bench: Bench) -> None:
    """It saw the lease end before the agent could tell it of a renewal: no fault of the hook."""
    (job_id,) = bench.submit()
    bench.run()
    bench.workers.finish(job_id, {"is": "stopped"})
    bench.run()
    assert list(bench.workers.orders) == [job_id]


@pytest.mark.parametrize("told", ["stream", "renewal", "report"])
def test_cancelled_jobs_are_handed_back_when_their_hooks_are_gone(bench: Bench, told: str) -> None:
    ids = bench.submit(4)
    bench.run()
    bench.world.cancel([ids[0], ids[3]])
    if told == "stream":
        bench.processing.cancel([ids[0], ids[3]])
    elif told == "renewal":
        bench.processing.renew()
    else:
        bench.workers.finish(ids[1])
    bench.run(2)
    assert bench.workers.stopped == {ids[0]}
    assert [bench.world.get(job_id).session_id for job_id in (ids[0], ids[3])] == [1, None]
    bench.workers.finish(ids[0])
    bench.run(2)
    assert bench.world.get(ids[0]).session_id is None
    second = S.PREPROCESSED if told == "report" else S.STAGED_IN
    assert bench.states(ids) == [S.CANCELLED, second, S.STAGED_IN, S.CANCELLED]


def test_s7_a_verdict_under_an_old_token_moves_nothing_and_is_told_once(bench: Bench) -> None:
    """The user took the Job back and runs it again; what its first hook came to is of no interest."""
    ids = bench.submit(2)
    bench.run()
    bench.world.cancel(ids[:1])
    bench.workers.finish(ids[0])
    bench.run(1)
    bench.world.retry(ids[:1])
    bench.run()
    assert bench.states(ids) == [S.STAGED_IN] * 2
    assert bench.workers.orders[ids[0]].token == 2
    bench.service.calls.clear()
    bench.run()
    assert "report" not in bench.service.calls


def test_f10_a_full_disk_stops_hooks_and_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = bench.submit(6)
    bench.run()
    real = Outbox.append

    def full(self: Outbox, facts: Any) -> list[bytes]:
        raise OutboxError(28, "the disk is full")

    monkeypatch.setattr(Outbox, "append", full)
    for job_id in ids[:2]:
        bench.workers.finish(job_id)
    assert not bench.processing.run_once()
    assert set(bench.workers.orders) == set(ids[2:4])
    for job_id in ids[2:4]:
        bench.workers.finish(job_id)
    assert not bench.processing.run_once()
    assert not bench.processing.run_once()
    assert not bench.workers.orders
    assert bench.states(ids) == [S.STAGED_IN] * 6
    monkeypatch.setattr(Outbox, "append", real)
    bench.run()
    assert bench.states(ids)[:4] == [S.PREPROCESSED] * 4
    assert set(bench.workers.orders) == set(ids[4:])


@pytest.mark.parametrize("bad", [0, 1])
def test_a_record_that_the_service_can_not_read_fails_its_job_alone(bench: Bench, bad: int) -> None:
    ids = bench.submit(2)
    bench.run()
    bench.service.refuses = lambda body: f'"job_id":{ids[bad]}'.encode() in body and b"can't take" not in body
    for job_id in ids:
        bench.workers.finish(job_id)
    bench.run()
    good = ids[1 - bad]
    assert bench.states([ids[bad], good]) == [S.FAILED, S.PREPROCESSED]
    message = bench.world.events(ids[bad])[-1].data["message"]
    assert "the service can't take what the hook told: records[0]: no good" in message


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"is": "lost", "reason": "it went up in smoke"}, "preprocess: it went up in smoke"),
        ({"is": "done", "message": "it raised", "traceback": "t"}, "it raised"),
        ({"is": "done", "outcome": 7}, "told nothing that can be understood"),
        ({"is": "done", "outcome": {"verdict": 7, "changes": {}}}, "told nothing that can be understood"),
        ({"is": "done", "outcome": {"verdict": "", "changes": []}}, "told nothing that can be understood"),
        (
            {"is": "done", "outcome": {"verdict": "", "changes": {}, "at": "noon"}},
            "told nothing that can be understood",
        ),
    ],
)
def test_whatever_a_worker_says_fails_no_more_than_its_job(bench: Bench, answer: dict[str, Any], said: str) -> None:
    (job_id,) = bench.submit()
    bench.run()
    bench.workers.finish(job_id, answer)
    bench.run()
    assert bench.states([job_id]) == [S.FAILED]
    assert said in bench.world.events(job_id)[-1].data["message"]


def test_a_time_that_is_none_in_utc_holds_up_nobodys_verdict(bench: Bench) -> None:
    (job_id,) = bench.submit()
    bench.run()
    at = "9999-12-31T23:59:59-14:00"
    bench.workers.finish(job_id, {"is": "done", "outcome": {"verdict": "", "changes": {}, "at": at}})
    bench.run()
    assert bench.states([job_id]) == [S.PREPROCESSED] and bench.world.events(job_id)


def test_a_hook_that_can_not_begin(bench: Bench) -> None:
    """In its workdir: the Job fails. For want of processes: it waits."""
    ids = bench.submit(2)
    bench.workers.refusal = NotBegun("no such place")
    bench.run()
    assert bench.states(ids) == [S.FAILED, S.FAILED]
    ids = bench.submit(2)
    bench.workers.refusal = OSError(11, "Resource temporarily unavailable")
    bench.processing.hint()
    assert not bench.processing.run_once()
    bench.workers.refusal = None
    bench.run()
    assert list(bench.workers.orders) == ids


def test_s15_a_definition_that_is_not_what_its_hash_says_is_refused(bench: Bench) -> None:
    """A service that lies can't have other code run under the hash that the Site's owner approved."""
    apps = HookApps(True, lambda: {bench.app.content_hash})
    apps.add(bench.app)
    assert apps.get(bench.app.id) is not None
    apps.add(bench.app.model_copy(update={"environment_variables": {"LD_PRELOAD": "/tmp/other.so"}}))
    with pytest.raises(HooksRefused, match="is not what its hash says"):
        apps.get(bench.app.id)


def test_s15_output_goes_to_a_plain_file_or_nowhere(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOG_NAME)
    reader = os.open(tmp_path / LOG_NAME, os.O_RDONLY | os.O_NONBLOCK)
    workdir = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(NotBegun, match="no plain file"):
            _open_log(workdir)
    finally:
        os.close(workdir)
        os.close(reader)


def test_a_fault_of_ours_gives_up_what_is_held(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that fails in the middle could have forgotten a Job: the next Session gets it again."""
    (job_id,) = bench.submit()

    def fail(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as patch:
        patch.setattr(Processing, "_begin_one", fail)
        with pytest.raises(RuntimeError):
            bench.processing.run_once()
        bench.processing.start_over()
    bench.run()
    assert [order.token for order in bench.workers.orders.values()] == [2]
    assert list(bench.workers.orders) == [job_id]


def test_a_torn_outbox_is_told_up_to_there(bench: Bench) -> None:
    ids = bench.submit(2)
    bench.run()
    bench.service.away = True
    for job_id in ids:
        bench.workers.finish(job_id)
        bench.processing.run_once()
    path = outbox_path(bench.directory, 1)
    path.write_bytes(path.read_bytes()[:-3])
    bench.service.away = False
    bench.die()
    bench.run()
    assert bench.states(ids) == [S.PREPROCESSED, S.STAGED_IN]
    assert list(bench.workers.orders) == ids[1:]


def test_s1_an_outbox_that_can_not_be_read_now_is_left_for_later(bench: Bench) -> None:
    (job_id,) = bench.submit()
    bench.run()
    bench.service.away = True
    bench.workers.finish(job_id)
    bench.processing.run_once()
    bench.service.away = False
    path = outbox_path(bench.directory, 1)
    path.rename(bench.directory / "out of reach")
    path.symlink_to(path)  # as of a file server that does not answer: an error, and not that nothing is there
    bench.die()
    bench.run()
    assert path.is_symlink()
    (bench.directory / "out of reach").rename(path)
    bench.die()
    bench.run()
    assert bench.states([job_id]) == [S.PREPROCESSED]


def test_what_is_no_outbox_is_in_nobodys_way(bench: Bench) -> None:
    (bench.directory / "session-77.outbox").write_bytes(b"")
    (bench.directory / "notes.txt").write_text("mine")
    (job_id,) = bench.submit()
    bench.run()
    assert list(bench.workers.orders) == [job_id]
    assert (bench.directory / "notes.txt").exists()
    assert bench.outboxes == ["session-1.outbox"]


# The threads


def test_a_fault_while_workers_are_heard_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    """All hooks of the Site would stand still."""
    passes, again, started_over = list[int](), threading.Event(), threading.Event()

    def run_once() -> bool:
        passes.append(1)
        if len(passes) > 1:
            again.set()
        return True

    def wait(seconds: float) -> None:
        if len(passes) == 1:
            raise RecursionError("what a worker said is nested too deeply")
        time.sleep(0.01)

    processing = SimpleNamespace(
        run_once=run_once, due_at=0.0, start_over=started_over.set, renew=lambda: 60.0, close=lambda: None
    )
    workers = SimpleNamespace(wait=wait, wake=lambda: None, close=lambda longest_sec: True)
    loop = ProcessingLoop(cast("Processing", processing), cast("HookWorkers", workers), FakeClock())
    loop.start()
    assert again.wait(10)
    assert started_over.is_set() and "begins anew" in caplog.text
    loop.stop()
