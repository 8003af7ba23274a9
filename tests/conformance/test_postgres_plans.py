"""What the service does all the time reads as many rows as it needs, whatever there is: at 100,000 Jobs on PostgreSQL.

Each statement is run with EXPLAIN ANALYZE and undone. A scan without an index would read all Jobs, and so would one by
an index that is in the wrong order (as the textbook acquire does once its first Jobs are taken): both are seen by the
number of rows they touch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from balsam.server.database_address import DatabaseAddress
from balsam.server.store.postgres import statistics
from balsam.server.store.postgres.connection import PostgresDatabase, connect
from balsam.server.store.postgres.sql import numbered, translated
from balsam.server.store.postgres.store import PostgresStore
from balsam.testing.store_world import StoreWorld
from tests.conformance.hot import HOT
from tests.testbed.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

JOBS = 100_000
AT_ONCE = 5_000
TAKEN = 15_000  # granted before, by many launchers: what they left must not be read again
TOUCHED = 2_500
PAGES = 100
# One counts rows, one looks for what may be nowhere; the service has a limit of time for them.
COUNTING = {"groups of a Site", "newest events of an App in a state"}
Statement = tuple[str, tuple[Any, ...]]


@pytest.fixture(scope="module")
def address(postgres: PostgresServer) -> Iterator[DatabaseAddress]:
    with postgres.migrated() as address:
        yield address


@pytest.fixture(scope="module")
def world(address: DatabaseAddress) -> Iterator[StoreWorld]:
    """What the planner knows of these Jobs it has from the service: autovacuum comes a minute later, here never."""
    with psycopg.connect(address.text, autocommit=True) as db:
        for name in statistics.TABLES:
            db.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = off)".encode())
    with closing(PostgresStore(address)) as store:
        world = StoreWorld(store)
        world.submit(20, tags={"a": "1", "b": "2"})
        for start in range(0, JOBS, AT_ONCE):
            world.submit(AT_ONCE, tags={"part": str(start)})
        world.submit(5, app_id=world.add_app_with_hooks().id)
        session = world.open_session().id
        for _ in range(TAKEN // 1000):
            world.acquire(session, 1000)
        _wait_until_counted(address)
        yield world


def _wait_until_counted(address: DatabaseAddress) -> None:
    sql = "SELECT min(reltuples) FROM pg_class WHERE relname IN ('jobs', 'events', 'job_tags', 'runnable_tags')"
    deadline = time.monotonic() + 60
    with psycopg.connect(address.text, autocommit=True) as db:
        while (row := db.execute(sql).fetchone()) is None or row[0] * (statistics.GROWN + 2) < JOBS:
            assert time.monotonic() < deadline, f"the service had no more than {row} rows counted"
            time.sleep(0.1)


def traced(world: StoreWorld, name: str, session: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Statement]:
    """The statements that a scenario executes, each with the values of its first time."""
    statements: dict[str, Statement] = {}
    execute = PostgresDatabase.execute

    def recording(self: PostgresDatabase, sql: str, params: Any = (), /) -> Any:
        if sql.startswith(("SELECT", "UPDATE", "DELETE")) and "pg_" not in sql and "nextval" not in sql:
            statements.setdefault(sql, (sql, tuple(params)))
        return execute(self, sql, params)

    with monkeypatch.context() as patch:
        patch.setattr(PostgresDatabase, "execute", recording)
        HOT[name](world, session)
    return statements


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def touched(node: dict[str, Any]) -> float:
    """Rows of a table that a node has read."""
    if "Relation Name" not in node or node["Node Type"] == "ModifyTable":
        return 0
    dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return node["Actual Loops"] * (node["Actual Rows"] + dropped)


_EXPLAIN = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "


def plan_of(address: DatabaseAddress, statement: Statement) -> dict[str, Any]:
    sql, params = statement
    with closing(connect(address, "plans")) as connection:
        connection.execute(b"BEGIN")
        return _planned(connection.execute(_EXPLAIN + translated(sql), params))


def plan_without_values(address: DatabaseAddress, statement: Statement) -> dict[str, Any]:
    """As it may be once the statement was executed a few times: made for whatever values come."""
    sql, params = statement
    with closing(connect(address, "plans", plan_cache_mode="force_generic_plan")) as connection:
        connection.execute(b"BEGIN")
        connection.execute(b"PREPARE hot AS " + numbered(translated(sql)))
        marks = f"({', '.join(['%s'] * len(params))})" if params else ""
        explain = _EXPLAIN + f"EXECUTE hot {marks}".encode()
        return _planned(psycopg.ClientCursor(connection).execute(explain, params))


def _planned(cursor: psycopg.Cursor[tuple[Any, ...]]) -> dict[str, Any]:
    explained = next(cursor)[0]
    found = explained if isinstance(explained, list) else json.loads(explained)
    return dict(found[0]["Plan"])


@pytest.mark.parametrize("name", [name for name in HOT if name not in COUNTING])
def test_f28_hot_statements_read_no_more_than_they_need(
    world: StoreWorld, address: DatabaseAddress, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = traced(world, name, world.open_session().id, monkeypatch)
    assert statements
    for statement in statements.values():
        plan = plan_of(address, statement)
        for node in nodes(plan):
            assert touched(node) <= TOUCHED, f"{statement}\n{json.dumps(plan, indent=1)}"


def test_the_guard_sees_a_statement_that_reads_everything(address: DatabaseAddress, world: StoreWorld) -> None:
    for sql in (
        "SELECT count(*) FROM jobs WHERE workdir LIKE ?",
        "SELECT id FROM jobs WHERE ranks_per_node = 77 AND workdir <> ? ORDER BY id LIMIT 5",
    ):
        assert max(map(touched, nodes(plan_of(address, (sql, ("x%",)))))) > TOUCHED


def test_an_acquire_begins_where_the_last_one_ended(
    world: StoreWorld, address: DatabaseAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was granted stands at the front of the index until the next vacuum: no row to count, but pages to read."""
    session = world.open_session().id
    world.acquire(session, 5)
    statements = traced(world, "acquire", session, monkeypatch)
    (walk,) = [statement for statement in statements.values() if "LIMIT" in statement[0]]
    for plan in (plan_of(address, walk), plan_without_values(address, walk)):
        assert [node["Index Name"] for node in nodes(plan) if "Index Name" in node] == ["jobs_waiting_in_order"]
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= PAGES, f"{walk}\n{json.dumps(plan)}"


def test_who_has_jobs_waiting_is_read_from_the_index_of_the_walk(
    world: StoreWorld, address: DatabaseAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the front of any other one stands what was granted: no row to count, but each entry is looked at again."""
    statements = traced(world, "acquire at first", world.open_session().id, monkeypatch)
    (people,) = [statement for statement in statements.values() if "people" in statement[0]]
    read = [node["Index Name"] for node in nodes(plan_of(address, people)) if "Index Name" in node]
    walked = "jobs_waiting_in_order"
    assert sorted(read) == [walked, walked, "jobs_waiting_shortest"], "the last is for the shortest"
