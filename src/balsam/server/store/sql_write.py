"""Writing transactions in SQL.

`SqlTx` is made by the writer thread for one item of a grouped commit. What can be summed over the commit (counters,
wakes) is collected in its `Pending` and given up with the item when the item fails.
"""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any

from balsam.domain.job import GPU_EPSILON, MAX_RANKS
from balsam.domain.states import RUNNABLE_STATES, JobState
from balsam.server.store.codec import (
    SELECT_JOB,
    STATE_NUMBERS,
    STATES,
    TABLE_NAMES,
    dump,
    job_row,
    table,
    tag_number,
)
from balsam.server.store.protocol import Duplicate, GuardFailed, Wake
from balsam.server.store.records import (
    CHANGEABLE_COLUMNS,
    EVENT_SEQ_BITS,
    HotJob,
    JobRow,
    JobShape,
    JobUpdate,
    NewJob,
    Row,
    event_id,
)
from balsam.server.store.selections import AcquireCriteria, fitting
from balsam.server.store.sql_files import FilesTx
from balsam.server.store.sql_read import EVENTS_COUNTER, SqlReadTx
from balsam.server.store.sql_rows import (
    EVENT_VALUES,
    JOB_TABLE,
    JOB_VALUES,
    append_events,
    event_values,
    new_row,
    shape_values,
    update_values,
)
from balsam.server.store.sql_select import listed

_ROWS_AT_ONCE = 100
_FINISHED = STATE_NUMBERS[JobState.JOB_FINISHED]
_INSERT_PARENT = f"INSERT INTO job_parents SELECT id, ?2, state <> {_FINISHED} FROM jobs WHERE id = ?1"
_NOTE_FINISHED = "UPDATE job_parents SET unfinished = 0 WHERE parent_id IN (SELECT value FROM json_each(?))"
_INSERT_TAG = "INSERT INTO job_tags VALUES (?, ?)"
_INSERT_RUNNABLE_TAG = "INSERT INTO runnable_tags VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE_RUNNABLE_TAG = "DELETE FROM runnable_tags WHERE tag = ? AND site_id = ? AND rank = ? AND job_id = ?"
# S4: the guard of the Decision is repeated here, so that a fault in Python can't write past it.
_UPDATE_JOB = """UPDATE jobs SET state = ?, attempt = ?, session_id = ?, cancel_requested = ?, lost_attempts = ?,
    was_preprocessed = ?, event_seq = ?, batch_job_id = ?, return_code = ?, started_at = ?, ended_at = ?,
    spent_attempts = ?, failure = ?, last_update = ?
    WHERE id = ? AND state = ? AND token = ? AND event_seq = ? AND session_id IS ?"""
_GRANT = """UPDATE jobs SET token = token + 1, session_id = ?, grant_seq = ?
    WHERE id IN (SELECT value FROM json_each(?)) AND session_id IS NULL AND state IN (5, 10)"""
_UNLOCK = """UPDATE jobs SET session_id = NULL
    WHERE id IN (SELECT value FROM json_each(?)) AND session_id = ? AND state <> 6"""
_JSON_COLUMNS = frozenset({"parameters", "tags", "data", "launch_params"})
_FIRST_EVENTS = f"""WITH RECURSIVE new(id) AS (SELECT ? UNION ALL SELECT id + 1 FROM new WHERE id < ?),
    step(number, reported_at, attempt, source, target, actor, data) AS (VALUES {{}})
    INSERT INTO events SELECT (new.id << {EVENT_SEQ_BITS}) | step.number, ?, ?, step.reported_at, step.attempt,
    step.source, step.target, step.actor, step.data FROM new CROSS JOIN step"""
_NO_LIMIT = 1 << 40
_Home = tuple[int, int, int]  # owner, Site, App
_Move = tuple[int, int, int, JobState | None, JobState | None]
_BY_IDS = "id IN (SELECT value FROM json_each(?))"


