"""A service makes room for its successor under load: no request fails and no stream is left hanging."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from tests.server.sse import Listener
from tests.server.world import Person, furnish, make_user, ok
from tests.services import RunningService, running_service
from tests.testbed.postgres import PostgresServer

pytestmark = pytest.mark.slow
PATIENCE_SEC = 60.0


@pytest.fixture(params=["sqlite", "workers"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningService]:
    if request.param == "sqlite":
        with running_service(tmp_path / "home") as one:
            yield one
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    with postgres.migrated() as address:
        env = {"BALSAM_DATABASE": address.text}
        with running_service(tmp_path / "home", options=["--workers", "2"], env=env) as several:
            yield several


@dataclass
class Asking:
    """Clients that never repeat a request: whatever fails is noted."""

    service: RunningService
    person: Person
    answered: int = 0
    slowest_sec: float = 0.0
    faults: list[str] = field(default_factory=list)
    submitted: list[int] = field(default_factory=list)

    def client(self) -> httpx2.Client:
        return self.service.client(self.person.token)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()

    @contextmanager
    def going_on(self) -> Iterator[None]:
        works = [self._keep_alive, self._keep_alive, self._submit, self._connect_anew]
        threads = [threading.Thread(target=self._guarded, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join(PATIENCE_SEC)

    def _guarded(self, work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except Exception as error:
            self.faults.append(f"{getattr(work, '__name__', work)}: {error!r}")

    def _ask(self, client: httpx2.Client, method: str, path: str, **more: object) -> httpx2.Response:
        begin = time.monotonic()
        reply = client.request(method, path, **more)  # type: ignore[arg-type]
        self.slowest_sec = max(self.slowest_sec, time.monotonic() - begin)
        ok(reply)
        self.answered += 1
        return reply

    def _keep_alive(self) -> None:
        with self.client() as client:
            while not self._stopping.is_set():
                self._ask(client, "GET", "/api/jobs/counts")
                time.sleep(0.005)

    def _submit(self) -> None:
        with self.client() as client:
            while not self._stopping.is_set():
                body = {"jobs": [{"app_id": self.person.app_id, "workdir": "a"}]}
                self.submitted += self._ask(client, "POST", "/api/jobs", json=body).json()["ids"]

    def _connect_anew(self) -> None:
        while not self._stopping.is_set():
            with self.client() as client:
                self._ask(client, "GET", "/api/sites")
            time.sleep(0.005)


def instance_of(service: RunningService) -> str:
    with service.client() as client:
        return str(ok(client.get("/api/version"))["instance"])


def start_anew(service: RunningService) -> None:
    """Tell it, and wait until the successor answers alone."""
    before = instance_of(service)
    service.process.send_signal(signal.SIGUSR2)
    deadline, streak = time.monotonic() + PATIENCE_SEC, 0
    while streak < 10:
        assert time.monotonic() < deadline, service.log
        streak = streak + 1 if instance_of(service) != before else 0
        time.sleep(0.05)


def slow_upload(service: RunningService, token: str, hold: threading.Event, answers: list[int]) -> None:
    """A request whose body is still on its way when the service is told to make room."""

    def body() -> Iterator[bytes]:
        yield b'{"name": "slow", '
        hold.wait(PATIENCE_SEC)
        yield b'"path": "/p", "hostname": "h"}'

    with service.client(token) as client:
        answers.append(client.post("/api/sites", content=body()).status_code)


def test_no_request_fails_and_streams_are_told_when_a_service_starts_anew(
    service: RunningService, figure: Callable[[str], None]
) -> None:
    ann = furnish(service, make_user(service, "ann"))
    asking, hold, answers = Asking(service, ann), threading.Event(), list[int]()
    upload = threading.Thread(target=slow_upload, args=(service, ann.token, hold, answers))
    with asking.going_on(), Listener(service, "/api/jobs/stream", ann.token) as stream:
        upload.start()
        before = instance_of(service)
        service.process.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + PATIENCE_SEC
        while not stream.ended:
            assert time.monotonic() < deadline, service.log
            time.sleep(0.02)
        assert stream.ended == "clean", "told, so that it connects again at once"
        hold.set()  # only now: the request has outlived the order by seconds
        with Listener(service, "/api/jobs/stream", ann.token):
            while instance_of(service) == before:
                assert time.monotonic() < deadline, service.log
                time.sleep(0.05)
        upload.join(PATIENCE_SEC)
        done = asking.answered
        while asking.answered < done + 50 and not asking.faults:
            assert time.monotonic() < deadline, service.log
            time.sleep(0.02)
    assert asking.faults == [] and answers == [201]
    figure(f"a restart: {asking.answered} requests, none failed; the slowest took {asking.slowest_sec:.2f} s")
    with service.client(ann.token) as client:
        kept = {
            job["id"] for job in ok(client.post("/api/jobs/search", json={"id": asking.submitted[-900:]}))["results"]
        }
    assert kept == set(asking.submitted[-900:])
    assert service.process.poll() is None, "it is the same process"
    start_anew(service)  # and once more: the successor has a successor
    assert (service.home / "service.json").exists()
    assert service.stop() == 0
    assert not (service.home / "service.json").exists()


def test_a_socket_from_a_service_manager_is_used_and_outlives_the_service(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", _AS_SYSTEMD, str(sock.fileno()), sys.executable],
                pass_fds=[sock.fileno()],
                env={**os.environ, "BALSAM_HOME": str(tmp_path / "home")},
            )
            try:
                url = f"http://127.0.0.1:{port}/api/version"  # the connection waits until somebody answers
                assert httpx2.get(url, timeout=PATIENCE_SEC, trust_env=False).status_code == 200
            finally:
                process.terminate()
            assert process.wait(PATIENCE_SEC) == 0


_AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], [sys.argv[2], "-m", "balsam.server"])
"""


@pytest.mark.parametrize(("fds", "what"), [("2", "2 sockets"), ("1", "does not listen")])
def test_a_wrong_socket_is_refused(tmp_path: Path, fds: str, what: str) -> None:
    read_end, write_end = socket.socketpair()
    with read_end, write_end:
        script = _AS_SYSTEMD.replace('LISTEN_FDS="1"', f'LISTEN_FDS="{fds}"')
        done = subprocess.run(
            [sys.executable, "-c", script, str(read_end.fileno()), sys.executable],
            pass_fds=[read_end.fileno()],
            env={**os.environ, "BALSAM_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SEC,
        )
    assert done.returncode == 2 and what in done.stderr


def test_what_an_inherited_socket_lets_in_is_checked(tmp_path: Path) -> None:
    """A socket that others reach is refused without TLS, whatever --host says."""
    with socket.create_server(("0.0.0.0", 0)) as sock:
        done = subprocess.run(
            [sys.executable, "-c", _AS_SYSTEMD, str(sock.fileno()), sys.executable],
            pass_fds=[sock.fileno()],
            env={**os.environ, "BALSAM_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SEC,
        )
    assert done.returncode == 2 and "tokens in clear" in done.stderr
