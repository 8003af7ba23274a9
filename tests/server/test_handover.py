"""A service makes room for its successor under load: no request fails and no stream is left hanging.

Nor is anybody left waiting whose Job ends meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from balsam.aio import AsyncClient
from balsam.client import watcher
from balsam.client.client import Client
from balsam.client.settings import ClientSettings
from tests.server.sse import Listener
from tests.server.world import Person, furnish, make_jobs, make_user, ok
from tests.services import RunningService, running_service
from tests.testbed.load import sessions
from tests.testbed.postgres import PostgresServer

pytestmark = pytest.mark.slow
PATIENCE_SEC = 60.0
# Who waits has heard of an end so long after the successor answers; by polling it would be up to SAFETY_POLL_SEC, 30 s.
PROMPT_SEC = 10.0


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


class Launcher:
    """A Session that has started Jobs and reports their ends, without processes."""

    def __init__(self, service: RunningService, person: Person, job_ids: list[int]) -> None:
        [session] = sessions(service, person, 1)
        self._service, self._token, self._place = service, session["token"], f"/api/sessions/{session['id']}"
        self._numbers = itertools.count(1)
        with service.client(self._token) as client:
            granted = ok(client.post(f"{self._place}/acquire", json={"acquire_seq": 1, "max_jobs": 100}))["jobs"]
        self._tokens = {job["id"]: job["token"] for job in granted}
        self.report(self.body(dict.fromkeys(job_ids)))

    def body(self, ends: dict[int, int | None]) -> bytes:
        """A report that these Jobs have ended with these exit codes; with None, that they have started."""
        events = {
            job_id: "started" if code is None else "run_error" if code else "run_done" for job_id, code in ends.items()
        }
        records = [
            {
                "seq": next(self._numbers),
                "job_id": job_id,
                "token": self._tokens[job_id],
                "event": events[job_id],
                "at": datetime.now(UTC).isoformat(),
                **({} if code is None else {"return_code": code}),
            }
            for job_id, code in ends.items()
        ]
        return json.dumps({"records": records}).encode()

    def report(self, body: bytes, release: threading.Event | None = None) -> float:
        """Send it, its end only after `release`; when it was answered."""

        def parts() -> Iterator[bytes]:
            yield body[:20]
            assert release is None or release.wait(PATIENCE_SEC)
            yield body[20:]

        with self._service.client(self._token) as client:
            client.timeout = httpx2.Timeout(PATIENCE_SEC)
            assert ok(client.post(f"{self._place}/report", content=parts()))["fenced"] == []
        return time.monotonic()


@dataclass
class Waiters:
    """Who waits for Jobs in the ways of the SDK, each with a stream of its own; what each heard of, and when."""

    heard: dict[tuple[str, int], float] = field(default_factory=dict)
    ends: list[tuple[str, int, str, int | None]] = field(default_factory=list)

    def note(self, who: str, job: Any) -> None:
        self.heard[who, job.id] = time.monotonic()
        self.ends.append((who, job.id, str(job.state.value), job.return_code))

    def wait(self, client: Client, job_ids: list[int]) -> None:
        [job] = client.Job.objects.filter(id=job_ids)
        assert job.wait(timeout=PATIENCE_SEC)
        self.note("wait", job)

    def complete(self, client: Client, job_ids: list[int]) -> None:
        jobs = list(client.Job.objects.filter(id=job_ids))
        for job in client.Job.objects.as_completed(jobs, timeout=PATIENCE_SEC):
            self.note("as_completed", job)

    def await_all(self, client: Client, job_ids: list[int]) -> None:
        async def one(balsam: AsyncClient, job: Any) -> None:
            assert (await balsam.Job.objects.wait([job], timeout=PATIENCE_SEC)).not_done == []
            self.note("aio.wait", job)

        async def main() -> None:
            async with AsyncClient(client=client) as balsam:
                jobs = await balsam.Job.objects.filter(id=job_ids).list()
                alone = [asyncio.create_task(one(balsam, job)) for job in jobs]
                async for job in balsam.Job.objects.as_completed(jobs, timeout=PATIENCE_SEC):
                    self.note("aio.as_completed", job)
                await asyncio.gather(*alone)

        asyncio.run(main())


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SEC
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


def is_settled(client: Client, count: int) -> bool:
    """Whether the stream is up, and what is known of so many Jobs is sure: nothing has to be read any more."""
    watches = list(client.watcher._watches.values())
    return client.watcher.epoch is not None and len(watches) == count and all(watch.sure for watch in watches)


def test_who_waits_hears_at_once_of_jobs_that_ended_while_the_service_started_anew(
    service: RunningService, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str], None]
) -> None:
    """By the greeting of the new stream alone: what would be found by polling is not looked for here."""
    monkeypatch.setattr(watcher, "SAFETY_POLL_SEC", 600.0)
    monkeypatch.setattr(watcher, "DOWN_POLL_SEC", 600.0)
    ann = furnish(service, make_user(service, "ann"))
    with service.client(ann.token) as client:
        job_ids = make_jobs(client, ann.app_id, 12)
    early, amid, late = job_ids[:4], job_ids[4:8], job_ids[8:]
    launcher = Launcher(service, ann, job_ids)
    codes: dict[int, int | None] = dict.fromkeys(job_ids, 0) | {amid[1]: 3}
    waiters, release = Waiters(), threading.Event()
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(4))
        stack.callback(release.set)
        watched = [(waiters.wait, amid[:1]), (waiters.complete, job_ids), (waiters.await_all, job_ids)]
        clients = [stack.enter_context(Client(ClientSettings(service.url, ann.token))) for _ in watched]
        waits = [pool.submit(work, client, ids) for client, (work, ids) in zip(clients, watched, strict=True)]
        for client, (_, ids) in zip(clients, watched, strict=True):
            until(lambda client=client, ids=ids: is_settled(client, len(ids)), "nobody waits")  # type: ignore[misc]
        first, before = [client.watcher.epoch for client in clients], instance_of(service)
        launcher.report(launcher.body({job_id: codes[job_id] for job_id in early}))
        amid_body = launcher.body({job_id: codes[job_id] for job_id in amid})

        # A request whose body is on its way is answered by the old service, after the streams have ended.
        answered = pool.submit(launcher.report, amid_body, release)
        service.process.send_signal(signal.SIGUSR2)
        for number, client in enumerate(clients):
            until(lambda client=client, n=number: client.watcher.epoch != first[n], service.log)  # type: ignore[misc]
        if "--workers" not in service.options:  # there the new workers are greeting already
            assert [client.watcher.epoch for client in clients] == [None] * len(clients)
        release.set()
        ended_at = answered.result(PATIENCE_SEC)
        until(lambda: instance_of(service) != before, service.log)
        back_at = time.monotonic()
        launcher.report(launcher.body({job_id: codes[job_id] for job_id in late}))
        for one in waits:
            one.result(PATIENCE_SEC)
    expected = {i: ("FAILED", 3) if codes[i] else ("JOB_FINISHED", 0) for i in job_ids}
    for who, ids in {
        "wait": amid[:1],
        **dict.fromkeys(("as_completed", "aio.wait", "aio.as_completed"), job_ids),
    }.items():
        told = [(job_id, (state, code)) for name, job_id, state, code in waiters.ends if name == who]
        assert sorted(told) == sorted((job_id, expected[job_id]) for job_id in ids), f"{who}: each once, as it ended"
    slowest_sec = max(at for (_, job_id), at in waiters.heard.items() if job_id in amid) - max(ended_at, back_at)
    assert slowest_sec < PROMPT_SEC
    figure(f"who waits hears {max(0.0, slowest_sec):.2f} s after the successor answers what ended before it did")


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
