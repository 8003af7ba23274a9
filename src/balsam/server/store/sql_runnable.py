"""Walks over the Jobs that can be granted, in their order, along the indexes that hold nothing else.

Mixed into SqlReadTx: an acquire grants what it finds, and the elastic queue counts it.
"""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Any

from balsam.domain.job import GPU_EPSILON, MAX_RANKS
from balsam.domain.job_order import FIELDS, JobOrder
from balsam.server.store.codec import tag_number
from balsam.server.store.selections import AcquireCriteria, RunnableShape
from balsam.server.store.sql_database import Database, listed
from balsam.server.store.turns import Candidate, in_turns

_NO_LIMIT = 1 << 40
# As the partial indexes have them: SQLite compares texts.
RUNNABLE, AWAITING_HOOK = "(5, 10)", "(4, 7, 8, 9)"
_WAITING = "jobs INDEXED BY {} WHERE site_id = ? AND session_id IS NULL AND state IN {}"
# The people who have Jobs there, by jumps along the index, however many Jobs each has. The whole order of the walk is
# asked for, so that PostgreSQL reads the index of the walk: what was granted is left behind at the front of any other.
_PEOPLE = """SELECT who.person, {shortest} FROM (
    WITH RECURSIVE people (person) AS (
        SELECT (SELECT {at}submitter_id FROM {jobs} ORDER BY {at}submitter_id, {order} LIMIT 1)
        UNION ALL
        SELECT (SELECT {at}submitter_id FROM {jobs} AND {at}submitter_id > people.person
            ORDER BY {at}submitter_id, {order} LIMIT 1)
        FROM people WHERE people.person IS NOT NULL
    ) SELECT person FROM people WHERE person IS NOT NULL
) AS who"""
_LEVELS = """SELECT value, (SELECT {level} FROM {jobs} AND {at}submitter_id = value ORDER BY {order} LIMIT 1)
    FROM json_each(?)"""
_SHORTEST = f"""(SELECT wall_time_min FROM {_WAITING.format("jobs_waiting_shortest", RUNNABLE)}
    AND submitter_id = who.person ORDER BY wall_time_min LIMIT 1)"""
_NOT_ASKED = "CAST(0 AS BIGINT)"
_INDEXES: Mapping[JobOrder, str] = {
    "fifo": "jobs_waiting",
    "long_large_first": "jobs_waiting_longest",
    "smallest_first": "jobs_waiting_smallest",
}


def fits_sql(least: str, whole: str) -> str:
    """The condition that a Job fits the criteria of an acquire, with `#` before its columns.

    `least` is the database's function for the smaller of two numbers, `whole` cuts a number to an integer. The count of
    GPUs is domain.job.gpus_needed; a division of integers gives the integer below.
    """
    sharing = whole.format(f"{least}({1 + GPU_EPSILON!r} / #gpus_per_rank, {MAX_RANKS})")
    gpus_needed = (
        "CASE WHEN #gpus_per_rank = 0 THEN 0"
        f" WHEN #gpus_per_rank >= 1 THEN #ranks_per_node * {whole.format('#gpus_per_rank')}"
        f" ELSE (#ranks_per_node + {sharing} - 1) / {sharing} END"
    )
    return (
        f"#wall_time_min <= ? AND #num_nodes <= ? AND #ranks_per_node <= ? AND {gpus_needed} <= ?"
        " AND #num_nodes <= #node_packing_count * ?"
    )


def _order_sql(order: JobOrder, tagged: str = "") -> str:
    """The columns of an order; of the runnable Jobs with a tag, whose rank is their priority, the highest first."""
    columns = [f"{tagged}{name[1:]} DESC" if name[0] == "-" else f"{tagged}{name}" for name in FIELDS[order]]
    if tagged:
        columns[0] = f"{tagged}rank"
    return ", ".join([*columns, f"{tagged}job_id" if tagged else "id"])


@dataclass(frozen=True, slots=True)
class _Walk:
    """Where one kind of acquire looks for Jobs, and in which order.

    `jobs` is where the Jobs of everybody are found, `source` where those that can be granted are; their condition is of
    `keys`, and `index_order` is that of one person's Jobs in the index. `at` stands before the columns. `level` is what
    every order begins with: the priority, the highest first.
    """

    jobs: str
    keys: tuple[int, ...]
    order: str
    index_order: str
    level: str
    at: str = ""
    job_id: str = "id"
    source: str = ""
    fits: str = ""
    limits: tuple[Any, ...] = ()

    @property
    def one_person(self) -> str:
        """The statement that walks over the Jobs of one of them."""
        columns = ", ".join(f"{self.at}{name}" for name in ("num_nodes", "node_packing_count", "wall_time_min"))
        return (
            f"SELECT {self.level}, {self.job_id}, {columns} FROM {self.source or self.jobs}"
            f" AND {self.at}submitter_id = ?{self.fits} ORDER BY {self.order} LIMIT ?"
        )


@lru_cache(maxsize=64)
def _people_sql(jobs: str, at: str, order: str, *, by_time: bool) -> str:
    """The statement that finds who has Jobs here, and each one's shortest where that matters."""
    return _PEOPLE.format(shortest=_SHORTEST if by_time else _NOT_ASKED, jobs=jobs, at=at, order=order)


