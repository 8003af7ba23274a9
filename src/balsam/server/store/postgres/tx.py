"""What PostgreSQL does in ways of its own: rows by COPY, many updates in one statement, locks on what is read.

Several processes write at the same time. A writing transaction (READ COMMITTED) locks each row that it reads in order
to decide something, so that the row is still the same when the decision is written (S4); an acquire passes over Jobs
that another process is granting at this moment (S6).
"""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import Any

from balsam.domain.lifecycle import AWAITED_HOOKS
from balsam.domain.states import RUNNABLE_STATES
from balsam.server.store import selections
from balsam.server.store.postgres import many_rows
from balsam.server.store.postgres.fronts import MANY_PASSED, Front, Fronts
from balsam.server.store.postgres.pipeline import PipelinedDatabase
from balsam.server.store.protocol import GuardFailed
from balsam.server.store.records import (
    EVENT_SEQ_BITS,
    AppRow,
    GrantedRow,
    HotJob,
    JobShape,
    JobUpdate,
    NewJob,
    Row,
    event_id,
)
from balsam.server.store.selections import AcquireCriteria, light_enough
from balsam.server.store.sql_database import Outcome, listed
from balsam.server.store.sql_read import SqlReadTx
from balsam.server.store.sql_rows import (
    EVENT_COLUMNS,
    OWN_COLUMNS,
    SHAPE_COLUMNS,
    event_values,
    own_values,
    shape_values,
)
from balsam.server.store.sql_runnable import NO_LIMIT, NOT_HELD, RUNNABLE, Place, Walk, fits_sql, people_sql
from balsam.server.store.sql_write import LENGTH, Ids, SqlTx
from balsam.server.store.turns import Candidate

_FITS = fits_sql("LEAST", "CAST(trunc({}) AS BIGINT)")
_HIGHEST_FIRST = "-priority"  # growing, so that a walk can begin at any place of it
# The first Job of each person from a place on.
_MOVE_ON = """SELECT p.person, first.level, first.job_id
    FROM unnest(?::bigint[], ?::bigint[], ?::bigint[]) AS p (person, level, job_id)
    CROSS JOIN LATERAL (SELECT {level} AS level, {job_id} AS job_id FROM {jobs} AND {at}submitter_id = p.person
        AND ({level}, {job_id}) >= (p.level, p.job_id) ORDER BY {order} LIMIT 1) AS first"""
_A_JOB_OF = "SELECT id FROM jobs WHERE app_id = ? ORDER BY app_id, id LIMIT 1"
_BEGIN = Place(-(1 << 40))
_GRANTABLE = frozenset((*RUNNABLE_STATES, *AWAITED_HOOKS))
_PLACED = frozenset({"priority", "wall_time_min", "tags"})  # columns that say where a Job stands
_LOCK = " FOR NO KEY UPDATE"
# Ids that nobody sees are taken in advance, to save a question for each.
_AHEAD = {"idempotency_keys": 64}
_FEW_ROWS = 4
_SOME_ROWS = 1000  # those of a report
_FEW_SHAPES = 8


def _events_sql(new: str, events: int) -> str:
    """Insert so many events of each of the new Jobs, in the order of their ids."""
    steps = ", ".join(f"({number}, ?, ?, ?, ?, ?)" for number in range(1, events + 1))
    return f"""INSERT INTO events ({", ".join(EVENT_COLUMNS)})
        SELECT (new.id << {EVENT_SEQ_BITS}) | step.number, ?, ?, NULL, step.attempt, step.source, step.target,
        step.actor, step.data FROM {new} CROSS JOIN LATERAL
        (VALUES {steps} OFFSET 0) AS step (number, attempt, source, target, actor, data)"""


@lru_cache(maxsize=32)
def _first_events_sql(events: int) -> str:
    return _events_sql("unnest(?::bigint[]) AS new (id)", events)


@lru_cache(maxsize=32)
def _one_job_sql(events: int) -> str:
    """Insert one Job that has so many events, and give its id."""
    columns = (*OWN_COLUMNS, *SHAPE_COLUMNS)
    return f"""WITH new AS (INSERT INTO jobs ({", ".join(columns)})
        VALUES (nextval('jobs_ids'), {", ".join("?" * (len(columns) - 1))}) RETURNING id),
        logged AS ({_events_sql("new", events)})
        SELECT id FROM new"""


class PostgresIds:
    """Ids from the sequences of the database, which know no transaction: gaps, never twice, whatever fails."""

    def __init__(self, database: PipelinedDatabase) -> None:
        self._db = database
        self._ahead: dict[str, list[int]] = {}

    def take(self, name: str, count: int) -> Sequence[int]:
        ahead = self._ahead.setdefault(name, [])
        if len(ahead) < count:
            wanted = max(count, _AHEAD.get(name, 1))
            sql = f"SELECT nextval('{name}_ids') FROM generate_series(1, ?)"
            ahead += [row[0] for row in self._db.execute(sql, (wanted,))]
        taken = ahead[:count]
        del ahead[:count]
        return taken


