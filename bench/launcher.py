"""A launcher over plain HTTP that runs nothing: what acquires (G9) and reports (G8) cost without one."""

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx2

from bench import machine
from tests.server.world import Person, ok
from tests.services import RunningService

BATCH = 100
SUBMIT = 5_000


def at_once(calls: Sequence[Callable[[], object]]) -> float:
    """Seconds that calls take together, each in a thread of its own."""
    with ThreadPoolExecutor(len(calls)) as pool:
        begin = time.perf_counter()
        for done in [pool.submit(call) for call in calls]:
            done.result()
        return time.perf_counter() - begin


def read_ms(client: httpx2.Client, path: str) -> float:
    """How long a GET takes that is answered with what it asks for."""
    return machine.timed_ms(lambda: client.get(path).raise_for_status())


class Launcher:
    """One Session over plain HTTP."""

    def __init__(self, service: RunningService, person: Person) -> None:
        self._user, self._site = service.client(person.token), service.client(person.site_token)
        self._place, self._app_id = f"/api/sessions/{person.session_id}", person.app_id
        self._turns, self._numbers = itertools.count(1), itertools.count(1)
        # Ids and tokens: whole Jobs by the ten thousand made this side slower and slower.
        self._held: list[tuple[int, int]] = []
        self._known: dict[int, str] = {}
        self.left = 0

    def fill(self, until: int) -> None:
        """Submit until so many Jobs can be acquired."""
        while self.left < until:
            count = min(SUBMIT, until - self.left)
            jobs = [{"app_id": self._app_id, "workdir": f"bench/{number}"} for number in range(count)]
            ok(self._user.post("/api/jobs", json={"jobs": jobs}, timeout=120))
            self.left += count

    def acquire_rate(self, batches: int) -> float:
        """Jobs per second."""
        begin, count = time.perf_counter(), 0
        for _ in range(batches):
            asked = {"acquire_seq": next(self._turns), "max_jobs": BATCH, "known_apps": self._known}
            answer = ok(self._site.post(f"{self._place}/acquire", json=asked))
            self._known |= {app["id"]: app["content_hash"] for app in answer["apps"]}
            self._held += [(job["id"], job["token"]) for job in answer["jobs"]]
            count += len(answer["jobs"])
        self.left -= count
        return count / (time.perf_counter() - begin)

    def update(self, most: int | None = None, report: int = BATCH) -> int:
        """Held Jobs, the first so many of them, start, and end in a report of their own; how many states that changed,
        each with its event row. `report`: of how many Jobs one report tells."""
        held, self._held = self._held[:most], []
        if not held:
            return 0
        before = self._events(held[0][0])
        at = datetime.now(UTC).isoformat()
        for start in range(0, len(held), report):
            for event in ("started", "run_done"):
                records = [
                    {"seq": next(self._numbers), "job_id": job_id, "token": token, "event": event, "at": at}
                    for job_id, token in held[start : start + report]
                ]
                ok(self._site.post(f"{self._place}/report", json={"records": records}))
        return (self._events(held[0][0]) - before) * len(held)

    def _events(self, job_id: int) -> int:
        """How many events a Job has; the bench's Jobs are all alike."""
        return len(ok(self._user.get(f"/api/events?job_id={job_id}"))["results"])
