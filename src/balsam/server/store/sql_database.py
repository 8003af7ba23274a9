"""What the shared SQL needs of a connection: sqlite3's and the one of PostgreSQL look the same from here.

Statements are written in SQLite's SQL, with question marks; postgres/sql.py says the few things that PostgreSQL says
otherwise. What the two do in different ways for the sake of speed stands in sqlite_tx.py and postgres/tx.py.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol


class Outcome(Protocol):
    """What came of a statement that changes rows."""

    @property
    def rowcount(self) -> int: ...


class Cursor(Outcome, Protocol):
    """What came of one statement."""

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Database(Protocol):
    """A connection inside a transaction."""

    def execute(self, sql: str, params: Sequence[Any] = ..., /) -> Cursor: ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Outcome: ...


class Listed(list[Any]):
    """A list as the one parameter of `IN (SELECT value FROM json_each(?))`: the statement's text stays the same."""

    def __conform__(self, protocol: object) -> str:
        """How sqlite3 asks for a value it can store. PostgreSQL takes the list as an array."""
        return json.dumps(self)


class JsonPath(Listed):
    """Keys that lead to a value in a JSON column, as one parameter of `json_extract` and the like.

    Keys have no quotes and no backslashes in them (see wire.kinds).
    """

    def __conform__(self, protocol: object) -> str:
        return "$" + "".join(f".{json.dumps(key, ensure_ascii=False)}" for key in self)


def listed(values: Iterable[object]) -> Listed:
    return Listed(values)
