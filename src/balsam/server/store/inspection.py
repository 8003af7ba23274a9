"""What `balsam server doctor` wants to know of a SQLite file, without a change to it, whether a service uses it or not.

Promises: the file, its log and its lock are left as they are; a service that starts, works or stops meanwhile is
neither hindered nor taken for damage.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from balsam.server.store.filesystem import network_filesystem
from balsam.server.store.records import moment

_MAGIC = b"SQLite format 3\0"
_WRITE_FORMAT = 18  # where in the file the format stands; 2 is WAL
_WAL = 2
MAX_FAULTS = 3


@dataclass(frozen=True, slots=True)
class FileFacts:
    """`network`: type of the network file system it is on, or empty. `newest`: when the last event was recorded.

    With `faults` the file is damaged, or no database, and the rest may be missing.
    """

    schema: int
    is_wal: bool
    network: str
    newest: datetime | None
    faults: tuple[str, ...] = ()


def inspect_file(path: Path) -> FileFacts:
    """Read all pages of the file once. Raises OSError when it can't be read."""
    while True:
        log_before = _has_log(path)
        facts = _inspect(path, has_log=log_before)
        if not facts.faults or log_before or not _has_log(path):
            return facts
        # A service has started meanwhile and written under our eyes.


def _has_log(path: Path) -> bool:
    return path.with_name(path.name + "-wal").exists()


def _inspect(path: Path, *, has_log: bool) -> FileFacts:
    with path.open("rb") as file:
        start = file.read(100)
    network = network_filesystem(path.parent)
    is_wal = len(start) > _WRITE_FORMAT and start[_WRITE_FORMAT] == _WAL
    if start and not start.startswith(_MAGIC):
        return FileFacts(0, is_wal, network, None, ("this is no SQLite database",))
    # Without a log nobody writes, and SQLite would make one for reading and leave it there.
    query = "mode=ro" if has_log else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{query}", uri=True)) as db:
            faults = [str(row[0]) for row in db.execute(f"PRAGMA quick_check({MAX_FAULTS})")]
            schema = int(db.execute("PRAGMA user_version").fetchone()[0])
            last = "SELECT timestamp FROM events ORDER BY id DESC LIMIT 1"
            row = db.execute(last).fetchone() if schema else None
    except sqlite3.DatabaseError as error:
        return FileFacts(0, is_wal, network, None, (str(error),))
    newest = None if row is None else moment(row[0])
    return FileFacts(schema, is_wal, network, newest, () if faults == ["ok"] else tuple(faults))
