"""What only the SQLite store promises: plans by index, one writer, durability, clear words when the disk refuses."""

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from balsam.domain.job_order import FIELDS
from balsam.domain.lifecycle import AWAITED_HOOKS
from balsam.domain.states import JobState
from balsam.server.errors import Unavailable
from balsam.server.store import sql_read
from balsam.server.store import sqlite as module
from balsam.server.store.codec import ACTOR_NUMBERS, STATE_NUMBERS
from balsam.server.store.filesystem import network_filesystem
from balsam.server.store.records import UserRow
from balsam.server.store.schema import SchemaTooNew
from balsam.server.store.selections import JobSelection
from balsam.server.store.sqlite import SqliteStore, StoreInUse
from balsam.testing.store_conformance import StoreConformance
from balsam.testing.store_world import StoreWorld, run
from balsam.wire.sessions import LaunchEvent
from tests.conformance.hot import HOT

E = LaunchEvent


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "balsam.sqlite")
    yield store
    store.close()


@pytest.fixture
def world(store: SqliteStore) -> StoreWorld:
    return StoreWorld(store)


# Plans


def traced(world: StoreWorld, scenario: Callable[[], object]) -> set[str]:
    """The statements that a scenario executes, as SQLite expands them."""
    store = world.store
    assert isinstance(store, SqliteStore)
    statements: set[str] = set()
    world.counts()  # opens the reading connection
    reader = store._readers.get()
    store._readers.put(reader)
    connections = (store._db, reader)
    for connection in connections:
        connection.set_trace_callback(statements.add)
    try:
        scenario()
    finally:
        for connection in connections:
            connection.set_trace_callback(None)
    return {text for text in statements if re.match(r"(SELECT|UPDATE|DELETE)\b", text)}


def plan_of(path: Path, statement: str) -> list[str]:
    with sqlite3.connect(path) as db:
        return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]


BIG = r"(jobs|events|results|job_tags|runnable_tags|job_parents|transfer_items|blobs|blob_uses|t|e|p|o|u)"


@pytest.mark.parametrize("name", HOT)
def test_hot_statements_are_driven_by_an_index(
    world: StoreWorld, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_read, "_MANY_JOBS", 10)
    world.submit(20, tags={"a": "1", "b": "2"})
    world.submit(5, app_id=world.add_app_with_hooks().id)
    session = world.open_session().id
    statements = traced(world, lambda: HOT[name](world, session))
    assert statements
    for statement in statements:
        plan = plan_of(tmp_path / "balsam.sqlite", statement)
        scans = [step for step in plan if re.match(rf"SCAN {BIG}\b", step)]
        assert not scans, f"{statement}\n{plan}"
        if "LIMIT" in statement and name not in (
            "changed since",
            "acquire by tags",
            "by BatchJob",
            "by parent",
            "by id",
        ):
            sorts = [step for step in plan if "TEMP B-TREE FOR ORDER" in step]
            assert not sorts or "json_each" in statement, f"{statement}\n{plan}"


def test_events_by_time_are_those_that_are_found_by_job(world: StoreWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_read, "_MANY_JOBS", 0)
    StoreConformance().test_events_are_selected_by_what_their_jobs_are_now(world)


def test_the_order_of_acquire_comes_from_its_index(world: StoreWorld, tmp_path: Path) -> None:
    """The order columns stand in the partial index: otherwise each acquire reads every Job that was ever granted."""
    world.submit(5)
    session = world.open_session().id
    indexes = {
        "fifo": "jobs_waiting",
        "long_large_first": "jobs_waiting_longest",
        "smallest_first": "jobs_waiting_smallest",
    }
    assert indexes.keys() == FIELDS.keys()
    for sort, index in indexes.items():
        statements = traced(world, lambda it=sort: world.acquire(session, 2, sort_by=it))
        walks = [text for text in statements if "node_packing_count, wall_time_min FROM jobs" in text]
        assert len(walks) == 1
        plan = plan_of(tmp_path / "balsam.sqlite", walks[0])
        assert any(
            re.search(rf"SEARCH jobs USING (COVERING )?INDEX {index} \(site_id=\? AND submitter_id=\?", step)
            for step in plan
        ), plan
        assert not any("TEMP B-TREE" in step for step in plan), plan


