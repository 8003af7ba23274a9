"""A service of several processes on PostgreSQL: whatever one process knows, the others act upon.

Two processes with a port each, so that a test decides who gets a request, and services started with --workers.
"""

from __future__ import annotations

import base64
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from balsam.server.command import up
from balsam.server.database_address import DatabaseAddress
from balsam.server.run import STOP_SEC
from balsam.server.workers import SAME_SIGNAL_SEC
from balsam.wire.limits import MAX_FILE_READ_BYTES
from tests.server.file_requests import Asking, put
from tests.server.sse import Listener
from tests.server.test_app import slow_request
from tests.server.world import PASSWORD, Person, batch_job_body, furnish, make_jobs, make_site, make_user, ok
from tests.services import RunningService, start_service
from tests.testbed.postgres import PostgresServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(postgres: PostgresServer) -> Iterator[DatabaseAddress]:
    with postgres.migrated() as address:
        yield address


@pytest.fixture(scope="module")
def pair(
    address: DatabaseAddress, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningService, RunningService]]:
    """Two processes of one service."""
    home, env = tmp_path_factory.mktemp("home") / "balsam", {"BALSAM_DATABASE": address.text}
    started = [start_service(home, env=env) for _ in range(2)]
    yield started[0], started[1]
    for service in started:
        service.stop()


@pytest.fixture(scope="module")
def ann(pair: tuple[RunningService, RunningService]) -> Person:
    return furnish(pair[0], make_user(pair[0], "ann"))


def until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


# Streams


def test_a_commit_of_one_process_wakes_the_streams_of_the_other(
    pair: tuple[RunningService, RunningService], ann: Person
) -> None:
    here, there = pair
    with (
        Listener(there, f"/api/sessions/{ann.session_id}/stream", ann.launcher_token) as launcher,
        Listener(there, "/api/jobs/stream", ann.token) as person,
        here.client(ann.token) as client,
    ):
        (job_id,) = make_jobs(client, ann.app_id)
        launcher.wait("work")
        ok(client.post("/api/jobs/cancel", json={"filter": {"id": [job_id]}}))
        assert [job_id, "CANCELLED", None] in person.wait("states")["jobs"]


def test_a_stream_is_told_to_look_again_when_the_ear_was_lost(
    pair: tuple[RunningService, RunningService], ann: Person, address: DatabaseAddress
) -> None:
    """What was committed in between by others is not known: the reader reads the state (pushes are hints)."""
    with Listener(pair[1], f"/api/sessions/{ann.session_id}/stream", ann.launcher_token) as launcher:
        with psycopg.connect(address.text, autocommit=True) as db:
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'balsam listener'"
            )
        launcher.wait("hello", after=1)
        with pair[0].client(ann.token) as client:
            make_jobs(client, ann.app_id)
        launcher.wait("work")


# Tokens


def test_a_revoked_token_ends_in_every_process(pair: tuple[RunningService, RunningService], ann: Person) -> None:
    login = {"username": "ann", "password": PASSWORD}
    with pair[0].client("") as client:
        token = ok(client.post("/api/auth/login", json=login))["token"]
    with (
        pair[0].client(token) as here,
        pair[1].client(token) as there,
        Listener(pair[1], "/api/jobs/stream", token) as stream,
    ):
        assert ok(there.get("/api/auth/me"))["username"] == "ann", "now the other process remembers it"
        ok(here.post("/api/auth/logout"))
        assert here.get("/api/auth/me").status_code == 401
        until(lambda: there.get("/api/auth/me").status_code == 401, "the other process never heard of it", 5)
        until(lambda: stream.ended != "", "its stream went on")


def test_logins_are_counted_over_all_processes(pair: tuple[RunningService, RunningService]) -> None:
    make_user(pair[0], "carl")  # one login
    statuses = []
    for turn in range(6):
        with pair[turn % 2].client("") as client:
            reply = client.post("/api/auth/login", json={"username": "carl", "password": "wrong wrong wrong"})
            statuses.append(reply.status_code)
            time.sleep(0.2)  # for the news to arrive
    assert statuses == [401] * 4 + [429] * 2


# Files of a workdir


