"""Backup, restore and copy of a service's database; `balsam server backup`, `restore` and `copy` are made of these.

A backup is a SQLite file of our own schema, whichever database it was made of: it can be put back into either, and
looked at with any tool. Promises: it is one state of a service that may run meanwhile; a file or database has its rows
whole and compared, or not at all; what is there already is never written over.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import Unavailable
from balsam.server.store.schema import SchemaTooNew, migrate, migrations
from balsam.server.store.sqlite import file_lock
from balsam.server.store.whole import Copied, WholeFile, copy_whole, count_rows, layout

# What file systems say that have no hard links: those of memory sticks, of object stores, of some shares.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})


class BadBackup(Exception):
    """The file is no backup, or is damaged; the text names it."""


def back_up_file(source: Path, backup: Path) -> Copied:
    """Make a backup of a SQLite file, which a service may be using."""
    _must_be_there(source)
    with _new_file(backup) as making, closing(_opened(source, "rw")) as db, closing(sqlite3.connect(making)) as copy:
        _take_pages(db, source, copy)
        copy.execute("PRAGMA journal_mode = DELETE")
        return _checked(copy, source)


def back_up_database(address: DatabaseAddress, backup: Path) -> Copied:
    """Make a backup of a PostgreSQL database, which a service may be using."""
    from balsam.server.store.postgres.migrate import schema_version
    from balsam.server.store.postgres.whole import reading

    version = schema_version(address)
    with _new_file(backup) as making, closing(sqlite3.connect(making, isolation_level=None)) as copy:
        migrate(copy, version)
        copy.execute("BEGIN")
        with reading(address) as source:
            copied = copy_whole(source, WholeFile(copy), layout(copy))
        copy.execute("COMMIT")
        _checked(copy, backup)
        return copied


def restore_file(backup: Path, target: Path) -> Copied:
    """Put a backup in the place of a service's SQLite file, where there must be none."""
    _must_be_there(backup)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        file_lock(target),
        _new_file(target) as making,
        closing(_opened(backup)) as db,
        closing(sqlite3.connect(making, isolation_level=None)) as copy,
    ):
        _checked(db, backup)
        db.backup(copy)
        migrate(copy)
        return _checked(copy, backup)


def restore_database(backup: Path, address: DatabaseAddress) -> Copied:
    """Put a backup into an empty PostgreSQL database. The backup may be of an older version."""
    _must_be_there(backup)
    with closing(_opened(backup)) as db:
        return _restore(db, backup, address)


def copy_to_database(source: Path, address: DatabaseAddress) -> Copied:
    """Move a service from its SQLite file to PostgreSQL; the file is left as it is. No service may run on either."""
    _must_be_there(source)
    with file_lock(source), closing(_opened(source, "rw")) as db:
        return _restore(db, source, address)


def _restore(db: sqlite3.Connection, path: Path, address: DatabaseAddress) -> Copied:
    from balsam.server.store.postgres.migrate import migrate as migrate_database
    from balsam.server.store.postgres.whole import filling

    with closing(sqlite3.connect("", isolation_level=None)) as raised:
        _checked(db, path)
        db.backup(raised)  # a temporary file of SQLite's own: the backup stays as it is
        migrate(raised)
        migrate_database(address)
        tables = layout(raised)
        with filling(address, tables) as target:
            return copy_whole(WholeFile(raised), target, tables)


def _must_be_there(path: Path) -> None:
    if not path.is_file():
        raise BadBackup(f"there is no file {path}")


def _opened(path: Path, mode: str = "ro") -> sqlite3.Connection:
    """A file that is only read. To read the log that a service has beside it, SQLite must be able to write."""
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None)
    except sqlite3.OperationalError as error:
        raise BadBackup(f"{path} can't be opened: {error}") from None
    db.execute("PRAGMA query_only = ON")
    return db


def _take_pages(db: sqlite3.Connection, path: Path, copy: sqlite3.Connection) -> None:
    try:
        db.backup(copy)
    except sqlite3.OperationalError:  # of either file
        raise
    except sqlite3.DatabaseError as error:
        raise BadBackup(f"{path} is damaged, or no database: {error}") from None


def _checked(db: sqlite3.Connection, path: Path) -> Copied:
    """Every page, every reference, and the version. Returns the rows of each table."""
    try:
        faults = [row[0] for row in db.execute("PRAGMA integrity_check(3)")]
        faults = [] if faults == ["ok"] else faults
        broken = db.execute("PRAGMA foreign_key_check")
        faults += [f"{row[0]} refers to a row of {row[2]} that is gone" for row in broken]
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        tables = layout(db)
        counts = {table.name: count_rows(db, table) for table in tables}
    except sqlite3.DatabaseError as error:
        raise BadBackup(f"{path} is damaged, or no database: {error}") from None
    if faults:
        raise BadBackup(f"{path} is damaged: {'; '.join(faults[:3])}")
    if not version or "jobs" not in counts:
        raise BadBackup(f"{path} is no database of a Balsam service")
    if version > (newest := migrations("sqlite")[-1].number):
        raise SchemaTooNew(f"{path} has schema {version}, this version knows {newest}: upgrade first")
    return Copied(counts)


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A file that appears under its name when it is whole and on the disk, for its owner only."""
    if path.exists():
        raise BadBackup(f"{path} is there already; name another file")
    making = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        os.close(os.open(making, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        yield making
        _sync(making)
        _appear(making, path)
    except FileExistsError:
        raise BadBackup(f"{path} came into being meanwhile; name another file") from None
    except (OSError, sqlite3.OperationalError) as error:
        raise Unavailable(f"{path} can't be written: {error}") from error
    finally:
        making.unlink(missing_ok=True)
    _sync(path.parent)


def _appear(making: Path, path: Path) -> None:
    """Give it its name. Raises FileExistsError."""
    try:
        os.link(making, path)  # unlike a rename it never writes over what came meanwhile
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(path) from None
        os.rename(making, path)  # noqa: PTH104 - beside the other system calls


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
