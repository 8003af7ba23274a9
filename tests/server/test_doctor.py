"""`balsam server doctor`: each finding that can be provoked, on real databases, and that looking changes nothing."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from balsam.cli import server_doctor_answer, server_doctor_database, server_doctor_network
from balsam.cli.findings import Finding
from balsam.cli.server_doctor import findings_of
from balsam.platform.processes import look as looked_up
from balsam.server.database_address import DatabaseAddress
from balsam.server.settings import ServerSettings
from balsam.server.store import inspection
from balsam.server.store.postgres.migrate import migrate
from balsam.server.store.postgres.store import PostgresStore
from balsam.server.store.schema import migrations
from balsam.server.store.sqlite import SqliteStore
from balsam.testing.clock import START, FakeClock
from balsam.testing.store_world import StoreWorld
from tests.cli.commands import balsam
from tests.services import running_service
from tests.testbed.ports import free_port
from tests.testbed.postgres import PostgresServer

NEWEST = migrations("postgres")[-1].number


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a service that has run and stopped."""
    path = tmp_path / "home"
    for directory in (path, path / "service"):
        directory.mkdir(mode=0o700)
    SqliteStore(path / "service" / "balsam.sqlite3").close()
    return path


def look(home: Path, **options: Any) -> dict[str, Finding]:
    """The findings by check, of which each must come once here."""
    found = list(findings_of(ServerSettings(home=home, **{"port": free_port(), **options})))
    assert len({one.check for one in found}) == len(found), found
    return {one.check: one for one in found}


def bad(found: dict[str, Finding], status: str = "problem") -> set[str]:
    return {check for check, one in found.items() if one.status == status}