def test_the_order_of_hooks_comes_from_their_index(world: StoreWorld, tmp_path: Path) -> None:
    """Flat however many Jobs there are that wait for none."""
    world.submit(5, app_id=world.add_app_with_hooks().id)
    session = world.open_processing().id
    statements = traced(world, lambda: world.acquire(session, 2))
    (walk,) = [text for text in statements if "hooks_waiting" in text and "people" not in text]
    plan = plan_of(tmp_path / "balsam.sqlite", walk)
    assert any(
        re.search(r"SEARCH jobs USING (COVERING )?INDEX hooks_waiting \(site_id=\? AND submitter_id=\?", step)
        for step in plan
    ), plan
    assert not any("TEMP B-TREE" in step for step in plan), plan


def test_jobs_to_be_cleaned_are_found_among_any_number_of_finished_ones(world: StoreWorld, tmp_path: Path) -> None:
    app = world.add_app(name="messy", cleanup_files=["*.tmp"])
    world.submit(2, app_id=app.id)
    session = world.open_session().id
    for job in world.acquire(session, 2):
        world.tell(session, job, E.STARTED, E.RUN_DONE, return_code=0)
    wanted = {"site_id": [world.site.id], "state": ["JOB_FINISHED"], "pending_file_cleanup": True}
    statements = traced(world, lambda: world.page(limit=100, **wanted))
    (walk,) = [text for text in statements if "LIMIT" in text and "FROM jobs" in text]
    plan = plan_of(tmp_path / "balsam.sqlite", walk)
    assert any("jobs_to_clean" in step for step in plan), plan
    assert not any("TEMP B-TREE" in step for step in plan), plan


def test_the_numbers_of_states_and_actors_never_change() -> None:
    """They are in people's databases, and the partial indexes name them."""
    assert STATE_NUMBERS[JobState.PREPROCESSED] == 5
    assert STATE_NUMBERS[JobState.RESTART_READY] == 10
    assert STATE_NUMBERS[JobState.CANCELLED] == 15
    assert [STATE_NUMBERS[state] for state in AWAITED_HOOKS] == [4, 7, 8, 9]
    assert sorted(STATE_NUMBERS.values()) == list(range(1, len(JobState) + 1))
    assert list(ACTOR_NUMBERS.values()) == [1, 2, 3, 4, 5]


# The writer


def _together(store: SqliteStore, *writes: Callable[[Any], Any]) -> list[Any]:
    """What came of writes that share a commit: results and errors."""
    gate, entered = threading.Event(), threading.Event()

    def slow(tx: Any) -> None:
        entered.set()
        gate.wait(10)

    async def scenario() -> list[Any]:
        first = asyncio.ensure_future(store.write(slow))
        await asyncio.get_running_loop().run_in_executor(None, entered.wait)
        rest = [asyncio.ensure_future(store.write(write)) for write in writes]
        await asyncio.sleep(0)
        gate.set()
        return (await asyncio.gather(first, *rest, return_exceptions=True))[1:]

    return run(scenario())


def test_writes_that_queue_share_a_commit(store: SqliteStore) -> None:
    """No linger: the first is committed at once, what came meanwhile together."""
    commits: list[int] = []
    store._db.set_trace_callback(lambda text: commits.append(1) if text == "COMMIT" else None)
    assert _together(store, *[lambda tx: tx.new_id(UserRow)] * 50) == list(range(1, 51))
    assert sum(commits) == 2


def test_a_statement_that_sqlite_refuses_is_its_own_writes_trouble(store: SqliteStore) -> None:
    """As one with more terms than SQLite takes: those who wrote at the same time did nothing wrong."""

    def refused(tx: Any) -> None:
        tx.new_id(UserRow)
        tx._db.execute(f"SELECT {'-' * 2000}1")

    before, trouble, after = _together(store, lambda tx: tx.new_id(UserRow), refused, lambda tx: tx.new_id(UserRow))
    assert isinstance(trouble, sqlite3.OperationalError)
    assert before < after == store.write_sync(lambda tx: tx.new_id(UserRow)) - 1


def test_what_the_database_can_not_do_is_the_trouble_of_all_who_share_a_commit(store: SqliteStore) -> None:
    """They did not get their answers, and nothing of them is written (S1)."""

    def full(tx: Any) -> None:
        tx._db.execute("PRAGMA max_page_count = 1")  # no page more than there are
        tx._db.executemany("INSERT INTO filler VALUES (?)", [("x" * 4000,)] * 1000)

    store.write_sync(lambda tx: tx._db.execute("CREATE TABLE filler (text TEXT)"))
    first, trouble, last = _together(store, lambda tx: tx.new_id(UserRow), full, lambda tx: tx.new_id(UserRow))
    assert {type(answer) for answer in (first, trouble, last)} == {Unavailable}
    assert trouble.status == 507