@dataclass(slots=True)
class Pending:
    """What a commit does once, for all of its items."""

    counts: Counter[tuple[int, int, int, int]] = field(default_factory=Counter)
    wakes: list[Wake] = field(default_factory=list)

    def absorb(self, other: "Pending") -> None:
        self.counts.update(other.counts)
        self.wakes.extend(other.wakes)


class Sequences:
    """Ids of all tables. Only the writer gives out ids; `save` writes what was given out with the commit."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._next: dict[str, int] = dict(db.execute("SELECT name, next FROM sequences").fetchall())
        self._moved: set[str] = set()

    def take(self, name: str, count: int) -> int:
        first = self._next.get(name, 1)
        self._next[name] = first + count
        self._moved.add(name)
        return first

    def save(self, db: sqlite3.Connection) -> None:
        if self._moved:
            rows = [(name, self._next[name]) for name in self._moved]
            db.executemany("INSERT INTO sequences VALUES (?, ?) ON CONFLICT DO UPDATE SET next = excluded.next", rows)

    def saved(self) -> None:
        self._moved.clear()


class SqlTx(FilesTx, SqlReadTx):
    """Tx over the writer's connection."""

    def __init__(self, connection: sqlite3.Connection, sequences: Sequences) -> None:
        super().__init__(connection)
        self._sequences = sequences
        self.pending = Pending()

    def new_id(self, kind: type[Row]) -> int:
        return self._sequences.take(TABLE_NAMES[kind], 1)

    def put(self, row: Row) -> None:
        its = table(type(row))
        try:
            self._db.execute(its.put_sql, its.encode(row))
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE":
                raise Duplicate(str(error)) from error
            raise

    def remove(self, kind: type[Row], row_id: int) -> None:
        self._db.execute(f"DELETE FROM {TABLE_NAMES[kind]} WHERE id = ?", (row_id,))

    def wake(self, wake: Wake) -> None:
        self.pending.wakes.append(wake)

    def insert_jobs(self, jobs: Sequence[NewJob], at: int) -> list[int]:
        first = self._sequences.take("jobs", len(jobs))
        rows: list[tuple[Any, ...]] = []
        for shape, alike in groupby(jobs, key=lambda job: job.shape):
            shared, start = shape_values(shape), first + len(rows)
            rows += [new_row(job, shared, job_id, at) for job_id, job in enumerate(alike, start)]
            self._insert_first_events(shape, range(start, first + len(rows)), at)
        self._insert_many(JOB_TABLE, JOB_VALUES, rows)
        ids = list(range(first, first + len(jobs)))
        self._insert_links(list(zip(ids, jobs, strict=True)))
        return ids

    def _insert_first_events(self, shape: JobShape, ids: range, at: int) -> None:
        """The events of new Jobs that are alike: written once, multiplied by SQLite."""
        events = event_values(shape.decision, None, {})
        sql = _FIRST_EVENTS.format(", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * len(events)))
        numbered = chain.from_iterable((number, *values) for number, values in enumerate(events, 1))
        self._db.execute(sql, (ids[0], ids[-1], *numbered, shape.owner_id, at))
        home = (shape.owner_id, shape.site_id, shape.app_id)
        state = shape.decision.after.state
        self._tally({(*home, None, state): len(ids)}, {home: len(ids) * len(events)})

    def _insert_many(self, name: str, marks: str, rows: list[tuple[Any, ...]]) -> None:
        """Insert rows a hundred to the statement: half the cost of one each, and a hundredth of the thread switches."""
        whole = len(rows) - len(rows) % _ROWS_AT_ONCE
        many = f"INSERT INTO {name} VALUES {', '.join([marks] * _ROWS_AT_ONCE)}"
        for start in range(0, whole, _ROWS_AT_ONCE):
            self._db.execute(many, list(chain.from_iterable(rows[start : start + _ROWS_AT_ONCE])))
        self._db.executemany(f"INSERT INTO {name} VALUES {marks}", rows[whole:])

    def _insert_links(self, jobs: list[tuple[int, NewJob]]) -> None:
        parents = [(parent, job_id) for job_id, job in jobs for parent in dict.fromkeys(job.parent_ids)]
        if parents:
            self._db.executemany(_INSERT_PARENT, parents)
        tagged = [job_id for job_id, job in jobs if job.tags]
        if tagged:
            tags = [
                (tag_number(job.shape.owner_id, *item), job_id)
                for job_id, job in jobs
                if job.tags
                for item in job.tags.items()
            ]
            self._db.executemany(_INSERT_TAG, tags)
            self._offer(tagged)

    def apply(self, updates: Sequence[JobUpdate], at: int) -> None:
        rows: list[tuple[Any, ...]] = []
        events: list[tuple[Any, ...]] = []
        moved: Counter[_Move] = Counter()
        logged: Counter[_Home] = Counter()
        for update in updates:
            update.check()
            before = len(events)
            append_events(events, update, at)
            taken = len(events) - before
            rows.append(update_values(update, taken, at))
            job = update.job
            home = (job.owner_id, job.site_id, job.app_id)
            moved[*home, job.state, update.after.state] += 1
            logged[home] += taken
        offered = [update.job.id for update in updates if update.job.tagged and _is_available(update.job)]
        self._withdraw(offered)
        changed = self._db.executemany(_UPDATE_JOB, rows).rowcount if rows else 0
        if changed != len(rows):
            raise GuardFailed(f"S4: {len(rows) - changed} of {len(rows)} Jobs were not as they were read")
        self._insert_many("events", EVENT_VALUES, events)
        finished = [update.job.id for update in updates if update.after.state is JobState.JOB_FINISHED]
        if finished:
            self._db.execute(_NOTE_FINISHED, (listed(finished),))
        self._tally(moved, logged)
        self._offer([update.job.id for update in updates if update.job.tagged])

    def acquire(self, criteria: AcquireCriteria, session_id: int, grant_seq: int) -> list[JobRow]:
        if not self._any_short_enough(criteria):
            return []
        ids = fitting(self._candidates(criteria), criteria)
        if not ids:
            return []
        if criteria.filter_tags or self._any_tagged(ids):
            self._withdraw(ids)
        granted = self._db.execute(_GRANT, (session_id, grant_seq, listed(ids))).rowcount
        if granted != len(ids):  # S6
            raise GuardFailed(f"S6: {len(ids) - granted} of {len(ids)} Jobs could not be granted")
        rows = self._db.execute(f"{SELECT_JOB} WHERE {_BY_IDS}", (listed(ids),))
        place = {job_id: index for index, job_id in enumerate(ids)}
        return sorted(map(job_row, rows), key=lambda job: place[job.id])

    def _any_short_enough(self, criteria: AcquireCriteria) -> bool:
        """Whether any runnable Job of the Site is short enough: spares a walk over a million that are all too long."""
        sql = (
            "SELECT wall_time_min FROM jobs INDEXED BY jobs_runnable_by_size WHERE site_id = ? AND session_id IS NULL"
            " AND state IN (5, 10) ORDER BY wall_time_min LIMIT 1"
        )
        shortest = self._db.execute(sql, (criteria.site_id,)).fetchone()
        limit = criteria.max_wall_time_min
        return shortest is not None and (limit is None or shortest[0] <= limit)

    def _candidates(self, criteria: AcquireCriteria) -> Iterable[tuple[int, int, int]]:
        nodes = _NO_LIMIT if criteria.max_nodes_per_job is None else criteria.max_nodes_per_job
        if criteria.serial_only:
            nodes = 1
        params = (
            _NO_LIMIT if criteria.max_wall_time_min is None else criteria.max_wall_time_min,
            nodes,
            1 if criteria.serial_only else _NO_LIMIT,
            _NO_LIMIT if criteria.max_gpus_per_node is None else criteria.max_gpus_per_node,
            float(_NO_LIMIT) if criteria.max_aggregate_nodes is None else criteria.max_aggregate_nodes,
            criteria.candidates,
        )
        sql, before = self._tag_walk(criteria) if criteria.filter_tags else _index_walk(criteria)
        return self._db.execute(sql, (*before, *params)).fetchall()

    def _tag_walk(self, criteria: AcquireCriteria) -> tuple[str, tuple[int, ...]]:
        """A walk over the runnable Jobs that have the first tag; the others are looked up for each."""
        owner = self._db.execute("SELECT owner_id FROM sites WHERE id = ?", (criteria.site_id,)).fetchone()[0]
        tags = [tag_number(owner, key, value) for key, value in criteria.filter_tags]
        others = " AND EXISTS (SELECT 1 FROM job_tags o WHERE o.tag = ? AND o.job_id = t.job_id)" * (len(tags) - 1)
        order = "t.wall_time_min DESC, t.num_nodes DESC, t.job_id" if criteria.long_large_first else "t.rank, t.job_id"
        sql = (
            "SELECT t.job_id, t.num_nodes, t.node_packing_count FROM runnable_tags t"
            f" WHERE t.tag = ? AND t.site_id = ?{others} AND {_FITS.replace('#', 't.')} ORDER BY {order} LIMIT ?"
        )
        return sql, (tags[0], criteria.site_id, *tags[1:])

    def _any_tagged(self, ids: list[int]) -> bool:
        sql = "SELECT 1 FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND tags <> '{}' LIMIT 1"
        return self._db.execute(sql, (listed(ids),)).fetchone() is not None

    def unlock(self, session_id: int, jobs: Sequence[HotJob]) -> None:
        if not jobs:
            return
        changed = self._db.execute(_UNLOCK, (listed(job.id for job in jobs), session_id)).rowcount
        if changed != len(jobs):
            raise GuardFailed(f"S6: {len(jobs) - changed} of {len(jobs)} Jobs were not held by Session {session_id}")
        self._offer([job.id for job in jobs if job.tagged])

    def change_jobs(self, changes: Mapping[int, Mapping[str, Any]], at: int) -> None:
        for job_id, columns in changes.items():
            if foreign := set(columns) - CHANGEABLE_COLUMNS:
                raise ValueError(f"S4: {sorted(foreign)} of a Job are not changed this way")
            self._withdraw([job_id])
            sets = ", ".join(f"{column} = ?" for column in columns)
            values = [dump(value) if column in _JSON_COLUMNS else value for column, value in columns.items()]
            sql = f"UPDATE jobs SET last_update = ?{', ' if sets else ''}{sets} WHERE id = ?"
            if "tags" in columns:
                self._replace_tags(job_id, columns["tags"])
            if self._db.execute(sql, (at, *values, job_id)).rowcount != 1:
                raise GuardFailed(f"Job {job_id} is gone")
        self._offer(list(changes))

    def _replace_tags(self, job_id: int, tags: Mapping[str, str]) -> None:
        row = self._db.execute("SELECT owner_id, tags FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise GuardFailed(f"Job {job_id} is gone")
        owner, before = row
        old = [(tag_number(owner, *item), job_id) for item in json.loads(before).items()]
        self._db.executemany("DELETE FROM job_tags WHERE tag = ? AND job_id = ?", old)
        self._db.executemany(_INSERT_TAG, [(tag_number(owner, *item), job_id) for item in tags.items()])

    def delete_jobs(self, job_ids: Sequence[int]) -> None:
        self._withdraw(job_ids)
        self.delete_transfer_items(job_ids)
        sql = f"SELECT id, owner_id, site_id, app_id, state, event_seq, tags FROM jobs WHERE {_BY_IDS}"
        rows = self._db.execute(sql, (listed(job_ids),)).fetchall()
        tags = [(tag_number(row[1], *item), row[0]) for row in rows for item in json.loads(row[6]).items()]
        self._db.executemany("DELETE FROM job_tags WHERE tag = ? AND job_id = ?", tags)
        spans = [(event_id(row[0], 0), event_id(row[0] + 1, 0)) for row in rows]
        self._db.executemany("DELETE FROM events WHERE id > ? AND id < ?", spans)
        ids = [(row[0],) for row in rows]
        self._db.executemany("DELETE FROM job_parents WHERE parent_id = ?", ids)
        self._db.executemany("DELETE FROM job_parents WHERE child_id = ?", ids)
        self._db.executemany("DELETE FROM results WHERE id = ?", ids)
        self._db.executemany("DELETE FROM jobs WHERE id = ?", ids)
        for _, owner, site, app, state, event_seq, _ in rows:
            self._tally({(owner, site, app, STATES[state], None): 1}, {(owner, site, app): -event_seq})

    def _tally(self, moves: Mapping[_Move, int], events: Mapping[_Home, int]) -> None:
        """Count Jobs that went from state to state (None: from or to nowhere), and events that came."""
        counts = self.pending.counts
        for (*home, source, target), n in moves.items():
            owner, site, app = home
            if source is not target:
                if source is not None:
                    counts[owner, site, app, STATE_NUMBERS[source]] -= n
                if target is not None:
                    counts[owner, site, app, STATE_NUMBERS[target]] += n
        for (owner, site, app), n in events.items():
            counts[owner, site, app, EVENTS_COUNTER] += n

    def _withdraw(self, job_ids: Sequence[int]) -> None:
        """Take Jobs out of runnable_tags; called before they change."""
        if job_ids:
            self._db.executemany(_DELETE_RUNNABLE_TAG, [row[:4] for row in self._runnable_tags(job_ids)])

    def _offer(self, job_ids: Sequence[int]) -> None:
        """Put those of the Jobs that can be granted into runnable_tags; called after they changed."""
        if job_ids:
            self._db.executemany(_INSERT_RUNNABLE_TAG, self._runnable_tags(job_ids))

    def _runnable_tags(self, job_ids: Sequence[int]) -> list[tuple[int, ...]]:
        sql = (
            "SELECT id, owner_id, tags, site_id, -priority,"
            " wall_time_min, num_nodes, ranks_per_node, node_packing_count, gpus_per_rank"
            " FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND session_id IS NULL AND state IN (5, 10)"
            " AND tags <> '{}'"
        )
        return [
            (tag_number(owner, *item), site, rank, job_id, *shape)
            for job_id, owner, tags, site, rank, *shape in self._db.execute(sql, (listed(job_ids),)).fetchall()
            for item in json.loads(tags).items()
        ]


# domain.job.gpus_needed as SQL; a division of integers gives the integer below.
_SHARING = f"CAST(MIN({1 + GPU_EPSILON!r} / #gpus_per_rank, {MAX_RANKS}) AS INTEGER)"
_GPUS_NEEDED = (
    "CASE WHEN #gpus_per_rank = 0 THEN 0"
    " WHEN #gpus_per_rank >= 1 THEN #ranks_per_node * CAST(#gpus_per_rank AS INTEGER)"
    f" ELSE (#ranks_per_node + {_SHARING} - 1) / {_SHARING} END"
)
_FITS = (
    f"#wall_time_min <= ? AND #num_nodes <= ? AND #ranks_per_node <= ? AND {_GPUS_NEEDED} <= ?"
    " AND #num_nodes <= #node_packing_count * ?"
)


def _index_walk(criteria: AcquireCriteria) -> tuple[str, tuple[int, ...]]:
    index, order = "jobs_runnable", "priority DESC, id"
    if criteria.long_large_first:
        index, order = "jobs_runnable_by_size", "wall_time_min DESC, num_nodes DESC, id"
    sql = (
        f"SELECT id, num_nodes, node_packing_count FROM jobs INDEXED BY {index} WHERE site_id = ?"
        f" AND session_id IS NULL AND state IN (5, 10) AND {_FITS.replace('#', '')} ORDER BY {order} LIMIT ?"
    )
    return sql, (criteria.site_id,)


def _is_available(job: HotJob) -> bool:
    return job.session_id is None and job.state in RUNNABLE_STATES
