"""Reading transactions in SQL: rows by id, lists, counts, events.

`SqlReadTx` wraps one connection inside one transaction; made by the stores, used by use cases through the protocol.
"""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from operator import attrgetter
from typing import Any

from balsam.domain.states import JobState
from balsam.server.store.codec import (
    ACTORS,
    GRANTED_COLUMNS,
    SELECT_HOT,
    SELECT_JOB,
    SELECT_SHOWN,
    STATE_NUMBERS,
    STATES,
    Table,
    granted_row,
    hot_job,
    job_row,
    load,
    shown_job,
    sql_value,
    table,
    tag_number,
)
from balsam.server.store.conditions import groups
from balsam.server.store.protocol import R, Value
from balsam.server.store.records import EVENT_SEQ_BITS, EventRow, GrantedRow, HotJob, JobRow, ShownJob
from balsam.server.store.selections import Census, EventSelection, JobSelection, PageWindow
from balsam.server.store.sql_apps import AppsReadTx
from balsam.server.store.sql_census import census
from balsam.server.store.sql_database import Cursor, Database, listed
from balsam.server.store.sql_files import FilesReadTx
from balsam.server.store.sql_groups import row_groups
from balsam.server.store.sql_runnable import RunnableReadTx
from balsam.server.store.sql_select import (
    Query,
    counts_suffice,
    driver_of,
    event_query,
    job_query,
    stream_query,
)

EVENTS_COUNTER = 0  # kept in state_counts beside the states: how many events the Jobs of a Site have
_BY_IDS = "id IN (SELECT value FROM json_each(?))"
_GIVEN_IDS = "SELECT value AS id FROM json_each(?)"
_ENOUGH = 1000
_MANY_JOBS = 5000
_COUNTED = ("site_id", "app_id", "state")  # as `_counted` has them
_Statement = tuple[str, tuple[Any, ...]]


