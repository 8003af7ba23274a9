"""Walks over the Jobs that can be granted, in their order, along the indexes that hold nothing else.

Mixed into SqlReadTx: an acquire grants what it finds, and the elastic queue counts it.
"""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

from typing import Any

from balsam.domain.job import GPU_EPSILON, MAX_RANKS
from balsam.server.store.codec import tag_number
from balsam.server.store.selections import AcquireCriteria, RunnableShape
from balsam.server.store.sql_database import Database

_NO_LIMIT = 1 << 40
_ID = "@"
_SHAPE = "wall_time_min, num_nodes, node_packing_count"


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


class RunnableReadTx:
    """The part of ReadTx about Jobs that can be granted.

    `_fits` is the condition of an acquire; `_tagged` is where the Jobs with a tag are walked over, as `t`.
    """

    _db: Database
    _fits = fits_sql("MIN", "CAST({} AS INTEGER)")
    _tagged = "runnable_tags t"

    def runnable_shapes(self, criteria: AcquireCriteria) -> list[RunnableShape]:
        if not self._any_short_enough(criteria):
            return []
        walk, params = self._walk_sql(criteria, "#wall_time_min, #num_nodes, #node_packing_count")
        sql = f"SELECT {_SHAPE}, count(*) FROM ({walk} LIMIT ?) AS walked GROUP BY {_SHAPE}"
        return [RunnableShape(*row) for row in self._db.execute(sql, (*params, criteria.max_jobs))]

    def held_nodes(self, session_id: int, look_at: int) -> float | None:
        sql = (
            "SELECT count(*), sum(CAST(num_nodes AS DOUBLE PRECISION) / node_packing_count) FROM ("
            "SELECT num_nodes, node_packing_count FROM jobs INDEXED BY jobs_held WHERE session_id = ? LIMIT ?) AS held"
        )
        number, nodes = self._db.execute(sql, (session_id, look_at)).fetchone()
        return None if number == look_at else float(nodes or 0)

    def _any_short_enough(self, criteria: AcquireCriteria) -> bool:
        """Whether any runnable Job of the Site is short enough: spares a walk over a million that are all too long."""
        sql = (
            "SELECT wall_time_min FROM jobs INDEXED BY jobs_runnable_by_size WHERE site_id = ? AND session_id IS NULL"
            " AND state IN (5, 10) ORDER BY wall_time_min LIMIT 1"
        )
        shortest = self._db.execute(sql, (criteria.site_id,)).fetchone()
        limit = criteria.max_wall_time_min
        return shortest is not None and (limit is None or shortest[0] <= limit)

    def _walk(self, criteria: AcquireCriteria, lock: str = "") -> list[tuple[int, int, int]]:
        """The first runnable Jobs that fit, in their order."""
        walk, params = self._walk_sql(criteria, f"{_ID}, #num_nodes, #node_packing_count")
        return self._db.execute(f"{walk} LIMIT ?{lock}", (*params, criteria.candidates)).fetchall()

    def _walk_sql(self, criteria: AcquireCriteria, columns: str) -> tuple[str, tuple[Any, ...]]:
        """A walk in the order of an acquire; `#` stands before the columns, `_ID` for the Job's own id."""
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
        prepare = self._tag_walk if criteria.filter_tags else self._index_walk
        sql, before = prepare(criteria, columns)
        return sql, (*before, *limits)

    def _tag_walk(self, criteria: AcquireCriteria, columns: str) -> tuple[str, tuple[int, ...]]:
        """A walk over the runnable Jobs that have the first tag; the others are looked up for each."""
        owner = self._db.execute("SELECT owner_id FROM sites WHERE id = ?", (criteria.site_id,)).fetchone()[0]
        tags = [tag_number(owner, key, value) for key, value in criteria.filter_tags]
        others = " AND EXISTS (SELECT 1 FROM job_tags o WHERE o.tag = ? AND o.job_id = t.job_id)" * (len(tags) - 1)
        order = "t.wall_time_min DESC, t.num_nodes DESC, t.job_id" if criteria.long_large_first else "t.rank, t.job_id"
        sql = (
            f"SELECT {columns.replace(_ID, 't.job_id').replace('#', 't.')} FROM {self._tagged}"
            f" WHERE t.tag = ? AND t.site_id = ?{others} AND {self._fits.replace('#', 't.')} ORDER BY {order}"
        )
        return sql, (tags[0], criteria.site_id, *tags[1:])

    def _index_walk(self, criteria: AcquireCriteria, columns: str) -> tuple[str, tuple[int, ...]]:
        index, order = "jobs_runnable", "priority DESC, id"
        if criteria.long_large_first:
            index, order = "jobs_runnable_by_size", "wall_time_min DESC, num_nodes DESC, id"
        sql = (
            f"SELECT {columns.replace(_ID, 'id').replace('#', '')} FROM jobs INDEXED BY {index} WHERE site_id = ?"
            f" AND session_id IS NULL AND state IN (5, 10) AND {self._fits.replace('#', '')} ORDER BY {order}"
        )
        return sql, (criteria.site_id,)