def contents(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything but the index of SQLite's log, which each reader has its locks in."""
    return {
        str(path): (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in directory.rglob("*")
        if not path.name.endswith("-shm")
    }


def test_a_stopped_service_is_looked_at_and_nothing_is_changed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALSAM_HOME", str(home))
    before = contents(home)
    found = look(home)
    assert found.keys() == {"settings", "data directory", "disk", "secrets", "database", "time", "files", "service"}
    assert bad(found) == set() and bad(found, "warning") == {"service"}
    assert "is free" in found["service"].message
    done = balsam(monkeypatch, "server", "doctor", "--port", str(free_port()), "--json")
    assert done.code == 0 and {one["check"] for one in done.json()} == found.keys()
    assert contents(home) == before


def test_what_was_never_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALSAM_HOME", str(tmp_path))
    done = balsam(monkeypatch, "server", "doctor", "--port", str(free_port()))
    assert done.code == 1
    assert f"PROBLEM  data directory: {tmp_path}/service is not there" in done.out
    assert "warning  database: " in done.out and list(tmp_path.iterdir()) == []
    refused = balsam(monkeypatch, "server", "doctor", "--database", "postgresql://a:secret@b/c", "--json")
    assert refused.code == 2 and "secret" not in refused.out


def test_directories_and_secrets_that_others_can_read(home: Path, tmp_path: Path) -> None:
    data = home / "service"
    data.chmod(0o750)
    found = look(home)
    assert found["data directory"].fix == f"chmod 700 {data}" and "0750" in found["data directory"].message
    data.chmod(0o700)
    (data / "local.token").touch(0o600)
    (data / "local.token").chmod(0o644)
    found = look(home)
    assert bad(found) == {"secrets"} and "local.token is open" in found["secrets"].message
    (data / "local.token").chmod(0o600)
    if os.getuid() == 0:
        os.chown(data, 12345, 12345)
        assert "belongs to uid 12345" in look(home)["data directory"].message
        os.chown(data, 0, 0)
    blobs = tmp_path / "blobs"
    blobs.touch()
    found = look(home, blob_dir=blobs / "below")
    assert found["files"].status == "problem" and f"{blobs} can't be written" in found["files"].message


def test_a_disk_with_less_than_what_uploads_leave_free(home: Path) -> None:
    free_mb = shutil.disk_usage(home).free // 1024**2
    assert look(home, disk_reserve_mb=free_mb + 100_000)["disk"].status == "problem"
    assert look(home, disk_reserve_mb=free_mb * 3 // 4)["disk"].status == "warning"


def test_files_of_other_versions_and_damaged_ones(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "service" / "balsam.sqlite3"

    def set_version(number: int) -> None:
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA user_version = {number}")

    set_version(999)
    found = look(home)
    assert found["schema"].status == "problem" and "schema 999" in found["schema"].message
    set_version(NEWEST - 1)
    assert look(home)["schema"].status == "warning"
    set_version(NEWEST)
    monkeypatch.setattr(inspection, "network_filesystem", lambda directory: "nfs4")
    assert "nfs4" in look(home)["file system"].message
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    assert look(home)["journal"].status == "warning"

    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * 40_960 + whole[49_152:])
    found = look(home)
    assert found["database"].status == "problem" and "is damaged" in found["database"].message
    path.write_bytes(b"something else" * 1000)
    assert "this is no SQLite database" in look(home)["database"].message


def test_a_service_that_starts_under_its_eyes_is_not_taken_for_damage(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "service" / "balsam.sqlite3"
    looked = inspection._inspect
    stores: list[SqliteStore] = []

    def started_meanwhile(path: Path, *, has_log: bool) -> inspection.FileFacts:
        facts = looked(path, has_log=has_log)
        if stores:
            return facts
        stores.append(SqliteStore(path))
        StoreWorld(stores[0]).submit(1)
        return inspection.FileFacts(0, True, "", None, ("torn",))

    monkeypatch.setattr(inspection, "_inspect", started_meanwhile)
    try:
        facts = inspection.inspect_file(path)
        assert facts.faults == () and facts.newest is not None
    finally:
        stores[0].close()


def test_a_clock_that_was_set_back(home: Path) -> None:
    with closing(SqliteStore(home / "service" / "balsam.sqlite3")) as store:
        StoreWorld(store).submit(1)
        newest = inspection.inspect_file(home / "service" / "balsam.sqlite3").newest
    assert newest is not None
    for before, status in ((timedelta(days=1), "problem"), (timedelta(0), "ok")):
        findings = server_doctor_database.findings_of(ServerSettings(home=home), FakeClock(newest - before))
        assert {one.check: one.status for one in findings}["time"] == status


def test_settings_that_no_service_starts_with(home: Path) -> None:
    assert "in clear" in look(home, host="0.0.0.0")["settings"].message
    assert "--workers needs" in look(home, workers=2)["settings"].message


def test_who_is_believed_behind_a_proxy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def proxy(given: str, **options: Any) -> Finding:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", given)
        found = list(server_doctor_network.proxy(ServerSettings(home=home, **options)))
        return found[0] if found else Finding("proxy", "ok", "")

    assert proxy("").message == "" and proxy("10.0.0.5").status == "warning"
    assert "127.0.0.1" in proxy("", behind_proxy=True).message
    everywhere = {"behind_proxy": True, "host": "0.0.0.0"}
    assert "past the proxy" in proxy("", **everywhere).message
    assert "whoever reaches" in proxy("*", **everywhere).message
    assert proxy("10.0.0.5, 10.1.0.0/24", **everywhere).status == "ok"
    assert proxy("front.example", **everywhere).status == "problem"


def certificate(directory: Path, name: str, days: int = 90) -> dict[str, Path]:
    """A certificate for `name` that ends after so many days, and its key; as settings."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1000))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = {"tls_cert": directory / f"{name}.pem", "tls_key": directory / f"{name}.key"}
    for path in paths.values():
        path.touch(0o600)
    paths["tls_cert"].write_bytes(made.public_bytes(Encoding.PEM))
    paths["tls_key"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    return paths


def test_certificates(home: Path, tmp_path: Path) -> None:
    good = certificate(tmp_path, "balsam.example")
    short = certificate(tmp_path, "short.example", days=3)
    ended = certificate(tmp_path, "ended.example", days=-3)
    assert bad(found := look(home, **good)) == set() and "is good until" in found["certificate"].message
    assert look(home, **short)["certificate"].status == "warning"
    assert "expired" in look(home, **ended)["certificate"].message
    mixed = look(home, tls_cert=good["tls_cert"], tls_key=short["tls_key"])["certificate"]
    assert mixed.status == "problem" and "own key" in mixed.fix
    good["tls_key"].chmod(0o644)
    assert "balsam.example.key is open" in look(home, **good)["secrets"].message
    good["tls_key"].chmod(0o640)
    assert look(home, **good)["secrets"].status == "ok"


def test_the_address_that_browsers_are_given(home: Path, tmp_path: Path) -> None:
    login = tmp_path / "login.yml"
    login.touch(0o600)

    def public(url: str, **options: Any) -> Finding:
        login.write_text(yaml.safe_dump({"public_url": url, "providers": []}))
        return look(home, login_file=login, **options)["public URL"]

    assert "behind-proxy" in public("https://balsam.example").fix
    assert public("https://balsam.example", behind_proxy=True).status == "ok"
    assert "own machines" in public("http://127.0.0.1:8124", host="0.0.0.0", behind_proxy=True).message
    assert public("http://127.0.0.1:8124", port=8124).status == "ok"
    tls = certificate(tmp_path, "balsam.example")
    assert public("https://balsam.example", **tls, port=443).status == "ok"
    assert public("https://balsam.example", **tls, port=8443).status == "warning"
    assert "Hostname mismatch" in public("https://other.example", **tls, port=443).message
    assert "speaks https" in public("http://localhost", **tls, port=443).message
    login.write_text("providers: 3")
    assert look(home, login_file=login)["logins"].status == "problem"
    login.chmod(0o644)
    assert "login.yml is open" in look(home, login_file=login)["secrets"].message


def test_a_port_that_another_program_has(home: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        try:
            found = look(home, port=other.server_port)
        finally:
            other.shutdown()
            thread.join()
    assert found["service"].status == "problem" and "no service of ours" in found["service"].message
    assert "can listen on 192.0.2.1" in look(home, host="192.0.2.1", behind_proxy=True)["service"].message
    assert "port 0 takes a free one" in look(home, port=0)["service"].message


@pytest.mark.slow
def test_a_service_that_runs_was_killed_or_has_lost_its_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer
) -> None:
    tls = certificate(tmp_path, "balsam.example")
    words = ["--tls-cert", str(tls["tls_cert"]), "--tls-key", str(tls["tls_key"])]
    with running_service(tmp_path / "home", options=words) as service:
        running = {"home": service.home, "port": service.port, **tls}
        before = contents(service.data_dir)
        found = look(**running)
        assert bad(found) == bad(found, "warning") == set()
        assert "is ready" in found["service"].message and "all pages are sound" in found["database"].message
        assert contents(service.data_dir) == before
        monkeypatch.setattr(server_doctor_answer, "__version__", "9.9")
        assert "9.9 is installed" in look(**running)["service"].message
        monkeypatch.undo()
        service.kill()
        before = contents(service.data_dir)
        assert (service.data_dir / "balsam.sqlite3-wal").exists()
        found = look(**running)
        assert bad(found) == set() and "is free" in found["service"].message
        assert contents(service.data_dir) == before
    with postgres.migrated() as address:
        environment = {"BALSAM_DATABASE": address.text}
        with running_service(tmp_path / "other", env=environment) as service:
            running = {"home": service.home, "port": service.port, "database": address}
            found = look(**running)
            assert bad(found) == bad(found, "warning") == set()
            name = address.text.partition("@/")[2].partition("?")[0]
            try:
                postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
                postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
                found = look(**running)
            finally:
                postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            assert bad(found) == {"database", "service"}
            assert "not ready (status 503)" in found["service"].message


@pytest.mark.slow
def test_a_service_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALSAM_HOME", str(tmp_path))
    made = balsam(monkeypatch, "server", "up", "--background", "--port", "0", "--json").json()
    try:
        assert balsam(monkeypatch, "server", "doctor").code == 0
        os.kill(made["pid"], signal.SIGKILL)
        deadline = time.monotonic() + 20
        while looked_up(made["pid"]) is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        done = balsam(monkeypatch, "server", "doctor", "--port", str(free_port()))
        assert f"process {made['pid']} was started in the background and is gone" in done.out
    finally:
        balsam(monkeypatch, "server", "down")


def database(address: DatabaseAddress, clock: FakeClock | None = None, workers: int = 1) -> dict[str, Finding]:
    settings = ServerSettings(database=address, workers=workers)
    return {one.check: one for one in server_doctor_database.findings_of(settings, clock)}


@pytest.mark.slow
def test_a_postgres_database(postgres: PostgresServer) -> None:
    with postgres.migrated() as address:
        found = database(address)
        assert found.keys() == {"database", "schema", "connections", "clock", "time"}
        assert {one.status for one in found.values()} == {"ok"} and "UTF8" in found["database"].message
        late = database(address, FakeClock(datetime.now(UTC) + timedelta(hours=1)))
        assert late["clock"].status == "warning" and "behind" in late["clock"].message
        with closing(PostgresStore(address)) as store:
            StoreWorld(store).submit(1)
        early = database(address, FakeClock(START - timedelta(hours=1)))
        assert early["time"].status == "problem" and "2030-01-01 00:00:00" in early["time"].message
    away = database(DatabaseAddress("postgresql://balsam:secret@127.0.0.1:9/balsam"))
    assert away["database"].status == "problem" and "secret" not in away["database"].message


@pytest.mark.slow
def test_the_schema_of_a_postgres_database(postgres: PostgresServer) -> None:
    steps = migrations("postgres")
    with postgres.database() as name:
        address = DatabaseAddress(postgres.url(name))
        assert database(address)["schema"].status == "warning"
        migrate(address, steps[:-1])
        old = database(address)["schema"]
        assert old.status == "problem" and "balsam server migrate" in old.fix
        migrate(address)
        for oldest_code, status in ((NEWEST, "warning"), (NEWEST + 1, "problem")):
            newer = f"INSERT INTO schema_migrations VALUES ({oldest_code + 1}, 'later', {oldest_code})"
            postgres.execute(newer, name)
            assert database(address)["schema"].status == status


@pytest.mark.slow
def test_limits_and_encoding_of_a_postgres_database(postgres: PostgresServer) -> None:
    with postgres.migrated() as address:
        name = address.text.partition("@/")[2].partition("?")[0]
        postgres.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 8")
        assert database(address, workers=2)["connections"].status == "problem"
        with psycopg.connect(address.text):
            assert "other programs hold" in database(address)["connections"].message
        postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        assert "can't be written to" in database(address)["database"].message
    postgres.execute("CREATE DATABASE t_ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    try:
        ascii_only = database(DatabaseAddress(postgres.url("t_ascii")))["database"]
        assert ascii_only.status == "problem" and "createdb -E UTF8" in ascii_only.fix
    finally:
        postgres.execute("DROP DATABASE t_ascii WITH (FORCE)")
