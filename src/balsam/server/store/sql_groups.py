"""Counting the Jobs of a selection by a value: by index, by rows, or from the kept counters. Used by sql_read."""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

from collections.abc import Iterator
from typing import Any

from balsam.server.store.codec import STATES, load
from balsam.server.store.conditions import groups
from balsam.server.store.sql_database import Cursor, Database, JsonPath
from balsam.server.store.sql_select import Query

_FLAGS = frozenset({"cancel_requested", "pending_file_cleanup"})


def row_groups(db: Database, query: Query, column: str, path: tuple[str, ...], limit: int) -> list[tuple[Any, int]]:
    """From the rows of a query over `jobs`."""
    if path:
        by, params = f"json_type(jobs.{column}, ?), json_extract(jobs.{column}, ?)", [JsonPath(path)] * 2
    else:
        by, params = f"NULL, jobs.{column}", []
    sql = f"SELECT {by}, count(*) AS n FROM {query.source} WHERE {query.where} GROUP BY 1, 2 ORDER BY n DESC LIMIT ?"
    rows = db.execute(sql, (*params, *query.params, limit))
    return groups(_decoded(rows, column, bool(path)), limit)


def _decoded(rows: Cursor, column: str, is_json: bool) -> Iterator[tuple[Any, int]]:
    for kind, value, number in rows:
        if is_json:
            yield _json_value(kind, value), number
        elif column == "state":
            yield STATES[value], number
        else:
            yield (value == 1 if column in _FLAGS else value), number


def _json_value(kind: str | None, value: Any) -> Any:
    if kind in ("true", "false"):
        return kind == "true"
    return load(value) if kind not in ("text", "null") and isinstance(value, str) else value
