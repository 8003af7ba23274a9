"""Backup, restore and copy: what comes back is what was there, of one moment, and nothing else is touched."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from balsam.cli.server import server
from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import Unavailable
from balsam.server.store.backups import (
    BadBackup,
    back_up_database,
    back_up_file,
    copy_to_database,
    restore_database,
    restore_file,
)
from balsam.server.store.postgres.connection import connect
from balsam.server.store.postgres.store import PostgresStore
from balsam.server.store.postgres.whole import WholeDatabase
from balsam.server.store.protocol import Store
from balsam.server.store.schema import SchemaTooNew, migrations
from balsam.server.store.sqlite import SqliteStore, StoreInUse
from balsam.server.store.whole import CopyDiffers, Table, layout
from balsam.testing.store_world import StoreWorld
from tests.conformance.histories import Life, check, rows_of, seen_by
from tests.testbed.postgres import PostgresServer

pytestmark = pytest.mark.slow  # each of them fills databases


def lived(store: Store, steps: int = 40) -> StoreWorld:
    """A world with Jobs in every kind of state, tags, parents and a Job that was deleted."""
    world = StoreWorld(store)
    world.submit(10, tags={"a": "1"})
    life = Life(world, 7, [], faults := [])
    for _ in range(steps):
        life.step()
    assert not faults
    world.delete(world.submit(3)[-1:])
    return world


def of_file(path: Path) -> Callable[[str], list[Any]]:
    def rows(sql: str) -> list[Any]:
        with closing(sqlite3.connect(path)) as db:
            return db.execute(sql).fetchall()

    return rows


def contents(path: Path) -> dict[str, list[Any]]:
    """Every row of a file, without our own code for it."""
    with closing(sqlite3.connect(path)) as db:
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(db.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "service" / "balsam.sqlite3"


@contextmanager
def empty_database(postgres: PostgresServer) -> Iterator[DatabaseAddress]:
    with postgres.database() as name:
        yield DatabaseAddress(postgres.url(name))


def test_a_file_comes_back_as_it_was_while_a_service_uses_it(source: Path, tmp_path: Path) -> None:
    backup, target = tmp_path / "backup", tmp_path / "new" / "balsam.sqlite3"
    with closing(SqliteStore(source)) as store:
        world = lived(store)
        counted = back_up_file(source, backup).rows
        (later,) = world.submit(1)
    assert backup.stat().st_mode & 0o777 == 0o600
    assert restore_file(backup, target).rows == counted
    assert contents(target) == contents(backup)
    with closing(SqliteStore(target)) as store:
        again = seen_by(world, store)
        check(again, of_file(target))
        assert again.submit(1) == [later], "ids go on after the last one of the backup"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "new", "service"]


def test_from_a_file_to_a_server_and_back(source: Path, tmp_path: Path, postgres: PostgresServer) -> None:
    with closing(SqliteStore(source)) as store:
        world = lived(store)
        (last,) = world.submit(1)
        store.write_sync(lambda tx: tx.change_jobs({last: {"workdir": 'ü/"\\\U0001f40b\t'}}, 5))
    before = contents(source)
    back = tmp_path / "back"
    with empty_database(postgres) as address:
        copy_to_database(source, address)
        assert contents(source) == before, "the file stays as it was"
        back_up_database(address, back)
        assert contents(back) == before
        with closing(PostgresStore(address)) as store:
            there = seen_by(world, store)
            check(there, rows_of(address))
            (new,) = there.submit(1)
            assert (new,) not in [row[:1] for row in before["jobs"]]
            assert dict(before["sequences"])["jobs"] == new


def test_f12_a_backup_taken_under_load_is_of_one_moment(tmp_path: Path, postgres: PostgresServer) -> None:
    """Jobs that were acknowledged before it began are in it, and its rows agree with each other."""
    with postgres.migrated() as address, closing(PostgresStore(address)) as store:
        world = StoreWorld(store)
        stopping = threading.Event()
        acknowledged: list[int] = []
        broken: list[object] = []

        def load(seed: int) -> None:
            with closing(PostgresStore(address)) as own:
                life = Life(seen_by(world, own), seed, [], [])
                life.delete = lambda: acknowledged.extend(life.world.submit(5))
                while not stopping.is_set():
                    try:
                        life.step()
                    except Exception as error:
                        broken.append(error)

        threads = [threading.Thread(target=load, args=(seed,)) for seed in (1, 2, 3)]
        for thread in threads:
            thread.start()
        try:
            for number in range(3):
                while len(acknowledged) < 15 * (number + 1):
                    stopping.wait(0.02)
                known = set(acknowledged)
                backup = tmp_path / f"backup{number}"
                back_up_database(address, backup)
                assert known <= {row[0] for row in of_file(backup)("SELECT id FROM jobs")}
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
        assert broken == []
        for number in range(3):
            restored = tmp_path / f"r{number}" / "balsam.sqlite3"
            restore_file(tmp_path / f"backup{number}", restored)
            with closing(SqliteStore(restored)) as own:
                check(seen_by(world, own), of_file(restored))
        with empty_database(postgres) as other:
            restore_database(tmp_path / "backup2", other)
            with closing(PostgresStore(other)) as own:
                check(seen_by(world, own), rows_of(other))
                assert not set(seen_by(world, own).submit(2)) & {
                    row[0] for row in of_file(tmp_path / "backup2")("SELECT id FROM jobs")
                }


def test_a_backup_of_a_file_under_load_is_of_one_moment(source: Path, tmp_path: Path) -> None:
    with closing(SqliteStore(source)) as store:
        world = StoreWorld(store)
        stopping = threading.Event()
        acknowledged: list[int] = []

        def load() -> None:
            life = Life(world, 5, [], [])
            life.delete = lambda: acknowledged.extend(world.submit(5))
            while not stopping.is_set():
                life.step()

        thread = threading.Thread(target=load)
        thread.start()
        try:
            for number in range(5):
                while len(acknowledged) < 10 * (number + 1):
                    stopping.wait(0.02)
                known = set(acknowledged)
                back_up_file(source, tmp_path / f"backup{number}")
                assert known <= {row[0] for row in of_file(tmp_path / f"backup{number}")("SELECT id FROM jobs")}
        finally:
            stopping.set()
            thread.join()
    for number in range(5):
        restored = tmp_path / f"r{number}" / "balsam.sqlite3"
        restore_file(tmp_path / f"backup{number}", restored)
        with closing(SqliteStore(restored)) as own:
            check(seen_by(world, own), of_file(restored))


# It verifies itself


def test_a_copy_that_differs_is_undone(
    source: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with closing(SqliteStore(source)) as store:
        lived(store)
    fill = WholeDatabase.fill

    def faulty(self: WholeDatabase, table: Table, rows: Iterable[tuple[Any, ...]]) -> None:
        """One letter of one row is not what it was."""
        place = list(table.columns).index("workdir") if table.name == "jobs" else -1
        fill(self, table, ((*row[:place], f"{row[place]}x", *row[place + 1 :]) if place >= 0 else row for row in rows))

    monkeypatch.setattr(WholeDatabase, "fill", faulty)
    with empty_database(postgres) as address:
        with pytest.raises(CopyDiffers, match=r"jobs: \d+ rows were read"):
            copy_to_database(source, address)
        assert rows_of(address)("SELECT count(*) FROM users") == [(0,)]
        monkeypatch.undo()
        copy_to_database(source, address)


def test_a_damaged_file_is_refused(source: Path, tmp_path: Path) -> None:
    with closing(SqliteStore(source)) as store:
        lived(store)
    backup = tmp_path / "backup"
    back_up_file(source, backup)
    whole = backup.read_bytes()
    for damage in (whole[: len(whole) // 2], whole[:8192] + b"\xff" * 4096 + whole[12288:], b"", b"hello" * 1000):
        backup.write_bytes(damage)
        with pytest.raises(BadBackup):
            restore_file(backup, tmp_path / "new" / "balsam.sqlite3")
        assert not (tmp_path / "new" / "balsam.sqlite3").exists()
        with pytest.raises(BadBackup, match=f"{backup} is "):
            back_up_file(backup, tmp_path / "again")
        assert not (tmp_path / "again").exists()


def test_a_file_that_can_not_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(path: Any, **_: Any) -> Any:
        raise sqlite3.OperationalError("unable to open database file")

    (tmp_path / "secret").touch()
    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(BadBackup, match=r"secret can't be opened: unable to open"):
        back_up_file(tmp_path / "secret", tmp_path / "backup")


# Nothing is written over


def test_what_is_there_stays(source: Path, tmp_path: Path, postgres: PostgresServer) -> None:
    backup = tmp_path / "backup"
    with closing(SqliteStore(source)) as store:
        lived(store, 5)
        back_up_file(source, backup)
        with pytest.raises(BadBackup, match="is there already"):
            back_up_file(source, backup)
        with pytest.raises(StoreInUse), empty_database(postgres) as address:
            copy_to_database(source, address)
    with pytest.raises(BadBackup, match="is there already"):
        restore_file(backup, source)
    with pytest.raises(BadBackup, match="there is no file"):
        restore_file(tmp_path / "nothing", tmp_path / "x")
    with empty_database(postgres) as address:
        restore_database(backup, address)
        with pytest.raises(Unavailable, match="has rows in users"):
            restore_database(backup, address)
    with (
        postgres.migrated() as address,
        closing(PostgresStore(address)),
        pytest.raises(Unavailable, match="a service uses the database"),
    ):
        restore_database(backup, address)


def test_who_is_just_leaving_a_database_does_not_use_it(source: Path, tmp_path: Path, postgres: PostgresServer) -> None:
    """A server lists a connection for a moment after its end, here that of the migration before."""
    backup = tmp_path / "backup"
    with closing(SqliteStore(source)) as store:
        lived(store)
    counted = back_up_file(source, backup).rows
    with empty_database(postgres) as address, connect(address, "migrate") as leaving:
        end = threading.Timer(0.5, leaving.close)
        end.start()
        assert restore_database(backup, address).rows == counted
        end.join()


def test_where_there_are_no_hard_links_a_backup_is_made_and_nothing_written_over(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_making: Path, path: Path) -> None:
        if path == meanwhile:
            path.write_text("mine")
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    meanwhile = tmp_path / "meanwhile"
    monkeypatch.setattr(os, "link", refuse)
    with closing(SqliteStore(source)) as store:
        lived(store, 5)
        counts = back_up_file(source, tmp_path / "backup")
        with pytest.raises(BadBackup, match="came into being meanwhile"):
            back_up_file(source, meanwhile)
    assert meanwhile.read_text() == "mine" and counts.rows
    restore_file(tmp_path / "backup", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(source)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_backup_of_a_newer_version_is_refused_and_of_an_older_one_is_raised(
    source: Path, tmp_path: Path, postgres: PostgresServer
) -> None:
    newest = migrations("sqlite")[-1].number
    old = tmp_path / "old"
    with closing(sqlite3.connect(old)) as db:
        first = migrations("sqlite")[0]
        db.executescript(f"BEGIN; {first.script}; PRAGMA user_version = 1; COMMIT;")
    restore_file(old, source)
    with closing(sqlite3.connect(source)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (newest,)
        names = [table.name for table in layout(db)]
        assert names.index("users") < names.index("sites") < names.index("jobs")
    with empty_database(postgres) as address:
        restore_database(old, address)
    with closing(sqlite3.connect(old)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,), "the backup stays as it is"
        db.execute(f"PRAGMA user_version = {newest + 1}")
    with pytest.raises(SchemaTooNew, match="upgrade first"):
        restore_file(old, tmp_path / "x" / "balsam.sqlite3")


# The commands


def said(*words: str, code: int = 0, **env: str) -> str:
    outcome = CliRunner().invoke(server, words, env=env)
    assert outcome.exit_code == code, outcome.output
    return " ".join(outcome.output.split())


def test_the_commands(source: Path, tmp_path: Path, postgres: PostgresServer) -> None:
    with closing(SqliteStore(source)) as store:
        world = lived(store, 5)
        count = world.count()
    backup, again = str(tmp_path / "backup"), str(tmp_path / "again")
    home = str(source.parent)
    assert f"Saved {count} Jobs" in said("backup", backup, "--path", home)
    assert "is there already" in said("backup", backup, "--path", home, code=1)
    with empty_database(postgres) as address:
        env = {"BALSAM_DATABASE": address.text}
        assert "has no tables of ours" in said("backup", again, code=1, **env)
        newest = migrations("postgres")[-1].number
        assert f"Schema 0 -> {newest}." in said("migrate", **env)
        assert f"Nothing to do: schema {newest}." in said("migrate", **env)
        assert f"Copied {count} Jobs" in said("copy", "--database", address.text, "--path", home)
        assert f"Saved {count} Jobs" in said("backup", again, **env)
        assert "has rows in users" in said("restore", again, code=1, **env)
        assert "not both" in said("restore", again, "--path", home, code=2, **env)
    assert contents(Path(again)) == contents(source)
    assert f"Restored {count} Jobs" in said("restore", again, "--path", str(tmp_path / "new"))
    assert "name the PostgreSQL database" in said("migrate", code=2)


@pytest.mark.parametrize("words", [["up"], ["migrate"], ["copy"], ["backup", "x"]])
def test_a_password_among_the_arguments_is_refused_and_not_repeated(words: list[str]) -> None:
    text = said(*words, "--database", "postgresql://ada:pass-word-5@db/balsam", code=2)
    assert "BALSAM_DATABASE" in text
    assert "pass-word-5" not in text


def test_a_server_that_is_away_is_said_without_the_password() -> None:
    text = said("migrate", code=1, BALSAM_DATABASE="postgresql://ada:pass-word-5@127.0.0.1:1/balsam")
    assert "postgresql://ada@127.0.0.1:1/balsam can't be reached" in text
    assert "pass-word-5" not in text
