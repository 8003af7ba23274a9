"""Acquire (G9) and state updates (G8) of a service on PostgreSQL, by turns with what they are compared with.

The same statement, and the same request, is at times a third slower for some seconds on a machine that others share. So
what is compared takes turns, in slices of some tens of milliseconds, and each is the median of its slices.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Self

import psycopg

from bench.launcher import BATCH, Launcher
from bench.sizes import sized

BATCHES = 200
SLICE = 10
# Two reports of a Job, of its start and of its end, change its state four times: so many Jobs' reports change a hundred
# states each on average, as a commit of the floor does.
REPORT = BATCH // 2
# A row of a Job as narrow as can be, three indexes, by tags too, and the one of what waits, and a log: without any of
# our rules.
_TABLES = """CREATE TABLE floor AS SELECT id, 1 AS site, id % 7 AS app, 5 AS state, 'run/' || id AS workdir,
        '{}'::jsonb AS tags, '{}'::jsonb AS parameters, 1 AS nodes, 1 AS ranks, 1 AS packing, 0 AS wall_time,
        NULL::bigint AS session, 0 AS updated FROM generate_series(1, 100000) AS id;
    ALTER TABLE floor ADD PRIMARY KEY (id);
    CREATE INDEX floor_by_state ON floor (site, state, id);
    CREATE INDEX floor_by_app ON floor (app, id);
    CREATE INDEX floor_by_tags ON floor USING gin (tags);
    CREATE INDEX floor_free ON floor (site, id) WHERE session IS NULL AND state = 5;
    CREATE TABLE floor_log (id BIGINT PRIMARY KEY, job BIGINT, source BIGINT, target BIGINT, at BIGINT);
    CREATE INDEX floor_by_job ON floor_log (job);
    ANALYZE floor"""
_ACQUIRE = """UPDATE floor SET session = 1 WHERE id = ANY (ARRAY(SELECT id FROM floor
    WHERE site = 1 AND session IS NULL AND state = 5 ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED)) RETURNING *"""
_UPDATE = "UPDATE floor SET state = 6, updated = 1 WHERE id = ANY (%s) AND state = 5"
_LOG = "INSERT INTO floor_log SELECT id * 100, id, 5, 6, 0 FROM unnest(%s::bigint[]) AS id"


def batches() -> int:
    """How many batches of a hundred each side acquires."""
    return sized(BATCHES, SLICE)


def by_turns(rates: Sequence[Callable[[], float]]) -> list[float]:
    """The median of each rate, over so many slices that each acquires its `batches`."""
    slices = [[rate() for rate in rates] for _ in range(batches() // SLICE)]
    return [median(values) for values in zip(*slices, strict=True)]


class Floor:
    """The rows per second of bare statements over one connection, a hundred to a commit: a context manager."""

    def __init__(self, url: str) -> None:
        self._db = psycopg.connect(url, autocommit=True)
        self._db.execute(_TABLES)
        self._held: list[list[int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.execute("DROP TABLE floor, floor_log")
        self._db.close()

    def acquire_rate(self, count: int) -> float:
        """Of so many batches."""
        begin = time.perf_counter()
        self._held += [[row[0] for row in self._db.execute(_ACQUIRE).fetchall()] for _ in range(count)]
        return count * BATCH / (time.perf_counter() - begin)

    def update_rate(self) -> float:
        """What was acquired is updated, and that is logged."""
        held, self._held = self._held, []
        begin = time.perf_counter()
        for ids in held:
            with self._db.transaction():
                self._db.execute(_UPDATE, (ids,))
                self._db.execute(_LOG, (ids,))
        return len(held) * BATCH / (time.perf_counter() - begin)


def against_floor(url: str, launcher: Launcher) -> tuple[float, float, float, float]:
    """Acquired per second by the launcher, and by the floor; states changed per second, of either too."""

    def updates() -> float:
        begin = time.perf_counter()
        return launcher.update(report=REPORT) / (time.perf_counter() - begin)

    with Floor(url) as floor:
        acquired, floor_acquired, updated, floor_updated = by_turns(
            [partial(launcher.acquire_rate, SLICE), partial(floor.acquire_rate, SLICE), updates, floor.update_rate]
        )
    return acquired, floor_acquired, updated, floor_updated