@pytest.mark.parametrize(("asked", "heard", "answered"), [(0, 1, 1), (0, 1, 0), (0, 0, 1)])
def test_files_are_asked_heard_and_answered_through_any_process(
    pair: tuple[RunningService, RunningService], ann: Person, asked: int, heard: int, answered: int
) -> None:
    content = os.urandom(MAX_FILE_READ_BYTES)
    body = {"data": base64.b64encode(content).decode(), "size_bytes": len(content), "offset": 0}
    bob = furnish(pair[0], make_user(pair[0], f"bob{asked}{heard}{answered}"))
    with Listener(pair[heard], f"/api/sites/{ann.site_id}/stream", ann.site_token) as agent:
        with pair[0].client(ann.site_token) as client:
            lease = {"instance": "one", "hostname": "h", "pid": 1}
            ok(client.post(f"/api/sites/{ann.site_id}/agent", json=lease))
        asking = Asking(pair[asked], ann.token, f"/api/jobs/{ann.job_id}/files/content?path=big")
        request = agent.wait("file_request")
        assert put(pair[answered], bob.site_token, request["id"], body).status_code == 404, "another Site's answer"
        assert put(pair[answered], ann.site_token, request["id"], body).status_code == 204
        assert asking.answer().content == content
        assert put(pair[answered], ann.site_token, request["id"], body).status_code == 404, "answered twice"


def test_an_agent_that_connects_to_another_process_is_asked_again(
    pair: tuple[RunningService, RunningService], ann: Person
) -> None:
    with pair[0].client(ann.site_token) as client:
        ok(client.post(f"/api/sites/{ann.site_id}/agent", json={"instance": "one", "hostname": "h", "pid": 1}))
    asking = Asking(pair[0], ann.token, f"/api/jobs/{ann.job_id}/files")
    time.sleep(0.5)
    with Listener(pair[1], f"/api/sites/{ann.site_id}/stream", ann.site_token) as agent:
        request = agent.wait("file_request")
        assert put(pair[1], ann.site_token, request["id"], {"entries": []}).status_code == 204
    assert asking.answer().status_code == 200


def test_an_upload_goes_on_through_any_process(pair: tuple[RunningService, RunningService], ann: Person) -> None:
    content = os.urandom(300_000)
    third = len(content) // 3
    with pair[0].client(ann.token) as first, pair[1].client(ann.token) as second:
        for turn, client in enumerate((first, second, first)):
            query: dict[str, Any] = {"offset": turn * third, "size_bytes": len(content)}
            assert ok(client.get("/api/blobs/uploads/u"))["received_bytes"] == turn * third
            if turn == 2:
                query["sha256"] = sha256(content).hexdigest()
            piece = content[turn * third : (turn + 1) * third]
            ok(client.put("/api/blobs/uploads/u", params=query, content=piece))
        assert second.get(f"/api/blobs/{query['sha256']}").content == content
        assert ok(second.get("/api/blobs/uploads/u"))["received_bytes"] == 0


# What is decided once


def test_s2_a_key_sent_to_both_makes_one_set_of_jobs(pair: tuple[RunningService, RunningService], ann: Person) -> None:
    answers: list[Any] = []

    def submit(service: RunningService, key: str) -> None:
        with service.client(ann.token) as client:
            jobs = [{"app_id": ann.app_id, "workdir": f"k/{n}"} for n in range(3)]
            answers.append(ok(client.post("/api/jobs", json={"jobs": jobs}, headers={"Idempotency-Key": key})))

    for _ in range(5):
        key = uuid.uuid4().hex
        threads = [threading.Thread(target=submit, args=(service, key)) for service in pair]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers[-1] == answers[-2]


def test_a_site_has_one_agent_in_all_processes(pair: tuple[RunningService, RunningService], ann: Person) -> None:
    with pair[0].client(ann.token) as client:
        site = make_site(client)
    for service, instance, status in ((pair[0], "one", 200), (pair[1], "two", 409), (pair[1], "one", 200)):
        with service.client(site["token"]["token"]) as agent:
            body = {"instance": instance, "hostname": "h", "pid": 1}
            assert agent.post(f"/api/sites/{site['site']['id']}/agent", json=body).status_code == status


def test_a_launcher_s_token_ends_with_its_batch_job_in_every_process(
    pair: tuple[RunningService, RunningService], ann: Person
) -> None:
    with pair[0].client(ann.token) as client:
        batch_job = ok(client.post("/api/batch-jobs", json=batch_job_body(ann.site_id)))["id"]
    with pair[0].client(ann.site_token) as agent:
        token = ok(agent.post(f"/api/batch-jobs/{batch_job}/token"))["token"]
        with pair[1].client(token) as launcher:
            assert launcher.get("/api/auth/me").status_code == 200
            ok(agent.patch(f"/api/batch-jobs/{batch_job}", json={"state": "finished"}))
            until(lambda: launcher.get("/api/auth/me").status_code == 401, "the launcher's token lived on", 5)


# Workers


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(word) for word in found]