class SqlReadTx(RunnableReadTx, FilesReadTx, AppsReadTx):
    """ReadTx over a connection that is inside a transaction.

    Where several processes write, a writing transaction locks the rows that it reads: the two hooks say how.
    """

    _job_lock = ""  # appended to what reads Jobs in order to move them

    def __init__(self, database: Database) -> None:
        self._db = database

    def get(self, kind: type[R], row_id: int) -> R | None:
        found: list[R] = self.find(kind, id=row_id)
        return found[0] if found else None

    def find(self, kind: type[R], /, **equals: Value | tuple[Value, ...]) -> list[R]:
        return list(map(table(kind).decode, self._ask_rows(kind, **equals)))

    def _ask_rows(self, kind: type[R], /, **equals: Value | tuple[Value, ...]) -> Cursor:
        conditions: list[tuple[str, str]] = []
        params: list[Any] = []
        for column, value in equals.items():
            if isinstance(value, tuple) and len(value) == 1:  # a list costs a table of its own
                conditions.append((column, "one"))
                params.append(sql_value(value[0]))
            elif isinstance(value, tuple):
                conditions.append((column, "any"))
                params.append(listed(map(sql_value, value)))
            elif value is None:
                conditions.append((column, "null"))
            else:
                conditions.append((column, "one"))
                params.append(sql_value(value))
        its = table(kind)
        sql = _find_sql(its, tuple(conditions)) + self._row_lock(kind)
        return self._db.execute(sql, params)

    def newest(self, kind: type[R], before_id: int, limit: int, /, **equals: Value) -> list[R]:
        its = table(kind)
        where = " AND ".join(("id < ?", *(f"{its.checked(column)} = ?" for column in equals)))
        sql = f"SELECT {', '.join(its.columns)} FROM {its.name} WHERE {where} ORDER BY id DESC LIMIT ?"
        params = (before_id, *map(sql_value, equals.values()), limit)
        return [its.decode(row) for row in self._db.execute(sql, params)]

    def created_before(self, kind: type[R], at: int) -> list[R]:
        its = table(kind)
        sql = f"SELECT {', '.join(its.columns)} FROM {its.name} WHERE created_at < ? ORDER BY id"
        return [its.decode(row) for row in self._db.execute(sql, (at,))]

    def jobs(self, job_ids: Iterable[int]) -> list[JobRow]:
        sql = f"{SELECT_JOB} WHERE {_BY_IDS} ORDER BY id{self._job_lock}"
        return [job_row(row) for row in self._db.execute(sql, (listed(job_ids),))]

    def job_page(self, selection: JobSelection, window: PageWindow) -> list[JobRow]:
        ids = self._merged_ids(self._page_statements(selection, window), window)
        place = {job_id: index for index, job_id in enumerate(ids)}
        return sorted(self.jobs(ids), key=lambda job: place[job.id])

    def shown_jobs(self, job_ids: Iterable[int]) -> list[ShownJob]:
        return [shown_job(row) for row in self._db.execute(SELECT_SHOWN.format(_GIVEN_IDS), (listed(job_ids),))]

    def shown_page(self, selection: JobSelection, window: PageWindow) -> list[ShownJob]:
        statements = self._page_statements(selection, window)
        if len(statements) == 1:
            ids, params = statements[0]
            found = [shown_job(row) for row in self._db.execute(SELECT_SHOWN.format(ids), params)]
        else:
            found = self.shown_jobs(self._merged_ids(statements, window))
        return sorted(found, key=_place_in(window), reverse=window.descending)

    def job_ids(self, selection: JobSelection, after: int, limit: int) -> list[int]:
        window = PageWindow(limit=limit, after=after)
        return self._merged_ids(self._page_statements(selection, window), window)

    def _page_statements(self, selection: JobSelection, window: PageWindow) -> list[_Statement]:
        """What gives the ids of a page: one statement, or one for each of the streams that are to be merged."""
        queries = self._page_queries(selection, window)
        limit, offset = window.limit, window.offset
        if len(queries) > 1:
            limit, offset = limit + offset, 0
        statements: list[_Statement] = []
        for query in queries:
            _add_keyset(query, window)
            order = _ordering(query, window)
            sql = f"SELECT {query.key} AS id FROM {query.source} WHERE {query.where} ORDER BY {order} LIMIT ? OFFSET ?"
            statements.append((sql, (*query.params, limit, offset)))
        return statements

    def _page_queries(self, selection: JobSelection, window: PageWindow) -> list[Query]:
        selection = self._narrowest_tag_first(selection)
        driver = self._driver_of(selection)
        if window.order_by == "id" and driver in ("states", "failures"):
            return self._streams(selection, driver)
        if driver == "states":
            driver = "owner" if selection.app_ids is None else "apps"
        if driver == "owner" and window.order_by == "last_update":
            driver = "updated"
        return [job_query(selection, driver)]

    def _driver_of(self, selection: JobSelection) -> str:
        """Of App and state, the one that fewer Jobs have."""
        driver = driver_of(selection)
        if driver != "apps" or selection.states is None:
            return driver
        of_states = sum(self._counters(replace(selection, app_ids=None)).values())
        of_apps = sum(self._counters(replace(selection, states=None)).values())
        return "states" if of_states < of_apps else "apps"

    def _streams(self, selection: JobSelection, driver: str) -> list[Query]:
        """Parts of a selection that an index gives in order of id."""
        if driver == "states":
            return [stream_query(selection, site_id, state) for site_id, state in self._counters(selection)]
        return [
            job_query(replace(selection, failures=(failure,)), driver)
            for failure in dict.fromkeys(selection.failures or ())
        ]

    def _merged_ids(self, statements: list[_Statement], window: PageWindow) -> list[int]:
        streams = [[row[0] for row in self._db.execute(*statement)] for statement in statements]
        if len(streams) == 1:
            return streams[0]
        merged = heapq.merge(*streams, reverse=window.descending)
        return list(islice(merged, window.offset, window.offset + window.limit))

    def _narrowest_tag_first(self, selection: JobSelection) -> JobSelection:
        if len(selection.tags) < 2:
            return selection
        sql = "SELECT count(*) FROM (SELECT 1 FROM job_tags WHERE tag = ? LIMIT ?) AS few"

        def how_many(tag: tuple[str, str]) -> int:
            number = tag_number(selection.owner_id, *tag)
            return int(self._db.execute(sql, (number, _ENOUGH)).fetchone()[0])

        return replace(selection, tags=tuple(sorted(selection.tags, key=how_many)))

    def job_count(self, selection: JobSelection) -> int:
        if counts_suffice(selection):
            return sum(self._counters(selection).values())
        selection = self._narrowest_tag_first(selection)
        driver = self._driver_of(selection)
        if driver == "states":
            queries = self._streams(selection, driver)
        else:
            queries = [job_query(selection, driver)]
            if driver == "tags" and selection == JobSelection(selection.owner_id, tags=selection.tags[:1]):
                # The tag's number stands for the owner as well, so the Jobs need not be looked at.
                queries = [Query("job_tags t", ["t.tag = ?"], [tag_number(selection.owner_id, *selection.tags[0])])]
        return sum(self._count(query) for query in queries)

    def _count(self, query: Query) -> int:
        sql = f"SELECT count(*) FROM {query.source} WHERE {query.where}"
        return int(self._db.execute(sql, query.params).fetchone()[0])

    def job_counts(self, selection: JobSelection) -> dict[JobState, int]:
        counts: dict[JobState, int] = {}
        if counts_suffice(selection):
            for (_, state), n in self._counters(selection).items():
                counts[STATES[state]] = counts.get(STATES[state], 0) + n
            return counts
        driver = driver_of(selection)
        query = job_query(selection, "owner" if driver == "states" else driver)
        sql = f"SELECT jobs.state, count(*) FROM {query.source} WHERE {query.where} GROUP BY jobs.state"
        return {STATES[state]: n for state, n in self._db.execute(sql, query.params)}

    def job_groups(
        self, selection: JobSelection, column: str, path: tuple[str, ...], limit: int
    ) -> list[tuple[Any, int]]:
        if column in _COUNTED and counts_suffice(selection):
            place = _COUNTED.index(column)
            kept = ((key[place], n) for key, n in self._counted(selection))
            return groups(((STATES[value] if column == "state" else value, n) for value, n in kept), limit)
        driver = driver_of(selection)
        query = job_query(selection, "owner" if driver == "states" else driver)
        return row_groups(self._db, query, column, path, limit)

    def census(self) -> Census:
        return census(self._db)

    def _counters(self, selection: JobSelection) -> dict[tuple[int, int], int]:
        """Numbers of Jobs by (site, state), where there are any, of a selection's owner, Sites, Apps and states."""
        counts: dict[tuple[int, int], int] = {}
        for (site, _, state), n in self._counted(selection):
            counts[site, state] = counts.get((site, state), 0) + n
        return counts

    def _counted(self, selection: JobSelection) -> Iterator[tuple[tuple[int, int, int], int]]:
        """Kept numbers of Jobs by (site, App, state)."""
        sites = None if selection.site_ids is None else set(selection.site_ids)
        apps = None if selection.app_ids is None else set(selection.app_ids)
        states = None if selection.states is None else {STATE_NUMBERS[state] for state in selection.states}
        sql = (
            "SELECT site_id, app_id, state, CAST(sum(n) AS BIGINT) FROM state_counts WHERE owner_id = ? AND state > 0"
            " GROUP BY site_id, app_id, state HAVING sum(n) > 0"
        )
        for site, app, state, n in self._db.execute(sql, (selection.owner_id,)):
            if (
                (sites is None or site in sites)
                and (apps is None or app in apps)
                and (states is None or state in states)
            ):
                yield (site, app, state), n

    def hot_jobs(self, job_ids: Iterable[int]) -> dict[int, HotJob]:
        return by_id(self._ask_hot_jobs(job_ids))

    def _ask_hot_jobs(self, job_ids: Iterable[int]) -> Cursor:
        return self._db.execute(f"{SELECT_HOT} WHERE {_BY_IDS} ORDER BY id{self._job_lock}", (listed(job_ids),))

    def held_jobs(self, session_id: int) -> list[HotJob]:
        sql = f"{SELECT_HOT} INDEXED BY jobs_held WHERE session_id = ? ORDER BY id{self._job_lock}"
        return [hot_job(row) for row in self._db.execute(sql, (session_id,))]

    def granted_jobs(self, session_id: int, grant_seq: int) -> list[GrantedRow]:
        columns = ", ".join(GRANTED_COLUMNS)
        sql = f"SELECT {columns} FROM jobs INDEXED BY jobs_held WHERE session_id = ? AND grant_seq = ? ORDER BY id"
        return [granted_row(row) for row in self._db.execute(sql, (session_id, grant_seq))]

    def jobs_to_stop(self, session_id: int) -> list[int]:
        return [row[0] for row in self._ask_to_stop(session_id)]

    def _ask_to_stop(self, session_id: int) -> Cursor:
        sql = (
            "SELECT id FROM jobs INDEXED BY jobs_to_stop WHERE session_id = ? AND session_id IS NOT NULL"
            " AND (cancel_requested = 1 OR state = 15) ORDER BY id"
        )
        return self._db.execute(sql, (session_id,))

    def children(self, parent_ids: Iterable[int]) -> list[tuple[int, int]]:
        return self._ask_children(parent_ids).fetchall()

    def _ask_children(self, parent_ids: Iterable[int]) -> Cursor:
        sql = (
            "SELECT parent_id, child_id FROM job_parents WHERE parent_id IN (SELECT value FROM json_each(?))"
            " ORDER BY parent_id, child_id"
        )
        return self._db.execute(sql, (listed(parent_ids),))

    def unfinished_parents(self, child_ids: Iterable[int]) -> dict[int, int]:
        sql = (
            "SELECT child_id, count(*) FROM job_parents INDEXED BY job_parents_unfinished"
            " WHERE child_id IN (SELECT value FROM json_each(?)) AND unfinished = 1 GROUP BY child_id"
        )
        return dict(self._db.execute(sql, (listed(child_ids),)).fetchall())

    def waiting_children(self, child_ids: Iterable[int]) -> set[int]:
        sql = (
            "SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM job_parents p"
            " INDEXED BY job_parents_unfinished WHERE p.child_id = value AND p.unfinished = 1)"
        )
        return {row[0] for row in self._db.execute(sql, (listed(child_ids),))}

    def events(self, selection: EventSelection, window: PageWindow) -> list[EventRow]:
        query = event_query(selection, by_time=self._has_many_jobs(selection))
        _add_keyset(query, window, "e.")
        order = "DESC" if window.descending else "ASC"
        sql = (
            "SELECT e.id, e.attempt, e.from_state, e.to_state, e.actor, e.timestamp, e.reported_at, e.data"
            f" FROM {query.source} WHERE {query.where} ORDER BY e.timestamp {order}, e.id {order} LIMIT ? OFFSET ?"
        )
        return [_event_row(row) for row in self._db.execute(sql, (*query.params, window.limit, window.offset))]

    def _has_many_jobs(self, selection: EventSelection) -> bool:
        """Whether the selection speaks of Jobs, and of so many that the newest events are sooner found by time."""
        jobs = selection.jobs
        broad = selection.ids is None and driver_of(jobs) in ("apps", "states", "owner")
        return broad and jobs != JobSelection(jobs.owner_id) and sum(self._counters(jobs).values()) > _MANY_JOBS

    def event_count(self, selection: EventSelection) -> int:
        if selection == EventSelection(selection.owner_id):
            sql = "SELECT CAST(coalesce(sum(n), 0) AS BIGINT) FROM state_counts WHERE owner_id = ? AND state = ?"
            return int(self._db.execute(sql, (selection.owner_id, EVENTS_COUNTER)).fetchone()[0])
        return self._count(event_query(selection))


