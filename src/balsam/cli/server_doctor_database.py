"""The part of `balsam server doctor` about the database: SQLite file or PostgreSQL, its schema, and its clock."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from balsam.cli.findings import Finding
from balsam.domain.clock import Clock, SystemClock
from balsam.server.database_address import DatabaseAddress
from balsam.server.settings import ServerSettings

CLOCK_TOLERANCE = timedelta(seconds=5)
_NTP = "set the clock, and keep it set (NTP)"


def findings_of(settings: ServerSettings, clock: Clock | None = None) -> Iterator[Finding]:
    """Everything about the database of these settings."""
    clock = clock or SystemClock()
    if settings.database is None:
        yield from _file(settings, clock)
    else:
        yield from _postgres(settings.database, settings.workers, clock)


def _file(settings: ServerSettings, clock: Clock) -> Iterator[Finding]:
    from balsam.server.store.inspection import inspect_file
    from balsam.server.store.schema import migrations

    path = settings.database_file
    try:
        facts = inspect_file(path)
    except FileNotFoundError:
        yield Finding("database", "warning", f"{path} is not there", "the first start makes it; was --database meant?")
        return
    if facts.faults:
        fix = "stop the service, keep the file, and restore the last backup: balsam server restore"
        yield Finding("database", "problem", f"{path} is damaged: {'; '.join(facts.faults)}", fix)
        return
    newest = migrations("sqlite")[-1].number
    if facts.schema > newest:
        told = f"{path} has schema {facts.schema}, this version knows {newest}"
        yield Finding("schema", "problem", told, "install the version that wrote it, or a newer one")
    elif facts.schema < newest:
        told = f"{path} has schema {facts.schema}, this version has {newest}"
        yield Finding("schema", "warning", told, "the next start brings the file up; make a backup before")
    else:
        yield Finding("database", "ok", f"{path}, schema {facts.schema}, all pages are sound")
    if not facts.is_wal:
        told = f"{path} is not in WAL mode: who reads waits for who writes"
        fix = "start the service, which changes that; if it stays so, move the data to a local disk"
        yield Finding("journal", "warning", told, fix)
    if facts.network:
        told = f"{path} is on {facts.network}, where SQLite is safe from one machine only, and slow"
        yield Finding("file system", "warning", told, "move the service's directory to a local disk")
    yield _past(facts.newest, clock)


def _postgres(address: DatabaseAddress, workers: int, clock: Clock) -> Iterator[Finding]:
    from balsam.server.errors import Unavailable

    try:
        from balsam.server.store.postgres.inspection import inspect_database
        from balsam.server.store.postgres.migrate import OLDEST_SERVER
    except ImportError as error:
        yield Finding("database", "problem", f"psycopg is missing ({error})", "pip install 'openbalsam[postgres]'")
        return
    try:
        facts = inspect_database(address, clock)
    except Unavailable as error:
        yield Finding("database", "problem", str(error), "does the server run, and let this user in from here?")
        return
    version = facts.server_version // 10_000
    said = f"{address}, PostgreSQL {version}, {facts.encoding}"
    if facts.server_version < OLDEST_SERVER:
        yield Finding("database", "problem", said, f"PostgreSQL {OLDEST_SERVER // 10_000} or newer is needed")
    elif facts.encoding != "UTF8":
        yield Finding("database", "problem", said, "make one with: createdb -E UTF8 -T template0 NAME")
    elif facts.is_read_only:
        told = f"{said}: it can't be written to; it is a standby, or default_transaction_read_only is on"
        yield Finding("database", "problem", told, "name the primary, or several hosts and target_session_attrs")
    else:
        yield Finding("database", "ok", said)
    yield _schema(facts.schema, facts.oldest_code)
    yield _connections(facts.connections, facts.others, workers)
    yield _difference(facts.ahead)
    yield _past(facts.newest, clock)


def _schema(schema: int, oldest_code: int) -> Finding:
    from balsam.server.store.schema import migrations

    newest = migrations("postgres")[-1].number
    if schema == 0:
        return Finding("schema", "warning", "the database has no tables of ours", "the first start makes them")
    if schema < newest:
        told = f"the database has schema {schema}, this version needs {newest}"
        return Finding("schema", "problem", told, "balsam server backup FILE, then: balsam server migrate")
    if oldest_code > newest:
        told = f"the database has schema {schema}, which this version (schema {newest}) can't work with"
        return Finding("schema", "problem", told, "upgrade the service")
    if schema > newest:
        told = f"the database has schema {schema}, this version {newest}, which goes on working with it"
        return Finding("schema", "warning", told, "install the new version on this machine too, and restart")
    return Finding("schema", "ok", f"{schema}, that of this version")


def _connections(allowed: int, others: int, workers: int) -> Finding:
    from balsam.server.store.postgres.inspection import CONNECTIONS_PER_PROCESS

    needed = workers * CONNECTIONS_PER_PROCESS
    said = f"{needed} for {workers} of our processes; the server lets this user have {allowed}"
    if needed >= allowed:
        fix = "raise max_connections (or the limit of the role or the database), or lower --workers"
        return Finding("connections", "problem", said, fix)
    if needed + others >= allowed:
        told = f"{said}, of which other programs hold {others} now"
        return Finding("connections", "warning", told, "raise max_connections, or see who holds them: pg_stat_activity")
    return Finding("connections", "ok", said)


def _difference(ahead: timedelta) -> Finding:
    seconds = ahead.total_seconds()
    if abs(ahead) > CLOCK_TOLERANCE:
        told = f"the database's machine is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} this one"
        return Finding("clock", "warning", told, f"{_NTP} on both")
    return Finding("clock", "ok", f"the database's machine and this one agree to {abs(seconds):.1f} s")


def _past(newest: datetime | None, clock: Clock) -> Finding:
    """What was recorded lies in the past, or the clock was set back."""
    now = clock.now()
    if newest is not None and newest - now > CLOCK_TOLERANCE:
        told = f"it is {now:%Y-%m-%d %H:%M:%S} UTC here, and the last event was recorded at {newest:%Y-%m-%d %H:%M:%S}"
        return Finding("time", "problem", told, f"{_NTP}; events in the future are out of order until then")
    return Finding("time", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC, after everything that was recorded")
