"""Load on a running service that keeps books: what was acknowledged, what failed and when.

A submitter sends Jobs under Idempotency-Keys until they are taken, a launcher acquires and reports by its numbers until
it is answered: the two ways in which clients of this service repeat what they don't know the fate of (S2, S3).
"""

from __future__ import annotations

import itertools
import ssl
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx2

from tests.server.world import Person, ok
from tests.services import RunningService

PATIENCE_SEC = 60.0
AT_ONCE = 4  # Jobs in one submission


@dataclass
class Books:
    """What the load knows."""

    submitted: dict[int, str] = field(default_factory=dict)  # acknowledged id -> workdir
    finished: set[int] = field(default_factory=set)  # acknowledged reports of run_done
    granted: list[tuple[int, int]] = field(default_factory=list)  # (Job, token), each once
    failed_at: list[float] = field(default_factory=list)
    slowest_sec: float = 0.0
    broken: list[str] = field(default_factory=list)

    def clean_after(self) -> float:
        """When the last request failed, on the clock of time.monotonic."""
        return max(self.failed_at, default=0.0)


class Caller:
    """Asks one process of the service until that one fails, then the next. Each request has a connection of its own."""

    def __init__(self, services: list[RunningService], trusted: ssl.SSLContext | None) -> None:
        self._services = itertools.cycle(services)
        self._url = next(self._services).url
        self._client = httpx2.Client(
            timeout=30,
            trust_env=False,
            limits=httpx2.Limits(max_keepalive_connections=0),
            headers={"Balsam-Wire": "1"},
            verify=trusted or ssl.create_default_context(),
        )

    def __enter__(self) -> None:
        self._client.__enter__()

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def post(self, token: str, path: str, body: Mapping[str, Any], key: str) -> tuple[str, Any]:
        """What was said instead of an answer, or the answer."""
        headers = {"Authorization": f"Bearer {token}", **({"Idempotency-Key": key} if key else {})}
        try:
            reply = self._client.post(self._url + path, json=body, headers=headers)
            if reply.status_code < 500:
                return "", ok(reply)
            said = reply.text
        except httpx2.HTTPError as error:
            said = repr(error)
        self._url = next(self._services).url
        return said, None


class Load:
    """Submitters and launchers, each in a thread with connections of its own."""

    def __init__(
        self,
        services: list[RunningService],
        person: Person,
        launchers: list[dict[str, Any]],
        trusted: ssl.SSLContext | None = None,
    ) -> None:
        self.books = Books()
        self._person = person
        self._stopping = threading.Event()
        caller = partial(Caller, trusted=trusted)
        works: list[tuple[Any, Any]]
        works = [(self._submit, n) for n in range(3)] + [(self._launch, session) for session in launchers]
        self._threads = [
            threading.Thread(target=self._guarded, args=(work, caller(services[n % len(services) :] + services), what))
            for n, (work, what) in enumerate(works)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, work: Any, caller: Caller, what: Any) -> None:
        try:
            with caller:
                work(caller, what)
        except Exception as error:
            self.books.broken.append(f"{work.__name__}: {error!r}")

    def _until_answered(self, caller: Caller, token: str, path: str, body: Mapping[str, Any], key: str = "") -> Any:
        """Repeat the same request, with whichever process answers, until it is taken."""
        begin = time.monotonic()
        while True:
            said, answer = caller.post(token, path, body, key)
            if answer is not None:
                self.books.slowest_sec = max(self.books.slowest_sec, time.monotonic() - begin)
                return answer
            self.books.failed_at.append(time.monotonic())
            if time.monotonic() > begin + PATIENCE_SEC:
                raise AssertionError(f"{path} was not answered for {PATIENCE_SEC:.0f} s: {said}")
            time.sleep(0.05)

    def _submit(self, caller: Caller, number: int) -> None:
        for turn in itertools.count():
            if self._stopping.is_set():
                return
            names = [f"load/{number}/{turn}/{place}" for place in range(AT_ONCE)]
            body = {"jobs": [{"app_id": self._person.app_id, "workdir": name} for name in names]}
            answer = self._until_answered(caller, self._person.token, "/api/jobs", body, uuid.uuid4().hex)
            self.books.submitted.update(zip(answer["ids"], names, strict=True))

    def _launch(self, caller: Caller, session: Mapping[str, Any]) -> None:
        place, token = f"/api/sessions/{session['id']}", session["token"]
        numbers = itertools.count(1)
        for turn in itertools.count(1):
            if self._stopping.is_set():
                return
            answer = self._until_answered(caller, token, f"{place}/acquire", {"acquire_seq": turn, "max_jobs": 5})
            self.books.granted += [(job["id"], job["token"]) for job in answer["jobs"]]
            at = datetime.now(UTC).isoformat()
            records = [
                {"seq": next(numbers), "job_id": job["id"], "token": job["token"], "event": event, "at": at, **more}
                for job in answer["jobs"]
                for event, more in (("started", {}), ("run_done", {"return_code": 0}))
            ]
            if records:
                told = self._until_answered(caller, token, f"{place}/report", {"records": records})
                assert told["fenced"] == [], "a run was fenced: its Job had been given to somebody else"
                self.books.finished.update(job["id"] for job in answer["jobs"])
            else:
                time.sleep(0.02)


def sessions(service: RunningService, person: Person, count: int) -> list[dict[str, Any]]:
    """Sessions of launchers, each with the token of its own."""
    made: list[dict[str, Any]] = []
    with service.client(person.site_token) as agent:
        for _ in range(count):
            body = {"site_id": person.site_id, "batch_job_id": person.batch_job_id}
            made.append({"id": ok(agent.post("/api/sessions", json=body))["id"], "token": person.site_token})
    return made


@contextmanager
def load_on(
    services: list[RunningService],
    person: Person,
    launchers: int = 2,
    through: tuple[RunningService, ssl.SSLContext] | None = None,
) -> Iterator[Load]:
    """Load for the length of a block; all of it goes `through` a proxy with this address, when there is one."""
    proxy, trusted = through or (None, None)
    asked = services if proxy is None else [proxy]
    load = Load(asked, person, sessions(services[0], person, launchers), trusted)
    load.start()
    try:
        yield load
    finally:
        load.stop()
