"""Walks over the Jobs that can be granted, in their order, along the indexes that hold nothing else.

Mixed into SqlReadTx: an acquire grants what it finds, and the elastic queue counts it.
"""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice, starmap
from typing import Any, NamedTuple

from balsam.domain.job import GPU_EPSILON, MAX_RANKS
from balsam.domain.job_order import FIELDS, JobOrder
from balsam.server.store.codec import tag_number
from balsam.server.store.selections import AcquireCriteria, RunnableShape
from balsam.server.store.sql_database import Database, listed
from balsam.server.store.turns import Candidate, in_turns

NO_LIMIT = 1 << 40
# As the partial indexes have them: SQLite compares texts.
RUNNABLE, AWAITING_HOOK = "(5, 10)", "(4, 7, 8, 9)"
# Of Jobs that are looked up by id, in words that no index has: PostgreSQL would search all that wait for them, until it
# has counted how many these are.
NOT_HELD = "coalesce(jobs.session_id, 0) = 0"
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
    AND submitter_id = who.person AND wall_time_min >= 0 ORDER BY wall_time_min LIMIT 1)"""
_NOT_ASKED = "CAST(0 AS BIGINT)"
_INDEXES: Mapping[JobOrder, str] = {
    "fifo": "jobs_waiting",
    "long_large_first": "jobs_waiting_longest",
    "smallest_first": "jobs_waiting_smallest",
}


class Place(NamedTuple):
    """None of a person's Jobs that can be granted stands before it. Without an id it is the begin of all of them."""

    level: int
    job_id: int = 0


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
class Walk:
    """Where one kind of acquire looks for Jobs, and in which order.

    `jobs` is where the Jobs of everybody are found, `source` where those that can be granted are; their condition is of
    `keys`, and `index_order` is that of one person's Jobs in the index. `at` stands before the columns. `level` is what
    every order begins with: the priority, the highest first. `by_age`: the id follows, and nothing else.
    """

    jobs: str
    keys: tuple[int, ...]
    order: str
    index_order: str
    level: str
    by_age: bool = True
    at: str = ""
    job_id: str = "id"
    source: str = ""
    fits: str = ""
    limits: tuple[Any, ...] = ()

    def one_person(self, weight: str, *, from_place: bool) -> str:
        """The statement that walks over the Jobs of one of them, from a place on or all. `weight`: further columns."""
        columns = ", ".join(f"{self.at}{name}" for name in ("num_nodes", "node_packing_count", "wall_time_min"))
        on = f" AND ({self.level}, {self.job_id}) >= (?, ?)" if from_place else ""
        return (
            f"SELECT {self.level}, {self.job_id}, {columns}{weight} FROM {self.source or self.jobs}"
            f" AND {self.at}submitter_id = ?{self.fits}{on} ORDER BY {self.order} LIMIT ?"
        )


@lru_cache(maxsize=64)
def people_sql(jobs: str, at: str, order: str, *, by_time: bool) -> str:
    """The statement that finds who has Jobs here, and each one's shortest where that matters."""
    return _PEOPLE.format(shortest=_SHORTEST if by_time else _NOT_ASKED, jobs=jobs, at=at, order=order)


