"""How often a request goes to the PostgreSQL server and back: reads and submissions are made of little else.

These numbers only ever go down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest

from balsam.domain.states import JobState
from balsam.server.store.postgres.connection import Connection, PostgresDatabase
from balsam.server.store.postgres.pipeline import PipelinedDatabase
from balsam.server.store.postgres.store import PostgresStore
from balsam.server.usecases import jobs
from balsam.server.usecases.idempotent import once
from balsam.server.usecases.submit import submit_jobs
from balsam.testing.store_world import StoreWorld
from balsam.wire.jobs import JobQuery, JobsCreate, JobsCreated
from balsam.wire.sessions import LaunchEvent
from tests.testbed.postgres import PostgresServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(postgres: PostgresServer) -> Iterator[StoreWorld]:
    with postgres.migrated() as address, closing(PostgresStore(address)) as store:
        world = StoreWorld(store)
        world.submit(5, tags={"a": "1"})
        yield world


class Ways:
    """Counts what readers ask of the server, a pipeline being one question, and how often the writer waits for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self._inside: set[int] = set()
        execute, pipeline, copy = Connection.execute, Connection.pipeline, PostgresDatabase.copy
        hear = PipelinedDatabase._hear

        def counting_execute(connection: Connection, query: Any, *given: Any, **named: Any) -> Any:
            if id(connection) not in self._inside:
                self._note(connection, query)
            return execute(connection, query, *given, **named)

        @contextmanager
        def counting_pipeline(connection: Connection) -> Iterator[Any]:
            self._note(connection, "(pipeline)")
            self._inside.add(id(connection))
            try:
                with pipeline(connection) as inner:
                    yield inner
            finally:
                self._inside.discard(id(connection))

        def counting_hear(database: PipelinedDatabase) -> None:
            if database._sent:
                self.asked.append("(waited for)")
            hear(database)

        def counting_copy(database: PostgresDatabase, name: str, *given: Any) -> None:
            self.asked += [f"COPY {name}", "(its end)"]
            copy(database, name, *given)

        monkeypatch.setattr(Connection, "execute", counting_execute)
        monkeypatch.setattr(Connection, "pipeline", counting_pipeline)
        monkeypatch.setattr(PostgresDatabase, "copy", counting_copy)
        monkeypatch.setattr(PipelinedDatabase, "_hear", counting_hear)

    def _note(self, connection: Connection, what: Any) -> None:
        if connection.info.parameter_status("application_name") == "balsam reader":
            self.asked.append(what.decode() if isinstance(what, bytes) else str(what))


def _page(world: StoreWorld, **query: Any) -> object:
    message = JobQuery(limit=100, **query)
    return world.read(lambda tx: jobs.jobs_page_text(tx, world.ada, message, with_count=False))


def _submit_with_key(world: StoreWorld) -> object:
    message = JobsCreate(jobs=[world.job()])
    world.clock.advance(1)
    key = world.now.isoformat()

    def work(tx: Any) -> JobsCreated:
        return once(
            tx, world.ada, key, "hash", JobsCreated, world.now, partial(submit_jobs, tx, world.ada, message, world.now)
        )

    return world.write(work)


MOST: dict[str, tuple[int, Callable[[StoreWorld], object]]] = {
    "get": (1, lambda w: w.get(1)),
    "get by the client": (2, lambda w: _page(w, id=[1])),
    "first page": (2, _page),
    "newest page": (2, lambda w: _page(w, ordering="-id")),
    "keyset page": (2, lambda w: _page(w, after=2)),
    "tag page": (2, lambda w: _page(w, tags=["a:1"])),
    "page of one state": (3, lambda w: _page(w, state=["PREPROCESSED"])),
    "counts by state": (2, lambda w: w.counts()),
    "submit": (3, lambda w: w.submit()),
    "submit with a key": (4, _submit_with_key),
    "submit with a tag": (4, lambda w: w.submit(tags={"a": "1"})),
    "submit many": (5, lambda w: w.submit(100)),
}


@pytest.mark.parametrize("name", MOST)
def test_no_more_ways_than_these(world: StoreWorld, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    most, act = MOST[name]
    act(world)  # connections are there then, and ids that are taken in advance
    ways = Ways(monkeypatch)
    act(world)
    assert 0 < len(ways.asked) <= most, "\n".join(ways.asked)


def test_a_report_waits_for_what_it_is_judged_by_and_for_the_commit(
    world: StoreWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = set(world.submit(50))
    session = world.open_session()
    jobs = [job for job in world.acquire(session.id, 1000) if job.id in ids]

    def tell(event: LaunchEvent) -> None:
        world.send(session.id, *[world.record(session.id, job, event) for job in jobs])

    ways = Ways(monkeypatch)
    tell(LaunchEvent.STARTED)
    assert ways.asked == ["(waited for)"] * 2
    tell(LaunchEvent.RUN_DONE)
    assert ways.asked == ["(waited for)"] * 4
    assert {world.state(job.id) for job in jobs} == {JobState.JOB_FINISHED}