class PostgresReadTx(SqlReadTx):
    """ReadTx over one of the readers' connections."""

    _fits = _FITS
    _highest_first = _HIGHEST_FIRST


class PostgresTx(SqlTx):
    """Tx over the writer's connection."""

    _job_lock = _LOCK
    _fits = _FITS
    _highest_first = _HIGHEST_FIRST
    _weight = f", tags <> '{{}}', {LENGTH}"  # their rows are read in any case, to be locked
    _tagged = f"runnable_tags AS t JOIN jobs ON jobs.id = t.job_id AND {NOT_HELD} AND jobs.state IN {RUNNABLE}"

    def __init__(self, database: PipelinedDatabase, ids: Ids, fronts: Fronts) -> None:
        super().__init__(database, ids)
        self._fronts = fronts
        self._remembers = True
        self._come_to: dict[int, Candidate] = {}
        self._pipeline = database
        self._new: dict[int, tuple[JobShape, list[int]]] = {}

    def _row_lock(self, kind: type[Any]) -> str:
        # Many submit Jobs of one App at the same time; it only must not disappear meanwhile.
        return " FOR KEY SHARE" if kind is AppRow else _LOCK

    def _insert_many(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """COPY is the quickest for many rows, and has to be waited for, which an INSERT has not."""
        if not rows:
            return
        if len(rows) <= _FEW_ROWS:
            marks = ", ".join([f"({', '.join('?' * len(columns))})"] * len(rows))
            sql = f"INSERT INTO {name} ({', '.join(columns)}) VALUES {marks}"
            self._db.execute(sql, list(chain.from_iterable(rows)))
        elif len(rows) <= _SOME_ROWS and name != "jobs":
            self._db.execute(*many_rows.insert(name, columns, rows))
        else:
            self._pipeline.copy(name, columns, rows)

    def _expect(self, outcome: Outcome, number: int, said: str) -> None:
        self._pipeline.expect(outcome, number, said)

    def _insert_new_jobs(self, alike: Sequence[tuple[Sequence[Any], Sequence[Sequence[Any]]]]) -> None:
        """What is the same in all new Jobs is the default of its column."""
        rows = [(*own, *shared) for shared, many in alike for own in many]
        self._insert_many("jobs", (*OWN_COLUMNS, *SHAPE_COLUMNS), rows)

    def remove(self, kind: type[Row], row_id: int) -> None:
        """An App only when no Job refers to it: a submission keeps its row, so none is under way once it is removed."""
        super().remove(kind, row_id)
        if kind is AppRow and self._db.execute(_A_JOB_OF, (row_id,)).fetchone() is not None:
            raise GuardFailed(f"a Job refers to App {row_id}")

    def insert_jobs(self, jobs: Sequence[NewJob], at: int) -> list[int]:
        if len(jobs) == 1:
            ids = [self._insert_one_job(jobs[0], at)]
        else:
            ids = super().insert_jobs(jobs, at)
            self._insert_events_of_new(at)
        for shape in {id(job.shape): job.shape for job in jobs}.values():
            if shape.decision.after.state in _GRANTABLE:
                self._fronts.submitted(shape)
        return ids

    def _insert_one_job(self, job: NewJob, at: int) -> int:
        """The Job, its number and its events in one statement: each is a way to the server and back."""
        shape, events = job.shape, event_values(job.shape.decision)
        _, *own = own_values(job, 0)
        steps = chain.from_iterable(columns for _, *columns in events)
        sql = _one_job_sql(len(events))
        (job_id,) = next(iter(self._db.execute(sql, (*own, *shape_values(shape, at), shape.owner_id, at, *steps))))
        self._tally_new(shape, 1)
        self._insert_links([(job_id, job)])
        return int(job_id)

    def _insert_first_events(self, shape: JobShape, ids: Sequence[int], at: int) -> None:
        self._new.setdefault(id(shape), (shape, []))[1].extend(ids)

    def _insert_events_of_new(self, at: int) -> None:
        """By the server, from the ids, where the Jobs are of a few shapes: three rows a Job are more than the Job."""
        new, self._new = list(self._new.values()), {}
        rows: list[tuple[Any, ...]] = []
        for shape, ids in new:
            events = event_values(shape.decision)
            if len(new) <= _FEW_SHAPES:
                steps = chain.from_iterable(columns for _, *columns in events)
                self._db.execute(_first_events_sql(len(events)), (shape.owner_id, at, listed(ids), *steps))
            else:
                numbered = list(enumerate(events, 1))
                rows += [
                    (event_id(it, number), shape.owner_id, at, *values) for it in ids for number, values in numbered
                ]
        self._insert_many("events", EVENT_COLUMNS, rows)

    def _update_jobs(self, rows: Sequence[Sequence[Any]]) -> None:
        """The statement itself fails when it changed too few: nobody waits for its answer before the COMMIT."""
        self._db.execute(*many_rows.update_jobs(rows))

    def _delete_many(self, name: str, key: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if not rows:
            return
        same = " AND ".join(f"{name}.{column} = u.{column}" for column in key)
        arrays = ", ".join(["?::bigint[]"] * len(key))
        sql = f"DELETE FROM {name} USING unnest({arrays}) AS u ({', '.join(key)}) WHERE {same}"
        self._db.execute(sql, [listed(column) for column in zip(*rows, strict=True)])

    def apply(self, updates: Sequence[JobUpdate], at: int) -> None:
        super().apply(updates, at)
        grantable = (it for it in updates if it.after.session_id is None and it.after.state in _GRANTABLE)
        for site_id in {update.job.site_id for update in grantable}:
            self._fronts.forget(site_id)

    def unlock(self, session_id: int, jobs: Sequence[HotJob]) -> None:
        super().unlock(session_id, jobs)
        for site_id in {job.site_id for job in jobs}:
            self._fronts.forget(site_id)

    def change_jobs(self, changes: Mapping[int, Mapping[str, Any]], at: int) -> None:
        super().change_jobs(changes, at)
        if any(not _PLACED.isdisjoint(columns) for columns in changes.values()):
            self._fronts.forget_all()

    def acquire(self, criteria: AcquireCriteria, session_id: int, grant_seq: int) -> list[GrantedRow]:
        granted = super().acquire(criteria, session_id, grant_seq)
        self._fronts.granted(criteria.site_id, len(granted))
        return granted

    def _candidates(self, criteria: AcquireCriteria, lot: int) -> Iterator[Candidate]:
        """Jobs that others are working on are passed over while there are enough; the last ones are waited for.

        They are looked for from the beginning: a row that was waited for may have moved to before its place.
        """
        seen = self._come_to = {}
        self._remembers = True
        for lock in (f"{_LOCK} OF jobs SKIP LOCKED", f"{_LOCK} OF jobs"):
            for candidate in islice(self._in_turns(criteria, criteria.candidates, lot, lock), criteria.candidates):
                if candidate.job_id not in seen:
                    seen[candidate.job_id] = candidate
                    yield candidate
            if len(seen) >= criteria.candidates:
                return
            self._remembers = False

    def _light_enough(self, ids: list[int]) -> tuple[list[int], bool]:
        lengths = {job_id: self._come_to[job_id].length for job_id in ids}
        light = light_enough(ids, lengths, selections.MAX_GRANT_LENGTH)
        return light, any(self._come_to[job_id].is_tagged for job_id in light)

    def _places(self, walk: Walk, criteria: AcquireCriteria) -> dict[int, Place]:
        """As remembered, where that is fresh and the walk has an index that can be entered at a place."""
        if not walk.by_age or not self._remembers:
            return super()._places(walk, criteria)
        key = (walk.jobs, walk.keys)
        front = self._fronts.find(criteria.site_id, key)
        if front is None:
            front = self._look(walk, criteria)
            self._fronts.keep(criteria.site_id, key, front)
        elif front.passed >= MANY_PASSED:
            front.places, front.passed = self._moved_on(walk, front.places), 0
        limit = NO_LIMIT if criteria.max_wall_time_min is None else criteria.max_wall_time_min
        return {person: place for person, place in front.places.items() if front.shortest[person] <= limit}

    def _look(self, walk: Walk, criteria: AcquireCriteria) -> Front:
        """Who has Jobs here, and where they begin."""
        by_time = not criteria.awaits_hook
        sql = people_sql(walk.jobs, walk.at, walk.index_order, by_time=by_time)
        site = (criteria.site_id,) if by_time else ()
        shortest = {who: least or 0 for who, least in self._db.execute(sql, (*site, *walk.keys, *walk.keys)).fetchall()}
        return Front(criteria.awaits_hook, self._moved_on(walk, dict.fromkeys(shortest, _BEGIN)), shortest)

    def _moved_on(self, walk: Walk, places: Mapping[int, Place]) -> dict[int, Place]:
        """The first Job of each person that can be granted now; whoever has none is left out."""
        sql = _MOVE_ON.format(level=walk.level, job_id=walk.job_id, jobs=walk.jobs, at=walk.at, order=walk.index_order)
        columns = [listed(column) for column in zip(*((who, *place) for who, place in places.items()), strict=True)]
        if not columns:
            return {}
        found = self._db.execute(sql, (*columns, *walk.keys)).fetchall()
        return {person: Place(level, job_id) for person, level, job_id in found}
