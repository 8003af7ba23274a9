"""Server-sent events: hello first, a wake after each commit, coalescing, and every way a stream ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from balsam.domain.envelope import Envelope
from balsam.server import broker as broker_module
from balsam.server.broker import Broker, Mailbox
from balsam.server.errors import TooMany, Unavailable
from balsam.server.store.protocol import Wake
from tests.server.sse import Listener
from tests.server.world import Person, batch_job_body, furnish, make_jobs, make_user, ok
from tests.services import RunningService


@pytest.fixture(scope="module")
def ann(service: RunningService) -> Person:
    return furnish(service, make_user(service, "ann"))


@pytest.fixture(scope="module")
def bob(service: RunningService) -> Person:
    return furnish(service, make_user(service, "bob"))


def states(listener: Listener) -> dict[int, str]:
    """Newest state of each Job that was told."""
    return {job[0]: job[1] for name, data, _ in listener.events if name == "states" for job in data["jobs"]}


def test_job_stream_says_hello_and_tells_each_commit_to_its_owner_only(
    service: RunningService, ann: Person, bob: Person
) -> None:
    with (
        Listener(service, "/api/jobs/stream", ann.token) as mine,
        Listener(service, "/api/jobs/stream", bob.token) as others,
        service.client(ann.token) as client,
    ):
        assert mine.events[0][0] == "hello"
        assert mine.headers["x-accel-buffering"] == "no" and mine.headers["cache-control"] == "no-store"
        [job_id] = make_jobs(client, ann.app_id)
        ok(client.post("/api/jobs/cancel", json={"filter": {"id": [job_id]}}))
        deadline = time.monotonic() + 5
        while states(mine).get(job_id) != "CANCELLED" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert states(mine)[job_id] == "CANCELLED"
        assert [name for name, _, _ in others.events] == ["hello"]


def test_a_sites_token_hears_of_its_own_jobs_only(service: RunningService, ann: Person) -> None:
    second = furnish(service, Person(ann.name, ann.token))
    with (
        Listener(service, "/api/jobs/stream", ann.site_token) as here,
        Listener(service, "/api/jobs/stream", second.site_token) as there,
        service.client(ann.site_token) as client,
    ):
        [job_id] = make_jobs(client, ann.app_id)
        ok(client.post("/api/jobs/cancel", json={"filter": {"id": [job_id]}}))
        assert here.wait("states")["jobs"] == [[job_id, "CANCELLED", None]]
        assert [name for name, _, _ in there.events] == ["hello"]


def test_many_processes_of_a_site_may_wait_for_jobs(service: RunningService, bob: Person) -> None:
    with contextlib.ExitStack() as stack:
        listeners = [
            stack.enter_context(Listener(service, "/api/jobs/stream", bob.site_token))
            for _ in range(broker_module.STREAMS_PER_HOLDER + 2)
        ]
        with service.client(bob.token) as client:
            [job_id] = make_jobs(client, bob.app_id)
            ok(client.post("/api/jobs/cancel", json={"filter": {"id": [job_id]}}))
        for listener in listeners:
            assert listener.wait("states")["jobs"] == [[job_id, "CANCELLED", None]]


def test_the_agent_hears_of_hooks_and_of_cancels_of_their_jobs(service: RunningService, ann: Person) -> None:
    envelope = Envelope.seal(b"never opened", python="3.11", pickler="cloudpickle 3").as_json()
    app = {"site_id": ann.site_id, "name": "hooked", "command_template": "echo"}
    with (
        Listener(service, f"/api/sites/{ann.site_id}/stream", ann.site_token) as stream,
        service.client(ann.token) as client,
        service.client(ann.site_token) as agent,
    ):
        made = ok(client.put("/api/apps", json=app | {"hooks": ["preprocess"], "code": {"envelope": envelope}}))
        [job_id] = make_jobs(client, made["id"])
        stream.wait("hooks")
        session = ok(agent.post("/api/sessions", json={"site_id": ann.site_id, "purpose": "processing"}))["id"]
        ask = {"acquire_seq": 1, "max_jobs": 10}
        granted = ok(agent.post(f"/api/sessions/{session}/acquire", json=ask))["jobs"]
        assert [(job["id"], job["hook"]) for job in granted] == [(job_id, "preprocess")]
        ok(client.post("/api/jobs/cancel", json={"filter": {"id": [job_id]}}))
        assert stream.wait("cancel")["job_ids"] == [job_id]


def test_job_stream_filters_by_state(service: RunningService, ann: Person) -> None:
    path = "/api/jobs/stream?state=CANCELLED&state=FAILED"
    with Listener(service, path, ann.token) as stream, service.client(ann.token) as client:
        ids = make_jobs(client, ann.app_id, 3)
        ok(client.post("/api/jobs/cancel", json={"filter": {"id": ids[:1]}}))
        assert stream.wait("states")["jobs"] == [[ids[0], "CANCELLED", None]]
        assert set(states(stream).values()) == {"CANCELLED"}


def test_session_stream_is_woken_by_work_and_cancel(service: RunningService, ann: Person) -> None:
    with (
        Listener(service, f"/api/sessions/{ann.session_id}/stream", ann.launcher_token) as stream,
        service.client(ann.token) as client,
        service.client(ann.launcher_token) as launcher,
    ):
        [job_id] = make_jobs(client, ann.app_id, tags={"stream": "work"})
        stream.wait("work")
        granted = ok(
            launcher.post(
                f"/api/sessions/{ann.session_id}/acquire",
                json={"acquire_seq": 1, "max_jobs": 1, "filter_tags": {"stream": "work"}},
            )
        )
        assert [job["id"] for job in granted["jobs"]] == [job_id]
        ok(client.post("/api/jobs/cancel", json={"filter": {"id": [job_id]}}))
        assert stream.wait("cancel")["job_ids"] == [job_id]


def test_site_stream_hears_of_batch_jobs(service: RunningService, ann: Person) -> None:
    with (
        Listener(service, f"/api/sites/{ann.site_id}/stream", ann.site_token) as stream,
        service.client(ann.token) as client,
    ):
        ok(client.post("/api/batch-jobs", json=batch_job_body(ann.site_id)))
        stream.wait("batch_jobs")


def test_a_revoked_token_ends_its_stream(service: RunningService) -> None:
    carol = make_user(service, "carol")
    with Listener(service, "/api/jobs/stream", carol.token) as stream, service.client(carol.token) as client:
        assert client.post("/api/auth/logout").status_code == 204
        assert stream.wait_end(5) == "clean"


def test_a_stream_goes_on_when_another_token_is_revoked(service: RunningService, ann: Person) -> None:
    dave = make_user(service, "dave")
    with Listener(service, "/api/jobs/stream", ann.token) as stream, service.client(ann.token) as client:
        with service.client(dave.token) as other:
            assert other.post("/api/auth/logout").status_code == 204
        ids = make_jobs(client, ann.app_id)
        ok(client.post("/api/jobs/cancel", json={"filter": {"id": ids}}))
        stream.wait("states")
        assert not stream.ended


def test_the_oldest_stream_of_a_session_gives_way(service: RunningService, ann: Person) -> None:
    path = f"/api/sites/{ann.site_id}/stream"
    streams = [Listener(service, path, ann.site_token) for _ in range(broker_module.STREAMS_PER_HOLDER + 1)]
    try:
        for stream in streams:
            stream.__enter__()
        assert streams[0].wait_end(5) == "clean"
        assert not any(stream.ended for stream in streams[1:])
    finally:
        for stream in streams:
            stream.__exit__(None, None, None)


def test_streams_end_cleanly_and_soon_at_shutdown(own_service: RunningService) -> None:
    listeners = [Listener(own_service, "/api/jobs/stream") for _ in range(5)]
    for listener in listeners:
        listener.__enter__()
    start = time.monotonic()
    assert own_service.stop() == 0
    assert time.monotonic() - start < 1.5  # < 1 s alone; this machine is shared
    assert [listener.wait_end() for listener in listeners] == ["clean"] * 5
    for listener in listeners:
        listener.__exit__(None, None, None)


# -- the broker alone: what can't be provoked over a fast loopback ------------------------------------------------


def in_loop(check: Any) -> None:
    asyncio.run(check())


def jobs_wake(changes: list[list[Any]], owner: int = 1) -> Wake:
    return Wake("jobs", owner, "states", {"jobs": changes})


def test_a_slow_reader_gets_the_newest_state_of_each_job() -> None:
    async def check() -> None:
        broker = Broker()
        broker.start()
        box = Mailbox([("jobs", 1)])
        broker.open(box, "ann", per_holder=False)
        await asyncio.to_thread(broker.publish, [jobs_wake([[1, "READY", None], [2, "READY", None]])])
        await asyncio.to_thread(
            broker.publish, [jobs_wake([[1, "RUNNING", None]]), jobs_wake([[9, "READY", None]], owner=2)]
        )
        await box.wait(1)
        assert box.take() == b'event: states\ndata: {"jobs":[[1,"RUNNING",null],[2,"READY",null]]}\n\n'
        assert box.take() == b""

    in_loop(check)


def test_a_reader_who_falls_too_far_behind_is_told_to_read_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "MAX_WAITING", 3)
    box = Mailbox([("jobs", 1)])
    box.put("states", {"jobs": [[n, "READY", None] for n in range(3)]})
    assert box.take().startswith(b"event: states")
    box.put("states", {"jobs": [[n, "READY", None] for n in range(4)]})
    assert box.take() == broker_module.HELLO


def test_many_jobs_are_told_in_events_of_bounded_size() -> None:
    box = Mailbox([("jobs", 1)])
    box.put("states", {"jobs": [[n, "READY", None] for n in range(2500)]})
    assert box.take().count(b"event: states") == 3


def test_stream_limit_of_a_user_at_n_and_n_plus_1() -> None:
    async def check() -> None:
        broker = Broker(streams_per_user=3)
        boxes = [Mailbox([("jobs", 1)]) for _ in range(4)]
        for box in boxes[:3]:
            broker.open(box, "ann", per_holder=False)
        with pytest.raises(TooMany, match="3 open streams"):
            broker.open(boxes[3], "ann", per_holder=False)
        broker.open(boxes[3], "bob", per_holder=False)
        broker.release(boxes[0], "ann")
        broker.open(boxes[0], "ann", per_holder=False)
        broker.stop()
        assert all(box.closed for box in boxes)
        with pytest.raises(Unavailable):
            broker.open(Mailbox([("jobs", 1)]), "ann", per_holder=False)

    in_loop(check)


def test_s16_one_users_many_streams_do_not_hold_up_those_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "SLICE_SEC", -1)  # one mailbox to a slice

    async def check() -> None:
        broker = Broker()
        broker.start()
        many, one = [Mailbox([("jobs", 1)]) for _ in range(50)], Mailbox([("jobs", 2)])
        for box in many:
            broker.open(box, "ann", per_holder=False)
        broker.open(one, "bob", per_holder=False)
        changes = [[n, "READY", None] for n in range(100)]
        broker.publish([jobs_wake(changes), jobs_wake(changes, owner=2)])
        turns = 0
        while not one.take():
            turns += 1
            assert turns < 10, "another one's streams came first"
            await asyncio.sleep(0)
        for box in many:
            await box.wait(30)
            assert box.take().startswith(b"event: states")

    in_loop(check)


def test_a_wake_that_can_not_be_told_stops_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be of a process of another version."""
    monkeypatch.setattr(broker_module, "SLICE_SEC", -1)  # the second one is in a slice of its own

    async def check() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        broker, box = Broker(), Mailbox([("jobs", 1)])
        broker.start()
        broker.open(box, "ann", per_holder=False)
        broker.publish([jobs_wake([[1, "READY", None]]), Wake("jobs", 1, "states", {})])
        await asyncio.sleep(0.05)
        assert b"READY" in box.take()
        broker.publish([jobs_wake([[1, "RUNNING", None]])])
        await box.wait(5)
        assert b"RUNNING" in box.take()

    in_loop(check)


def test_s16_streams_of_one_account_make_their_texts_one_at_a_time() -> None:
    async def check() -> None:
        broker = Broker()
        turn = broker.turn_of(1)
        assert broker.turn_of(1) is turn and broker.turn_of(2) is not turn
        del turn
        assert not broker._turns, "the lock of an account without streams is kept"

    in_loop(check)


def test_the_writer_thread_survives_a_closed_loop() -> None:
    broker = Broker()

    async def start() -> None:
        broker.start()
        broker.open(Mailbox([("jobs", 1)]), "ann", per_holder=False)

    asyncio.run(start())
    broker.publish([jobs_wake([[1, "READY", None]])])
