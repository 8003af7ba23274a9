"""What several processes do at random on one database, and what must be true of the rows then."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg

from balsam.domain.states import RUNNABLE_STATES, JobState
from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import ServiceError
from balsam.server.store.codec import STATES
from balsam.server.store.protocol import GuardFailed, Store
from balsam.server.store.selections import JobSelection
from balsam.testing.store_conformance_jobs import replayed
from balsam.testing.store_world import StoreWorld
from balsam.wire.sessions import GrantedJob, LaunchEvent

E = LaunchEvent


def seen_by(world: StoreWorld, store: Store) -> StoreWorld:
    """The same user, Site and App through another process."""
    other = StoreWorld.__new__(StoreWorld)
    other.__dict__.update(world.__dict__, store=store, wakes=[])
    store.subscribe(other.wakes.extend)
    return other


def together(*calls: Callable[[], object]) -> list[object]:
    """The answers of calls that begin at the same moment; refusals are answers."""
    barrier = threading.Barrier(len(calls))
    answers: list[object] = [None] * len(calls)

    def one(place: int) -> None:
        barrier.wait()
        try:
            answers[place] = calls[place]()
        except Exception as error:
            answers[place] = error

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Life:
    """One process that does at random what users and launchers do."""

    def __init__(self, world: StoreWorld, seed: int, granted: list[tuple[int, int]], faults: list[str]) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.granted = granted
        self.faults = faults
        self.session = world.open_session().id
        self.held: list[GrantedJob] = []

    def some(self, count: int = 3) -> list[int]:
        ids = self.world.read(lambda tx: tx.job_ids(JobSelection(self.world.ada.user_id), 0, 10_000))
        return self.random.sample(ids, min(count, len(ids)))

    def step(self) -> None:
        verbs = (self.submit, self.submit_child, self.acquire, self.report, self.report, self.cancel, self.retry)
        verb = self.random.choice((*verbs, self.change, self.delete, self.close))
        try:
            verb()
        except ServiceError as error:
            # A parent that was deleted meanwhile, a Session that has just been closed: refused as one after another.
            if error.status >= 500:
                self.faults.append(f"{verb.__name__}: {error!r}")

    def submit(self) -> None:
        self.world.submit(self.random.randint(1, 4), tags=self.random.choice([{}, {"a": "1"}]))

    def submit_child(self) -> None:
        self.world.submit(1, parent_ids=self.some(2))

    def acquire(self) -> None:
        jobs = self.world.acquire(self.session, 4, filter_tags=self.random.choice([{}, {}, {"a": "1"}]))
        self.granted += [(job.id, job.token) for job in jobs]
        self.held += jobs

    def report(self) -> None:
        if self.held:
            job = self.held.pop(self.random.randrange(len(self.held)))
            end = self.random.choice([E.RUN_DONE, E.RUN_DONE, E.RUN_ERROR, E.RUN_TIMEOUT])
            self.world.tell(self.session, job, E.STARTED, end, return_code=0)

    def cancel(self) -> None:
        self.world.cancel(self.some(2))

    def retry(self) -> None:
        self.world.retry(self.some(3))

    def change(self) -> None:
        job_ids = self.some(2)
        columns = {"priority": self.random.randint(-1, 1), "tags": self.random.choice([{}, {"a": "1"}, {"b": "2"}])}
        with suppress(GuardFailed):  # deleted meanwhile
            self.world.write(lambda tx: tx.change_jobs(dict.fromkeys(sorted(job_ids), columns), 77))

    def delete(self) -> None:
        self.world.delete(self.some(1))

    def close(self) -> None:
        self.world.close(self.session, lost=self.random.random() < 0.5)
        self.session, self.held = self.world.open_session().id, []


Rows = Callable[[str], list[Any]]  # of a statement, in the database itself


def rows_of(address: DatabaseAddress) -> Rows:
    def rows(sql: str) -> list[Any]:
        with psycopg.connect(address.text) as db:
            return db.execute(sql.encode()).fetchall()

    return rows


def check(world: StoreWorld, rows: Rows, every: int = 1) -> None:
    """What must be true of the rows, however they came to be. The log is replayed for one Job of `every`."""
    jobs = {row[0]: row for row in rows("SELECT id, state, session_id, tags FROM jobs")}
    kept = dict(rows("SELECT state, sum(n) FROM state_counts WHERE state > 0 GROUP BY state HAVING sum(n) <> 0"))
    ((events, counted),) = rows(
        "SELECT (SELECT count(*) FROM events), (SELECT sum(n) FROM state_counts WHERE state = 0)"
    )
    links = rows("SELECT parent_id, child_id, unfinished FROM job_parents")
    offered = Counter(row[0] for row in rows("SELECT job_id FROM runnable_tags"))
    assert kept == Counter(state for _, state, _, _ in jobs.values()), "the counters are wrong"
    assert events == (counted or 0), "the number of events is wrong"
    for job_id, state, session_id, tags in jobs.values():
        if job_id % every == 0:
            assert replayed(world, job_id) is STATES[state]
        free = session_id is None and STATES[state] in RUNNABLE_STATES
        assert offered[job_id] == (0 if not free or tags == "{}" else 1), f"Job {job_id} in runnable_tags"
    for parent, child, unfinished in links:
        if parent in jobs and child in jobs:
            finished = STATES[jobs[parent][1]] is JobState.JOB_FINISHED
            assert unfinished == (not finished), f"Jobs {parent} > {child}"
    for child, state, _, _ in jobs.values():
        if STATES[state] is JobState.AWAITING_PARENTS:
            assert any(one == child and unfinished for _, one, unfinished in links), (
                f"Job {child} waits for nobody (L1)"
            )