class RunnableReadTx:
    """The part of ReadTx about Jobs that can be granted.

    `_fits` is the condition of an acquire; `_tagged` is where the Jobs with a tag are walked over, as `t`;
    `_highest_first` is how the indexes have the order by priority. `_weight`: what is read of a Job along the way, that
    is in no index.
    """

    _db: Database
    _fits = fits_sql("MIN", "CAST({} AS INTEGER)")
    _tagged = "runnable_tags AS t INDEXED BY runnable_tags_by_person"
    _highest_first = "priority DESC"
    _weight = ""

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
        places = self._places(walk, criteria)
        # First as many as are likely to be wanted; the others are for Jobs that do not fit together.
        likely = min(number, criteria.max_jobs)
        pieces = [likely if len(places) == 1 else -(-number // max(1, len(places))) + 1, number]
        walk_of = partial(self._jobs_of, walk, pieces, lock, places)
        if len(places) == 1:
            return walk_of(*places)
        return in_turns({person: place.level for person, place in places.items()}, lot, walk_of)

    def _places(self, walk: Walk, criteria: AcquireCriteria) -> dict[int, Place]:
        """Where the Jobs of each one begin who has Jobs here that are not all too long: a walk over a million of them
        is spared."""
        limit = criteria.max_wall_time_min
        site = () if limit is None else (criteria.site_id,)
        sql = people_sql(walk.jobs, walk.at, walk.index_order, by_time=limit is not None)
        found = self._db.execute(sql, (*site, *walk.keys, *walk.keys)).fetchall()
        people = [person for person, least in found if limit is None or (least is not None and least <= limit)]
        return {person: Place(level) for person, level in self._levels(walk, people).items()}

    def _levels(self, walk: Walk, people: list[int]) -> dict[int, int]:
        """The level of each one's first Job, where there are several; of whose Jobs are gone meanwhile, any."""
        if len(people) < 2:
            return dict.fromkeys(people, 0)
        sql = _LEVELS.format(level=walk.level, jobs=walk.jobs, at=walk.at, order=walk.order)
        return {person: level or 0 for person, level in self._db.execute(sql, (*walk.keys, listed(people))).fetchall()}

    def _jobs_of(
        self, walk: Walk, pieces: list[int], lock: str, places: Mapping[int, Place], person: int
    ) -> Iterator[Candidate]:
        """A person's Jobs in their order: first as many as are likely to be wanted, then the rest."""
        seen: set[int] = set()
        place = places[person]
        begin = place if place.job_id else ()
        sql = walk.one_person(self._weight, from_place=place.job_id > 0) + lock
        for limit in dict.fromkeys(pieces):
            rows = self._db.execute(sql, (*walk.keys, person, *walk.limits, *begin, limit)).fetchall()
            for candidate in starmap(Candidate, rows):
                if candidate.job_id not in seen:
                    seen.add(candidate.job_id)
                    yield candidate
            if len(rows) < limit:
                return

    def _walk(self, criteria: AcquireCriteria) -> Walk:
        if criteria.awaits_hook:
            jobs = _WAITING.format("hooks_waiting", AWAITING_HOOK)
            order = f"{self._highest_first}, id"
            return Walk(jobs, (criteria.site_id,), order, order, "-priority")
        nodes = NO_LIMIT if criteria.max_nodes_per_job is None else criteria.max_nodes_per_job
        if criteria.serial_only:
            nodes = 1
        limits = (
            NO_LIMIT if criteria.max_wall_time_min is None else criteria.max_wall_time_min,
            nodes,
            1 if criteria.serial_only else NO_LIMIT,
            NO_LIMIT if criteria.max_gpus_per_node is None else criteria.max_gpus_per_node,
            float(NO_LIMIT) if criteria.max_aggregate_nodes is None else criteria.max_aggregate_nodes,
        )
        return (self._tag_walk if criteria.filter_tags else self._index_walk)(criteria, limits)

    def _tag_walk(self, criteria: AcquireCriteria, limits: tuple[Any, ...]) -> Walk:
        """A walk over the runnable Jobs that have the first tag; the others are looked up for each."""
        owner = self._db.execute("SELECT owner_id FROM sites WHERE id = ?", (criteria.site_id,)).fetchone()[0]
        tags = [tag_number(owner, key, value) for key, value in criteria.filter_tags]
        others = " AND EXISTS (SELECT 1 FROM job_tags o WHERE o.tag = ? AND o.job_id = t.job_id)" * (len(tags) - 1)
        here = "t.tag = ? AND t.site_id = ?"
        return Walk(
            jobs=f"runnable_tags AS t INDEXED BY runnable_tags_by_person WHERE {here}",
            keys=(tags[0], criteria.site_id),
            order=_order_sql(criteria.order, "t."),
            index_order="t.rank, t.job_id",
            level="t.rank",
            by_age=criteria.order == "fifo",
            at="t.",
            job_id="t.job_id",
            source=f"{self._tagged} WHERE {here}",
            fits=f"{others} AND {self._fits.replace('#', 't.')}",
            limits=(*tags[1:], *limits),
        )

    def _index_walk(self, criteria: AcquireCriteria, limits: tuple[Any, ...]) -> Walk:
        fits = f" AND {self._fits.replace('#', '')}"
        order = f"{self._highest_first}, id" if criteria.order == "fifo" else _order_sql(criteria.order)
        return Walk(
            jobs=_WAITING.format(_INDEXES[criteria.order], RUNNABLE),
            keys=(criteria.site_id,),
            order=order,
            index_order=order,
            level="-priority",
            by_age=criteria.order == "fifo",
            fits=fits,
            limits=limits,
        )
