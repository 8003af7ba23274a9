"""Writing transactions in SQL, the same for SQLite and PostgreSQL.

`SqlTx` is made by the writer thread for one item of a grouped commit. What can be summed over the commit (counters,
wakes) is collected in its `Pending` and given up with the item when the item fails. What the databases do in ways of
their own for the sake of speed are methods that sqlite_tx.py and postgres/tx.py fill in.
"""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, Protocol

from balsam.domain.lifecycle import JobFacts
from balsam.domain.states import RUNNABLE_STATES, JobState
from balsam.server.store import selections
from balsam.server.store.codec import (
    GRANTED_COLUMNS,
    STATE_NUMBERS,
    STATES,
    TABLE_NAMES,
    dump,
    granted_row,
    table,
    tag_number,
)
from balsam.server.store.protocol import GuardFailed, Wake
from balsam.server.store.records import (
    CHANGEABLE_COLUMNS,
    GrantedRow,
    HotJob,
    JobShape,
    JobUpdate,
    NewJob,
    ReportBasis,
    Row,
    SessionRow,
    event_id,
)
from balsam.server.store.selections import AcquireCriteria, fitting, light_enough
from balsam.server.store.sql_database import Database, Outcome, listed
from balsam.server.store.sql_files import FilesTx
from balsam.server.store.sql_read import EVENTS_COUNTER, SqlReadTx, by_id
from balsam.server.store.sql_rows import (
    EVENT_COLUMNS,
    RUNNABLE_TAG_COLUMNS,
    TAG_COLUMNS,
    EventColumns,
    FactColumns,
    append_events,
    fact_columns,
    own_values,
    shape_values,
    update_values,
)
from balsam.server.store.sql_runnable import AWAITING_HOOK, NOT_HELD, RUNNABLE
from balsam.server.store.turns import Candidate, lot

_GRANT = f"""UPDATE jobs SET token = token + 1, session_id = ?, grant_seq = ?
    WHERE id IN (SELECT value FROM json_each(?)) AND {NOT_HELD} AND state IN {{}}
    RETURNING {", ".join(GRANTED_COLUMNS)}"""
_UNLOCK = """UPDATE jobs SET session_id = NULL
    WHERE id IN (SELECT value FROM json_each(?)) AND coalesce(session_id, 0) = ? AND state <> 6"""
_NOTE_FINISHED = "UPDATE job_parents SET unfinished = 0 WHERE parent_id IN (SELECT value FROM json_each(?))"
# What goes with a Job, and by which column; the Job itself comes last.
_OF_JOBS = (("job_parents", "parent_id"), ("job_parents", "child_id"), ("results", "id"), ("jobs", "id"))
_JSON_COLUMNS = frozenset({"parameters", "tags", "data", "launch_params"})
_FINISHED = STATE_NUMBERS[JobState.JOB_FINISHED]
_Home = tuple[int, int, int]  # owner, Site, App
_Move = tuple[int, int, int, JobState | None, JobState | None]
LENGTH = "length(parameters) + length(data)"
_BY_IDS = "id IN (SELECT value FROM json_each(?))"


class Ids(Protocol):
    """Where new ids come from."""

    def take(self, name: str, count: int) -> Sequence[int]:
        """Ids of a table that were never given out, growing."""
        ...


@dataclass(slots=True)
class Pending:
    """What a commit does once, for all of its items."""

    counts: Counter[tuple[int, int, int, int]] = field(default_factory=Counter)
    wakes: list[Wake] = field(default_factory=list)

    def absorb(self, other: "Pending") -> None:
        self.counts.update(other.counts)
        self.wakes.extend(other.wakes)