class RunnableReadTx:
    """The part of ReadTx about Jobs that can be granted.

    `_fits` is the condition of an acquire; `_tagged` is where the Jobs with a tag are walked over, as `t`.
    """

    _db: Database
    _fits = fits_sql("MIN", "CAST({} AS INTEGER)")
    _tagged = "runnable_tags AS t INDEXED BY runnable_tags_by_person"

    def runnable_shapes(self, criteria: AcquireCriteria) -> list[RunnableShape]:
        found = islice(self._in_turns(criteria, criteria.max_jobs, 0), criteria.max_jobs)
        shapes = Counter((job.wall_time_min, job.num_nodes, job.node_packing_count) for job in found)
        return [RunnableShape(*shape, number) for shape, number in sorted(shapes.items())]

    def held_nodes(self, session_id: int, look_at: int) -> float | None:
        sql = (
            "SELECT count(*), sum(CAST(num_nodes AS DOUBLE PRECISION) / node_packing_count) FROM ("
            "SELECT num_nodes, node_packing_count FROM jobs INDEXED BY jobs_held WHERE session_id = ? LIMIT ?) AS held"
        )
        number, nodes = self._db.execute(sql, (session_id, look_at)).fetchone()
        return None if number == look_at else float(nodes or 0)

    def _in_turns(self, criteria: AcquireCriteria, number: int, lot: int, lock: str = "") -> Iterator[Candidate]:
        """Jobs that an acquire comes to, in its order, of which about `number` are wanted."""
        walk = self._walk(criteria)
        people = self._people(walk, criteria)
        if len(people) == 1:
            # The others are for Jobs that do not fit together; what is to be locked is found by one statement.
            likely = number if lock else min(number, criteria.max_jobs)
            return self._jobs_of(walk, [likely, number], lock, people[0])
        pieces = [-(-number // max(1, len(people))) + 1, number]
        return in_turns(self._levels(walk, people), lot, partial(self._jobs_of, walk, pieces, lock))

    def _people(self, walk: _Walk, criteria: AcquireCriteria) -> list[int]:
        """Who has Jobs here that are not all too long: a walk over a million of them is spared."""
        limit = criteria.max_wall_time_min
        site = () if limit is None else (criteria.site_id,)
        sql = _people_sql(walk.jobs, walk.at, walk.index_order, by_time=limit is not None)
        found = self._db.execute(sql, (*site, *walk.keys, *walk.keys)).fetchall()
        return [person for person, least in found if limit is None or (least is not None and least <= limit)]

    def _levels(self, walk: _Walk, people: list[int]) -> dict[int, int]:
        """The level of each one's first Job; of whose Jobs are gone meanwhile, any."""
        sql = _LEVELS.format(level=walk.level, jobs=walk.jobs, at=walk.at, order=walk.order)
        return {person: level or 0 for person, level in self._db.execute(sql, (*walk.keys, listed(people))).fetchall()}

    def _jobs_of(self, walk: _Walk, pieces: list[int], lock: str, person: int) -> Iterator[Candidate]:
        """A person's Jobs in their order: first as many as are likely to be wanted, then the rest."""
        seen: set[int] = set()
        for limit in dict.fromkeys(pieces):
            params = (*walk.keys, person, *walk.limits, limit)
            rows = self._db.execute(f"{walk.one_person}{lock}", params).fetchall()
            for candidate in map(Candidate._make, rows):
                if candidate.job_id not in seen:
                    seen.add(candidate.job_id)
                    yield candidate
            if len(rows) < limit:
                return

    def _walk(self, criteria: AcquireCriteria) -> _Walk:
        if criteria.awaits_hook:
            jobs = _WAITING.format("hooks_waiting", AWAITING_HOOK)
            order = "priority DESC, id"
            return _Walk(jobs, (criteria.site_id,), order, order, "-priority")
        nodes = _NO_LIMIT if criteria.max_nodes_per_job is None else criteria.max_nodes_per_job
        if criteria.serial_only:
            nodes = 1
        limits = (
            _NO_LIMIT if criteria.max_wall_time_min is None else criteria.max_wall_time_min,
            nodes,
            1 if criteria.serial_only else _NO_LIMIT,
            _NO_LIMIT if criteria.max_gpus_per_node is None else criteria.max_gpus_per_node,
            float(_NO_LIMIT) if criteria.max_aggregate_nodes is None else criteria.max_aggregate_nodes,
        )
        return (self._tag_walk if criteria.filter_tags else self._index_walk)(criteria, limits)

    def _tag_walk(self, criteria: AcquireCriteria, limits: tuple[Any, ...]) -> _Walk:
        """A walk over the runnable Jobs that have the first tag; the others are looked up for each."""
        owner = self._db.execute("SELECT owner_id FROM sites WHERE id = ?", (criteria.site_id,)).fetchone()[0]
        tags = [tag_number(owner, key, value) for key, value in criteria.filter_tags]
        others = " AND EXISTS (SELECT 1 FROM job_tags o WHERE o.tag = ? AND o.job_id = t.job_id)" * (len(tags) - 1)
        here = "t.tag = ? AND t.site_id = ?"
        return _Walk(
            jobs=f"runnable_tags AS t INDEXED BY runnable_tags_by_person WHERE {here}",
            keys=(tags[0], criteria.site_id),
            order=_order_sql(criteria.order, "t."),
            index_order="t.rank, t.job_id",
            level="t.rank",
            at="t.",
            job_id="t.job_id",
            source=f"{self._tagged} WHERE {here}",
            fits=f"{others} AND {self._fits.replace('#', 't.')}",
            limits=(*tags[1:], *limits),
        )

    def _index_walk(self, criteria: AcquireCriteria, limits: tuple[Any, ...]) -> _Walk:
        fits = f" AND {self._fits.replace('#', '')}"
        order = _order_sql(criteria.order)
        return _Walk(
            jobs=_WAITING.format(_INDEXES[criteria.order], RUNNABLE),
            keys=(criteria.site_id,),
            order=order,
            index_order=order,
            level="-priority",
            fits=fits,
            limits=limits,
        )
