"""The rows of a whole database, from one into another: what backup, restore and copy are made of.

Used by backups.py. A table has the same columns in both databases; what they keep in ways of their own (ids, counters)
is said here. Promises: rows are read in one state; what was written is read again and compared, row by row.
"""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from hashlib import blake2b
from typing import Any, Protocol

AT_ONCE = 5_000
_OWN_WAYS = "sequences"  # a table in SQLite, sequences in PostgreSQL


class CopyDiffers(Exception):
    """What was written is not what was read: a fault of a disk, or of ours. Nothing of it is kept."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of both databases."""

    name: str
    columns: Sequence[str]

    @property
    def select(self) -> str:
        columns = ", ".join(f'"{column}"' for column in self.columns)
        return f"SELECT {columns} FROM {self.name}"


class Whole(Protocol):
    """A database inside a transaction that sees one state."""

    def rows(self, table: Table) -> Iterator[tuple[Any, ...]]: ...

    def fill(self, table: Table, rows: Iterable[tuple[Any, ...]]) -> None: ...

    def next_ids(self) -> dict[str, int]: ...

    def set_next_ids(self, ids: Mapping[str, int]) -> None: ...


@dataclass(slots=True)
class Digest:
    """Of rows in any order."""

    count: int = 0
    total: int = 0

    def through(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        for row in rows:
            self.count += 1
            self.total += int.from_bytes(blake2b(repr(row).encode(), digest_size=16).digest())
            yield row


@dataclass(slots=True)
class Copied:
    """How many rows went over, by table."""

    rows: dict[str, int] = field(default_factory=dict)


def copy_whole(source: Whole, target: Whole, tables: Sequence[Table]) -> Copied:
    """Copy all rows into tables that are empty, and compare. Raises CopyDiffers; the caller's transaction undoes it."""
    copied = Copied()
    for table in tables:
        read, found = Digest(), Digest()
        target.fill(table, read.through(source.rows(table)))
        for _ in found.through(target.rows(table)):
            pass
        if read != found:
            raise CopyDiffers(
                f"{table.name}: {read.count} rows were read and {found.count} are there, or they are not the same"
            )
        copied.rows[table.name] = read.count
    target.set_next_ids(source.next_ids())
    return copied


def layout(db: sqlite3.Connection) -> list[Table]:
    """The tables of a file, those that others refer to first."""
    sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> ?"
    names = [row[0] for row in db.execute(sql, [_OWN_WAYS])]
    refers = {name: {row[2] for row in db.execute(f"PRAGMA foreign_key_list({name})")} - {name} for name in names}
    return [
        Table(name, [row[1] for row in db.execute(f"PRAGMA table_info({name})")])
        for name in TopologicalSorter(refers).static_order()
        if not name.startswith("sqlite_")
    ]


def count_rows(db: sqlite3.Connection, table: Table) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0])


class WholeFile:
    """A SQLite file."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def rows(self, table: Table) -> Iterator[tuple[Any, ...]]:
        return iter(self._db.execute(table.select))

    def fill(self, table: Table, rows: Iterable[tuple[Any, ...]]) -> None:
        marks = ", ".join("?" * len(table.columns))
        columns = ", ".join(f'"{column}"' for column in table.columns)
        self._db.executemany(f"INSERT INTO {table.name} ({columns}) VALUES ({marks})", rows)

    def next_ids(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT name, next FROM sequences").fetchall())

    def set_next_ids(self, ids: Mapping[str, int]) -> None:
        self._db.executemany("INSERT INTO sequences (name, next) VALUES (?, ?)", list(ids.items()))