class SqlTx(FilesTx, SqlReadTx, ABC):
    """Tx over the writer's connection."""

    def __init__(self, database: Database, ids: Ids) -> None:
        super().__init__(database)
        self._ids = ids
        self.pending = Pending()

    @abstractmethod
    def _insert_many(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows into a table."""

    @abstractmethod
    def _insert_new_jobs(self, alike: Sequence[tuple[Sequence[Any], Sequence[Sequence[Any]]]]) -> None:
        """Insert new Jobs: SHAPE_COLUMNS of those that are alike, with OWN_COLUMNS of each of them."""

    @abstractmethod
    def _insert_first_events(self, shape: JobShape, ids: Sequence[int], at: int) -> None:
        """Insert the events of new Jobs that are alike; the ids are successive numbers where that is of use."""

    @abstractmethod
    def _update_jobs(self, rows: Sequence[Sequence[Any]]) -> None:
        """Carry out the rows of `update_values`. Raises GuardFailed, at the latest with the commit, when a Job is not
        as its guard asks (S4)."""

    def _expect(self, outcome: Outcome, number: int, said: str) -> None:
        """Raise GuardFailed, at the latest before the commit, unless a statement changed so many rows. `said` has two
        places: how many it did not change, of how many."""
        if outcome.rowcount != number:
            raise GuardFailed(said.format(number - outcome.rowcount, number))

    def new_id(self, kind: type[Row]) -> int:
        return self._ids.take(TABLE_NAMES[kind], 1)[0]

    def put(self, row: Row) -> None:
        self.put_all([row])

    def remove(self, kind: type[Row], row_id: int) -> None:
        self._db.execute(f"DELETE FROM {TABLE_NAMES[kind]} WHERE id = ?", (row_id,))

    def wake(self, wake: Wake) -> None:
        self.pending.wakes.append(wake)

    def insert_jobs(self, jobs: Sequence[NewJob], at: int) -> list[int]:
        ids = list(self._ids.take("jobs", len(jobs)))
        rows: dict[JobShape, list[tuple[Any, ...]]] = {}
        start, following = 0, iter(ids)
        for shape, alike in groupby(jobs, key=attrgetter("shape")):
            own = list(map(own_values, alike, following))
            rows.setdefault(shape, []).extend(own)
            self._insert_first_events(shape, ids[start : start + len(own)], at)
            start += len(own)
        self._insert_new_jobs([(shape_values(shape, at), own) for shape, own in rows.items()])
        for shape, own in rows.items():
            self._tally_new(shape, len(own))
        self._insert_links(list(zip(ids, jobs, strict=True)))
        return ids

    def _tally_new(self, shape: JobShape, count: int) -> None:
        home = (shape.owner_id, shape.site_id, shape.app_id)
        state = shape.decision.after.state
        self._tally({(*home, None, state): count}, {home: count * len(shape.decision.transitions)})

    def _insert_links(self, jobs: list[tuple[int, NewJob]]) -> None:
        if any(job.parent_ids for _, job in jobs):
            self._insert_parents(jobs)
        tagged = [job_id for job_id, job in jobs if job.tags]
        if tagged:
            tags = [
                (tag_number(job.shape.owner_id, *item), job_id)
                for job_id, job in jobs
                if job.tags
                for item in job.tags.items()
            ]
            self._insert_many("job_tags", TAG_COLUMNS, tags)
            self._offer(tagged)

    def _insert_parents(self, jobs: list[tuple[int, NewJob]]) -> None:
        wanted = listed({parent for _, job in jobs for parent in job.parent_ids})
        states = dict(self._db.execute(f"SELECT id, state FROM jobs WHERE {_BY_IDS}", (wanted,)).fetchall())
        rows = [
            (parent, job_id, int(states[parent] != _FINISHED))
            for job_id, job in jobs
            for parent in dict.fromkeys(job.parent_ids)
            if parent in states
        ]
        self._insert_many("job_parents", ("parent_id", "child_id", "unfinished"), rows)

    def report_basis(self, session_id: int, job_ids: Sequence[int], ending: Sequence[int]) -> ReportBasis:
        """All is asked before an answer is looked at, which may have to be waited for."""
        session, jobs = self._ask_rows(SessionRow, id=session_id), self._ask_hot_jobs(job_ids)
        children = self._ask_children(ending) if ending else None
        to_stop = self._ask_to_stop(session_id)
        return ReportBasis(
            next(map(table(SessionRow).decode, session), None),
            by_id(jobs),
            children.fetchall() if children else [],
            [row[0] for row in to_stop],
        )

    def apply(self, updates: Sequence[JobUpdate], at: int) -> None:
        offered = [update.job.id for update in updates if update.job.tagged and _is_available(update.job)]
        self._withdraw(offered)
        self._write_rows(updates, at)
        events: list[tuple[Any, ...]] = []
        known: dict[int, list[EventColumns]] = {}
        for update in updates:
            append_events(events, update, at, known)
        self._insert_many("events", EVENT_COLUMNS, events)
        finished = [update.job.id for update in updates if update.after.state is JobState.JOB_FINISHED]
        if finished:
            self._db.execute(_NOTE_FINISHED, (listed(finished),))
        self._offer([update.job.id for update in updates if update.job.tagged and _is_available(update.after)])

    def _write_rows(self, updates: Sequence[JobUpdate], at: int) -> None:
        """The rows of the Jobs (S4), and the counters."""
        rows: list[tuple[Any, ...]] = []
        columns: dict[int, FactColumns] = {}  # by the id of facts, which many Jobs share
        moved: Counter[tuple[_Home, int, int]] = Counter()
        logged: Counter[_Home] = Counter()
        for update in updates:
            update.check()
            job, before, after = update.job, update.job.facts, update.after
            if (old := columns.get(id(before))) is None:
                old = columns[id(before)] = fact_columns(before)
            if (new := columns.get(id(after))) is None:
                new = columns[id(after)] = fact_columns(after)
            taken = update.transition_count
            rows.append(update_values(update, old, new, taken, at))
            home = (job.owner_id, job.site_id, job.app_id)
            moved[home, old[0], new[0]] += 1
            logged[home] += taken
        if rows:
            self._update_jobs(rows)
        moves: dict[_Move, int] = {(*home, STATES[was], STATES[now]): n for (home, was, now), n in moved.items()}
        self._tally(moves, logged)

    def acquire(self, criteria: AcquireCriteria, session_id: int, grant_seq: int) -> list[GrantedRow]:
        found = self._candidates(criteria, lot(session_id, grant_seq))
        ids = fitting(((job.job_id, job.num_nodes, job.node_packing_count) for job in found), criteria)
        if not ids:
            return []
        ids, any_tagged = self._light_enough(ids)
        if any_tagged and not criteria.awaits_hook:
            self._withdraw(ids)
        states = AWAITING_HOOK if criteria.awaits_hook else RUNNABLE
        rows = self._db.execute(_GRANT.format(states), (session_id, grant_seq, listed(ids))).fetchall()
        if len(rows) != len(ids):  # S6
            raise GuardFailed(f"S6: {len(ids) - len(rows)} of {len(ids)} Jobs could not be granted")
        place = {job_id: index for index, job_id in enumerate(ids)}
        return sorted(map(granted_row, rows), key=lambda job: place[job.id])

    def _candidates(self, criteria: AcquireCriteria, lot: int) -> Iterable[Candidate]:
        """In their order; looked for as they are taken."""
        return islice(self._in_turns(criteria, criteria.candidates, lot), criteria.candidates)

    def _light_enough(self, ids: list[int]) -> tuple[list[int], bool]:
        """The first of the Jobs whose parameters and data are not too long together; whether any of them has tags."""
        tagged = "sum(CASE WHEN tags <> '{}' THEN 1 ELSE 0 END)"
        sql = f"SELECT {tagged}, sum({LENGTH}) FROM jobs WHERE {_BY_IDS}"
        number, length = self._db.execute(sql, (listed(ids),)).fetchone()
        if length > selections.MAX_GRANT_LENGTH:
            sql = f"SELECT id, {LENGTH} FROM jobs WHERE {_BY_IDS}"
            lengths = dict(self._db.execute(sql, (listed(ids),)).fetchall())
            ids = light_enough(ids, lengths, selections.MAX_GRANT_LENGTH)
        return ids, number > 0

    def unlock(self, session_id: int, jobs: Sequence[HotJob]) -> None:
        if not jobs:
            return
        unlocked = self._db.execute(_UNLOCK, (listed(job.id for job in jobs), session_id))
        self._expect(unlocked, len(jobs), f"S6: {{}} of {{}} Jobs were not held by Session {session_id}")
        self._offer([job.id for job in jobs if job.tagged])

    def change_jobs(self, changes: Mapping[int, Mapping[str, Any]], at: int) -> None:
        for job_id, columns in changes.items():
            if foreign := set(columns) - CHANGEABLE_COLUMNS:
                raise ValueError(f"S4: {sorted(foreign)} of a Job are not changed this way")
            row = self._db.execute(
                f"SELECT owner_id, tags FROM jobs WHERE id = ?{self._job_lock}", (job_id,)
            ).fetchone()
            if row is None:
                raise GuardFailed(f"Job {job_id} is gone")
            self._withdraw([job_id])
            sets = ", ".join(f"{column} = ?" for column in columns)
            values = [_column_value(column, value) for column, value in columns.items()]
            sql = f"UPDATE jobs SET last_update = ?{', ' if sets else ''}{sets} WHERE id = ?"
            if "tags" in columns:
                self._replace_tags(job_id, row[0], row[1], columns["tags"])
            self._db.execute(sql, (at, *values, job_id))
        self._offer(list(changes))

    def _replace_tags(self, job_id: int, owner: int, before: str, tags: Mapping[str, str]) -> None:
        old = [(tag_number(owner, *item), job_id) for item in json.loads(before).items()]
        self._delete_many("job_tags", TAG_COLUMNS, old)
        self._insert_many("job_tags", TAG_COLUMNS, [(tag_number(owner, *item), job_id) for item in tags.items()])

    def delete_jobs(self, job_ids: Sequence[int]) -> None:
        columns = "id, owner_id, site_id, app_id, state, event_seq, tags"
        sql = f"SELECT {columns} FROM jobs WHERE {_BY_IDS} ORDER BY id{self._job_lock}"
        rows = self._db.execute(sql, (listed(job_ids),)).fetchall()
        self._withdraw(job_ids)
        self.delete_transfer_items(job_ids)
        tags = [(tag_number(row[1], *item), row[0]) for row in rows for item in json.loads(row[6]).items()]
        self._delete_many("job_tags", TAG_COLUMNS, tags)
        spans = [(event_id(row[0], 0), event_id(row[0] + 1, 0)) for row in rows]
        self._db.executemany("DELETE FROM events WHERE id > ? AND id < ?", spans)
        ids = listed(row[0] for row in rows)
        for name, column in _OF_JOBS:
            self._db.execute(f"DELETE FROM {name} WHERE {column} IN (SELECT value FROM json_each(?))", (ids,))
        for _, owner, site, app, state, event_seq, _ in rows:
            self._tally({(owner, site, app, STATES[state], None): 1}, {(owner, site, app): -event_seq})

    def _delete_many(self, name: str, key: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Delete the rows of a table that have these keys."""
        where = " AND ".join(f"{column} = ?" for column in key)
        self._db.executemany(f"DELETE FROM {name} WHERE {where}", rows)

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
            self._delete_many("runnable_tags", RUNNABLE_TAG_COLUMNS[:4], [r[:4] for r in self._runnable_tags(job_ids)])

    def _offer(self, job_ids: Sequence[int]) -> None:
        """Put those of the Jobs that can be granted into runnable_tags; called after they changed."""
        if job_ids:
            self._insert_many("runnable_tags", RUNNABLE_TAG_COLUMNS, self._runnable_tags(job_ids))

    def _runnable_tags(self, job_ids: Sequence[int]) -> list[tuple[int, ...]]:
        sql = (
            "SELECT id, owner_id, tags, site_id, -priority,"
            " wall_time_min, num_nodes, ranks_per_node, node_packing_count, gpus_per_rank, submitter_id"
            f" FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND {NOT_HELD} AND state IN {RUNNABLE}"
            " AND tags <> '{}'"
        )
        return [
            (tag_number(owner, *item), site, rank, job_id, *shape)
            for job_id, owner, tags, site, rank, *shape in self._db.execute(sql, (listed(job_ids),)).fetchall()
            for item in json.loads(tags).items()
        ]


def _column_value(column: str, value: Any) -> Any:
    """As the column of a Job keeps it; flags are numbers, which PostgreSQL does not make of truth values."""
    if column in _JSON_COLUMNS:
        return dump(value)
    return int(value) if isinstance(value, bool) else value


def _is_available(job: HotJob | JobFacts) -> bool:
    return job.session_id is None and job.state in RUNNABLE_STATES
