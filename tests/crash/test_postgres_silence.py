"""PostgreSQL that says nothing: its packets are thrown away, or it stands still. Nobody waits long, all is well after.

A connection that is closed is noticed at once (test_postgres.py). Here nothing is closed and nobody refuses anything.
"""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest

from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import Unavailable
from balsam.server.store.postgres import connection, groups
from balsam.server.store.postgres.store import PostgresStore
from balsam.server.store.records import UserRow
from tests.conformance.histories import until
from tests.server.world import Person, furnish, make_user, ok
from tests.services import RunningService, running_service
from tests.testbed.own_network import OwnNetwork, own_network
from tests.testbed.postgres import PostgresServer, wheel_programs

ASKERS = 40
ANSWERED_SEC = 25.0  # 10 s until TCP gives up, 5 s for a new connection; the rest is for a busy machine
BACK_SEC = 10.0


def ask(service: RunningService, person: Person, number: int) -> tuple[float, httpx2.Response, str]:
    """Every fourth writes. How long it took, what was said, and the key of a write."""
    key = uuid.uuid4().hex if number % 4 == 0 else ""
    begin = time.monotonic()
    with service.client(person.token) as client:
        client.timeout = httpx2.Timeout(120)
        answer = submit(client, person, key) if key else client.get("/api/jobs", params={"limit": number})
    return time.monotonic() - begin, answer, key


def submit(client: httpx2.Client, person: Person, key: str) -> httpx2.Response:
    body = {"jobs": [{"app_id": person.app_id, "workdir": f"silence/{key}"}]}
    return client.post("/api/jobs", json=body, headers={"Idempotency-Key": key})


def count(client: httpx2.Client) -> int:
    return int(ok(client.get("/api/jobs", params={"limit": 1}))["count"])


@pytest.fixture
def silenced(tmp_path: Path) -> Iterator[tuple[OwnNetwork, int, RunningService]]:
    """A service and its database, which reach each other over a network of this test's own; the database's port."""
    with ExitStack() as stack:
        network = stack.enter_context(own_network())
        server = stack.enter_context(closing(PostgresServer(wheel_programs(), tcp=True)))
        address = stack.enter_context(server.migrated())
        url = server.tcp_url(urlsplit(address.text).path.removeprefix("/"))
        service = stack.enter_context(running_service(tmp_path / "balsam", env={"BALSAM_DATABASE": url}))
        yield network, server.port, service


def test_packets_to_the_database_vanish(
    silenced: tuple[OwnNetwork, int, RunningService], figure: Callable[[str], None]
) -> None:
    """Requests, also those that queue behind others, end in bounded time; the process goes on by itself afterwards."""
    network, port, service = silenced
    person = furnish(service, make_user(service, "ann"))
    with service.client(person.token) as client:
        before = count(client)
        with network.dropping(port), ThreadPoolExecutor(ASKERS) as pool:
            asked = [pool.submit(ask, service, person, number) for number in range(ASKERS)]
            assert client.get("/healthz").status_code == 200, "the process itself stands still"
            answers = [one.result() for one in asked]
        slowest = max(seconds for seconds, _, _ in answers)
        assert {answer.status_code for _, answer, _ in answers} == {503}
        assert all(int(answer.headers["retry-after"]) > 0 for _, answer, _ in answers)
        assert slowest < ANSWERED_SEC
        until(lambda: client.get("/readyz").status_code == 200, BACK_SEC)
        keys = [key for _, _, key in answers if key]
        for key in keys:
            ok(submit(client, person, key))
        assert count(client) == before + len(keys), "each is there once (S2)"
    figure(f"{ASKERS} requests into the silence: each answered 503, the slowest after {slowest:.1f} s")


@contextmanager
def frozen(server: PostgresServer) -> Iterator[None]:
    """All its processes stand still: the kernel acknowledges what is sent to them, and nobody reads it."""
    main = psutil.Process(server.pid)
    processes = [main, *main.children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGCONT)


def test_a_database_that_stands_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((connection, "ANSWER_SEC"), (groups, "WRITE_LIMIT_SEC")):
        monkeypatch.setattr(module, name, 0.5)
    with closing(PostgresServer(wheel_programs())) as server, server.migrated() as address:
        quick = DatabaseAddress(address.text + "&connect_timeout=2")
        with closing(PostgresStore(quick, read_limit_sec=0.5)) as store, ThreadPoolExecutor(20) as pool:
            calls: list[Any] = [lambda: store.read_sync(look), lambda: store.write_sync(look)]
            for call in calls:
                assert call() == []
            begin = time.monotonic()
            with frozen(server):
                asked = [pool.submit(calls[number % 2]) for number in range(20)]
                errors = [one.exception(60) for one in asked]
            assert all(isinstance(error, Unavailable) for error in errors), errors
            # 1 s of silence, then a try or two of a connection, of 2 s each; not one for each that waits.
            assert time.monotonic() - begin < 15
            for call in calls:
                until(lambda call=call: answers(call))
            until(store.leads)


def look(tx: Any) -> list[UserRow]:
    return list(tx.find(UserRow, username="nobody"))


def answers(call: Any) -> bool:
    try:
        return bool(call() == [])
    except Unavailable:
        return False