@pytest.fixture
def workers(postgres: PostgresServer, tmp_path: Path) -> Iterator[RunningService]:
    """Three workers on an empty database, whose address has a password."""
    with postgres.database() as name:
        url = postgres.url(name).replace("balsam@", "balsam:pass-word-5@", 1)
        service = start_service(tmp_path / "balsam", options=["--workers", "3"], env={"BALSAM_DATABASE": url})
        yield service
        if service.process.poll() is None:
            service.stop()


def test_workers_are_one_service(workers: RunningService) -> None:
    assert len(children(workers.pid)) == 3
    instances = set()
    for _ in range(12):
        with workers.client() as client:
            instances.add(ok(client.get("/api/version"))["instance"])
            assert ok(client.get("/api/auth/me"))["is_admin"]
    assert instances == {workers.instance}


def test_a_worker_that_dies_is_replaced(workers: RunningService) -> None:
    before = children(workers.pid)
    os.kill(before[0], signal.SIGKILL)
    until(lambda: len(set(children(workers.pid)) - set(before)) == 1, "no new worker", 30)
    with workers.client() as client:
        until(lambda: client.get("/readyz").status_code == 200, "nobody answers", 30)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_all_workers_in_order(workers: RunningService, sig: signal.Signals) -> None:
    pids = children(workers.pid)
    with Listener(workers, "/api/jobs/stream") as stream:
        assert workers.stop(sig) == 0
        until(lambda: stream.ended != "", "the stream went on")
        assert stream.ended == "clean"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert "Traceback" not in workers.log
    assert not (workers.home / "service.json").exists()


def test_a_second_signal_ends_the_waiting_of_all_workers(workers: RunningService) -> None:
    with slow_request(workers) as asking:
        workers.process.send_signal(signal.SIGTERM)
        time.sleep(SAME_SIGNAL_SEC + 0.1)
        begun = time.monotonic()
        assert workers.stop() == 0
        assert time.monotonic() - begun < STOP_SEC - 1
        assert asking.recv(10_000).startswith(b"HTTP/1.1 503 ")
    assert "Traceback" not in workers.log


def test_no_worker_outlives_its_parent(workers: RunningService) -> None:
    pids = children(workers.pid)
    workers.kill()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "a worker is left", 30)


def test_the_password_is_in_no_argument_and_no_log(workers: RunningService, postgres: PostgresServer) -> None:
    for pid in (workers.pid, *children(workers.pid)):
        assert b"pass-word-5" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'balsam %'")
    with workers.client() as client:
        until(lambda: client.get("/readyz").status_code == 200, "it never came back", 30)
    assert "pass-word-5" not in workers.log


def refused(home: Path, *options: str, **env: str) -> str:
    words = ["--port", "0", "--data-dir", str(home), *options]
    outcome = CliRunner().invoke(up, words, env={"BALSAM_HOME": str(home), **env})
    assert outcome.exit_code == 2, outcome.output
    return " ".join(outcome.output.split())


def test_starts_that_are_refused_say_why(postgres: PostgresServer, tmp_path: Path) -> None:
    url = "postgresql://ada:pass-word-5@127.0.0.1:1/balsam"
    said = refused(tmp_path, "--database", url)
    assert "BALSAM_DATABASE" in said
    assert "pass-word-5" not in said
    said = refused(tmp_path, BALSAM_DATABASE=url)
    assert "postgresql://ada@127.0.0.1:1/balsam can't be reached" in said
    assert "pass-word-5" not in said
    assert "--workers needs --database" in refused(tmp_path, "--workers", "2")
    assert "can't be read" in refused(tmp_path, BALSAM_DATABASE="postgresql://a:b@c@d/e")
    assert "--synchronous is for SQLite" in refused(tmp_path, "--synchronous", "NORMAL", BALSAM_DATABASE=url)
    with postgres.database() as name:
        postgres.execute("CREATE TABLE schema_migrations (number BIGINT, oldest_code BIGINT)", name)
        postgres.execute("INSERT INTO schema_migrations VALUES (1, 0)", name)
        assert "run: balsam server migrate" in refused(tmp_path, BALSAM_DATABASE=postgres.url(name))
        postgres.execute("INSERT INTO schema_migrations VALUES (999, 999)", name)
        assert "upgrade the service" in refused(tmp_path, BALSAM_DATABASE=postgres.url(name))


def test_without_psycopg_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "balsam.server.store.postgres.store", None)
    assert "pip install 'openbalsam[postgres]'" in refused(tmp_path, BALSAM_DATABASE="postgresql://db/balsam")


def test_the_option_is_documented() -> None:
    assert "BALSAM_DATABASE" in CliRunner().invoke(up, ["--help"]).output