def test_a_write_inside_a_write_is_refused(store: SqliteStore) -> None:
    with pytest.raises(RuntimeError, match="inside a write"):
        store.write_sync(lambda tx: store.write_sync(lambda inner: None))


def test_a_read_sees_one_state_while_others_write(world: StoreWorld) -> None:
    world.submit(2)
    owner = JobSelection(world.ada.user_id)

    def read(tx: Any) -> tuple[int, int, int]:
        before = tx.job_count(owner)
        thread = threading.Thread(target=world.submit, args=(3,))
        thread.start()
        thread.join()
        return before, tx.job_count(owner), len(tx.job_ids(owner, 0, 100))

    assert world.read(read) == (2, 2, 2)
    assert world.count() == 5


def test_a_subscriber_that_fails_stops_nothing(world: StoreWorld) -> None:
    def fail(wakes: object) -> None:
        raise RuntimeError("subscriber")

    world.store.subscribe(fail)
    world.submit()
    assert world.count() == 1


def test_a_second_service_on_the_file_is_refused(store: SqliteStore) -> None:
    with pytest.raises(StoreInUse, match=f"process {os.getpid()} on "):
        SqliteStore(store.path)


def test_rows_ids_and_counters_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "balsam.sqlite"
    store = SqliteStore(path)
    world = StoreWorld(store)
    ids = world.submit(3)
    world.delete([ids[-1]])
    site, counts = world.site, world.counts()
    store.close()
    again = SqliteStore(path, durable=False)
    try:
        jobs = again.read_sync(lambda tx: tx.job_ids(JobSelection(world.ada.user_id), 0, 10))
        assert jobs == ids[:2]
        assert again.read_sync(lambda tx: tx.job_counts(JobSelection(world.ada.user_id))) == counts
        assert again.write_sync(lambda tx: tx.new_id(UserRow)) == 2
        world.store, world.site = again, site
        assert world.submit()[0] > ids[-1], "the id of a deleted Job was given out again after a restart"
    finally:
        again.close()