def _event_row(row: tuple[Any, ...]) -> EventRow:
    event, attempt, source, target, actor, timestamp, reported_at, data = row
    job_id, seq = event >> EVENT_SEQ_BITS, event & ((1 << EVENT_SEQ_BITS) - 1)
    moves = (STATES[source], STATES[target], ACTORS[actor])
    return EventRow(event, job_id, seq, attempt, *moves, timestamp, reported_at, load(data))


def _add_keyset(query: Query, window: PageWindow, prefix: str = "jobs.") -> None:
    if window.after is None:
        return
    past = "<" if window.descending else ">"
    if window.after_value is None:
        query.add(f"{query.key} {past} ?", window.after)
        return
    value = _order_value(window)
    query.add(f"({prefix}{window.order_by}, {query.key}) {past} (?, ?)", value, window.after)


def _order_value(window: PageWindow) -> int | str | None:
    """What the last row of the page before was ordered by, as it is stored."""
    value = window.after_value
    return STATE_NUMBERS[JobState(str(value))] if window.order_by == "state" else value


def _ordering(query: Query, window: PageWindow) -> str:
    direction = "DESC" if window.descending else "ASC"
    if window.order_by == "id":
        return f"{query.key} {direction}"
    return f"jobs.{window.order_by} {direction}, {query.key} {direction}"


def _place_in(window: PageWindow) -> Callable[[ShownJob], tuple[Any, int]]:
    """Of a Job in the order of a page."""
    if window.order_by == "state":
        return lambda job: (STATE_NUMBERS[job.state], job.id)
    return attrgetter(window.order_by, "id")


@lru_cache(maxsize=1024)
def _find_sql(its: Table, conditions: tuple[tuple[str, str], ...]) -> str:
    """The text is made once for each shape of question; their number is that of the calls of `find` in the program."""
    return its.find_sql(conditions)


def by_id(rows: Iterable[Sequence[Any]]) -> dict[int, HotJob]:
    """Jobs of rows of SELECT_HOT."""
    return {row[0]: hot_job(row) for row in rows}
