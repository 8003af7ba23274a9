"""T17: a fault inside, in whatever layer, is told as a bare 500 with a request id, and the log has it under that id."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from balsam.domain.clock import SystemClock
from balsam.server.app import create_app
from balsam.server.auth import tokens as secrets
from balsam.server.blobs.storage import DiskStorage
from balsam.server.broker import Broker, Mailbox
from balsam.server.settings import ServerSettings
from balsam.server.store.sqlite import SqliteStore
from balsam.server.usecases import accounts, jobs
from balsam.web import frame

pytestmark = pytest.mark.slow

INSIDE = "inside: SELECT secret FROM /srv/balsam"


@dataclass
class World:
    """A service in this process on a file of its own, and a person who is logged in."""

    client: TestClient
    store: SqliteStore
    log: pytest.LogCaptureFixture

    def break_table(self, name: str) -> None:
        """As by a schema that is not ours."""
        with closing(sqlite3.connect(self.store.path)) as other:
            other.execute(f"ALTER TABLE {name} RENAME TO {name}_elsewhere")

    def fails(self, method: str, path: str, said: str = INSIDE, **more: Any) -> str:
        """Ask; what is answered tells nothing but where to look. The answer's text."""
        reply = self.client.request(method, path, **more)
        request_id = reply.headers["x-request-id"]
        assert reply.status_code == 500 and request_id in reply.text, f"{method} {path}: {reply.text}"
        for told in ("SELECT", "Traceback", "/srv/", "no such table", "RuntimeError", "sqlite3", ".py"):
            assert told not in reply.text, f"{method} {path} tells {told}: {reply.text}"
        logged = [one for one in self.log.records if request_id in one.getMessage() and one.exc_info]
        assert len(logged) == 1 and said in str(logged[0].exc_info and logged[0].exc_info[1]), self.log.text
        return reply.text


@pytest.fixture
def world(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    clock, token = SystemClock(), secrets.mint("user")
    store = SqliteStore(tmp_path / "balsam.db", durable=False)
    store.write_sync(lambda tx: accounts.ensure_local_user(tx, "ann", token, clock.now()))
    app = create_app(ServerSettings(data_dir=tmp_path / "data"), store, clock)
    cookies = {"balsam-session-80": token}
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}, cookies=cookies) as client:
        yield World(client, store, caplog)
    store.close()


def boom(*given: Any, **named: Any) -> Any:
    raise RuntimeError(INSIDE)


def test_t17_in_a_route(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "mint", boom)
    world.fails("POST", "/api/tokens", json={"label": "x", "scopes": ["jobs:read"]})


def test_t17_in_a_use_case(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "jobs_page_text", boom)
    world.fails("GET", "/api/jobs")


def test_t17_in_a_read_of_the_store(world: World) -> None:
    world.break_table("batch_jobs")
    world.fails("GET", "/api/batch-jobs", "no such table")


def test_t17_in_a_write_of_the_store(world: World) -> None:
    world.break_table("audit_log")
    world.fails("POST", "/api/tokens", "no such table", json={"label": "x", "scopes": ["jobs:read"]})
    assert len(world.client.get("/api/tokens").json()["results"]) == 1, "half of it is there"


def test_t17_in_the_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"name": "s", "path": "/s"}
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "_save", boom)
        world.fails("POST", "/api/sites", json=body)
    assert world.client.post("/api/sites", json=body).status_code == 201


def test_t17_in_the_writer_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread goes on: a later write is answered."""
    body = {"name": "s", "path": "/s"}
    with monkeypatch.context() as patch:
        patch.setattr(world.store._writer, "_write_group", boom)
        world.fails("POST", "/api/sites", json=body)
    assert world.client.post("/api/sites", json=body).status_code == 201


def test_t17_at_the_start_of_a_stream(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broker, "open", boom)
    world.fails("GET", "/api/jobs/stream")


def test_t17_in_the_middle_of_a_stream(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status was sent: the stream breaks off, without a word of why."""
    monkeypatch.setattr(Mailbox, "wait", boom)
    reply = world.client.get("/api/jobs/stream")
    assert reply.text == "event: hello\ndata: {}\n\n" and reply.status_code == 200
    assert INSIDE in world.log.text and f"request {reply.headers['x-request-id']}" in world.log.text


@pytest.mark.parametrize("path", ["/ui", "/ui/jobs", "/ui/tokens"])
def test_t17_in_a_page(world: World, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    assert world.client.get(path).status_code == 200
    monkeypatch.setattr(frame.Frame, "show", boom)
    assert "To the first page" in world.fails("GET", path)


def test_t17_in_a_page_that_needs_no_login(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.break_table("device_logins")
    assert "To the first page" in world.fails("GET", "/ui/enter?code=x", "no such table")


def test_t17_in_the_page_of_errors_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame.Frame, "bare", boom)
    world.fails("GET", "/ui")


def test_t17_in_the_blobs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"content"
    name, place = sha256(content).hexdigest(), "/api/blobs/uploads/x"
    query = {"offset": 0, "size_bytes": len(content), "sha256": name}
    with monkeypatch.context() as patch:
        patch.setattr(DiskStorage, "keep", boom)
        world.fails("PUT", place, params=query, content=content)
    rest = {**query, "offset": len(content)}
    assert world.client.put(place, params=rest, content=b"").status_code == 200, "what was sent is lost"
    monkeypatch.setattr(DiskStorage, "open", boom)
    world.fails("GET", f"/api/blobs/{name}")