def test_durable_means_synchronous_full(tmp_path: Path) -> None:
    for durable, level in ((True, 2), (False, 1)):
        store = SqliteStore(tmp_path / f"{durable}.sqlite", durable=durable)
        assert store.write_sync(lambda tx: tx._db.execute("PRAGMA synchronous").fetchone()[0]) == level
        assert store.write_sync(lambda tx: tx._db.execute("PRAGMA foreign_keys").fetchone()[0]) == 1
        assert store.write_sync(lambda tx: tx._db.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"
        store.close()


def test_the_files_are_for_the_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = SqliteStore(tmp_path / "home" / "balsam.sqlite")
        StoreWorld(store)
        modes = {entry.name: entry.stat().st_mode & 0o777 for entry in (tmp_path / "home").iterdir()}
        store.close()
    finally:
        os.umask(old)
    assert len(modes) == 4
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


# Trouble


def test_a_full_disk_is_said_and_leaves_nothing_half_written(world: StoreWorld) -> None:
    """F10: SQLite itself finds no page; afterwards everything goes on."""
    world.submit(5)
    before = (world.counts(), world.page())

    def fill(tx: Any) -> None:
        pages = tx._db.execute("PRAGMA page_count").fetchone()[0]
        tx._db.execute(f"PRAGMA max_page_count = {pages + 1}")

    world.write(fill)
    with pytest.raises(Unavailable, match="disk is full") as refusal:
        world.submit(1000)
    assert refusal.value.status == 507
    assert (world.counts(), world.page()) == before
    world.write(lambda tx: tx._db.execute("PRAGMA max_page_count = 1000000"))
    assert len(world.submit(1000)) == 1000
    assert world.count() == 1005


def test_a_full_disk_fails_the_whole_group_and_says_so_to_each(world: StoreWorld) -> None:
    store = world.store

    def fill(tx: Any) -> None:
        pages = tx._db.execute("PRAGMA page_count").fetchone()[0]
        tx._db.execute(f"PRAGMA max_page_count = {pages + 1}")

    world.write(fill)

    async def scenario() -> list[object]:
        big = "x" * 60_000
        row = [
            store.write(lambda tx, n=n: tx.put(UserRow(tx.new_id(UserRow), f"{n}{big}", None, False, 1)))
            for n in range(9)
        ]
        return list(await asyncio.gather(*row, return_exceptions=True))

    answers = run(scenario())
    done = [answer for answer in answers if answer is None]
    assert all(answer is None or isinstance(answer, Unavailable) for answer in answers)
    assert any(isinstance(answer, Unavailable) for answer in answers)
    assert len(world.read(lambda tx: tx.find(UserRow))) == 1 + len(done)


def test_a_read_only_database_is_said(world: StoreWorld) -> None:
    world.write(lambda tx: tx._db.execute("PRAGMA query_only = ON"))
    with pytest.raises(Unavailable, match="read-only") as refusal:
        world.submit()
    assert refusal.value.status == 503
    assert world.count() == 0


def test_a_database_locked_by_others_is_said(world: StoreWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """F11: waits for the time-out, then refuses; never half a transaction."""
    world.write(lambda tx: tx._db.execute("PRAGMA busy_timeout = 50"))
    assert isinstance(world.store, SqliteStore)
    with sqlite3.connect(world.store.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked") as refusal:
            world.submit()
        assert refusal.value.retry_after_sec
        other.execute("ROLLBACK")
    other.close()
    assert len(world.submit()) == 1


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "balsam.sqlite"
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        newest = db.execute("PRAGMA user_version").fetchone()[0]
        db.execute("PRAGMA user_version = 999")
    db.close()
    with pytest.raises(SchemaTooNew, match="upgrade the service"):
        SqliteStore(path)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {newest}")
    db.close()
    SqliteStore(path).close()


def test_a_database_of_the_first_schema_is_brought_up_with_its_jobs(tmp_path: Path) -> None:
    first = files("balsam.server.store").joinpath("migrations", "0001_initial.sql").read_text()
    path = tmp_path / "balsam.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(f"{first}; PRAGMA user_version = 1;")
        job = {"id": 7, "owner_id": 1, "site_id": 1, "app_id": 1, "state": 5, "gpus_per_rank": 0.5}
        columns = [row[1:3] for row in db.execute("PRAGMA table_info(jobs)")]
        values = [job.get(name, "{}" if kind == "TEXT" else 1) for name, kind in columns]
        db.execute(f"INSERT INTO jobs VALUES ({', '.join('?' * len(columns))})", values)
        db.execute("INSERT INTO runnable_tags VALUES (3, 1, -1, 7, 1, 1, 1, 1)")
    db.close()
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        found = db.execute("SELECT job_id, gpus_per_rank, submitter_id FROM runnable_tags").fetchall()
        assert found == [(7, 0.5, 1)]
        assert db.execute("SELECT max_gpus_per_node FROM sessions").fetchall() == []
    db.close()


def test_network_filesystems_are_recognised(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime - ext4 /dev/root rw\n"
        "40 22 0:40 / /home rw - nfs4 server:/home rw\n"
        "41 40 0:41 / /home/ada/local\\040disk rw - xfs /dev/sdb rw\n"
        "odd line\n"
    )
    assert network_filesystem(Path("/home/ada/data"), mounts) == "nfs4"
    assert network_filesystem(Path("/home/ada/local disk/data"), mounts) == ""
    assert network_filesystem(Path("/homes"), mounts) == ""
    assert network_filesystem(Path("/var/lib"), mounts) == ""
    assert network_filesystem(Path("/var/lib"), tmp_path / "none") == ""
    monkeypatch.setattr(module, "network_filesystem", lambda path: "lustre")
    SqliteStore(tmp_path / "balsam.sqlite").close()
    assert "is on lustre: use a local disk" in caplog.text


WRITER = """
import sys
from importlib.resources import files
from pathlib import Path
from balsam.server.store.sqlite import SqliteStore
from balsam.testing.store_world import StoreWorld
from tests.conformance.hot import HOT
world = StoreWorld(SqliteStore(Path(sys.argv[1])))
print("ready", flush=True)
while True:
    print(*world.submit(3), flush=True)
"""


@pytest.mark.slow
def test_s1_what_was_acknowledged_survives_kill_9(tmp_path: Path, figure: Callable[[str], None]) -> None:
    path = tmp_path / "balsam.sqlite"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(15)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    acked = [int(word) for line in lines[1:] if line.endswith("\n") for word in line.split()]
    store = SqliteStore(path)
    try:
        there = store.read_sync(lambda tx: tx.job_ids(JobSelection(1), 0, 100_000))
        counted = store.read_sync(lambda tx: tx.job_count(JobSelection(1)))
    finally:
        store.close()
    assert len(acked) >= 42
    assert set(acked) <= set(there)
    assert counted == len(there)
    assert len(there) % 3 == 0, "half a submission"
    figure(f"SQLite: 1 kill, {len(acked)} Jobs acknowledged before it, none lost")
