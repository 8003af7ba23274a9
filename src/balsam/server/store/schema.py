"""Migrations: numbered SQL files, forward only, each recorded in the database when it was carried out.

A file `NNNN_name.sql` is for both databases, in SQLite's SQL; `NNNN_name.sqlite.sql` and `NNNN_name.postgres.sql` are
for one of them. migrations/README.md says what may stand in a file so that code of an older version goes on working.
"""

import re
import sqlite3
from dataclasses import dataclass
from importlib.resources import files

_NAME = re.compile(r"(\d{4})_(\w+)(?:\.(sqlite|postgres))?\.sql")
_NEEDS = re.compile(r"^-- contract: code below (\d{4}) can't work with this$", re.MULTILINE)
_APART = re.compile(r"^-- outside a transaction$", re.MULTILINE)


class SchemaTooOld(Exception):
    """The database has no schema yet, or that of an older version; the text says what to do."""


class SchemaTooNew(Exception):
    """The database was written by a newer version; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. `oldest_code` is the number that code must know to work with the outcome (0: any code does)."""

    number: int
    name: str
    script: str
    only_for: str  # sqlite, postgres, or empty for both
    oldest_code: int = 0
    outside_transaction: bool = False


def migrations(database: str) -> list[Migration]:
    """All steps for `sqlite` or `postgres` in their order. A number that is for the other database alone is an empty
    step."""
    found: dict[int, Migration] = {}
    for entry in sorted(files("balsam.server.store").joinpath("migrations").iterdir(), key=lambda entry: entry.name):
        if (match := _NAME.fullmatch(entry.name)) is None:
            continue
        number, only_for = int(match[1]), match[3] or ""
        if only_for in ("", database):
            found[number] = _read(number, match[2], entry.read_text(), only_for)
        else:
            found.setdefault(number, Migration(number, match[2], "", only_for))
    return [found[number] for number in sorted(found)]


def _read(number: int, name: str, script: str, only_for: str) -> Migration:
    needs = _NEEDS.search(script)
    apart = _APART.search(script) is not None
    return Migration(number, name, script, only_for, int(needs[1]) if needs else 0, apart)


def migrate(db: sqlite3.Connection, until: int | None = None) -> int:
    """Bring a SQLite file up, each step in one transaction; returns the version that it has then.

    `until`: to the schema of an older version.
    """
    steps = migrations("sqlite")
    newest = steps[-1].number
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > newest:
        raise SchemaTooNew(f"the database has schema {version}, this version knows {newest}: upgrade the service")
    for step in steps:
        if version < step.number <= (until or newest):
            db.executescript(f"BEGIN IMMEDIATE; {step.script}; PRAGMA user_version = {step.number}; COMMIT;")
    return until or newest
