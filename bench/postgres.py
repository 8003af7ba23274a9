"""The service on PostgreSQL: acquire (G9), updates (G8), reads meanwhile, wake-ups between two processes, many Sites.

`python -m bench postgres` measures the goals of `running` and `storing` on PostgreSQL as well: both parts run with
BALSAM_DATABASE set; `--of several` and the like choose. The server is the one of the tests' wheel, with its durable
defaults.
"""

import http.client
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import psycopg

from bench import crowd, fairness, machine, running, storing
from bench.launcher import BATCH, Launcher, at_once, read_ms
from bench.product import Product
from bench.result import Goal
from bench.sizes import sized
from tests.server.world import Person, furnish, make_user
from tests.services import RunningService, running_service
from tests.testbed.postgres import PostgresServer, wheel_programs

BATCHES = 200
# Two reports of a Job, of its start and of its end, change its state four times: so many Jobs' reports change a hundred
# states each on average, as a commit of the floor does.
REPORT = BATCH // 2
FEW = 100_000
_DEFAULTS = {"shared_buffers": "128MB"}  # the tests' server has less than PostgreSQL comes with
# A row of a Job as narrow as can be, three indexes, by tags too, and the one of what waits, and a log: without any of
# our rules.
_FLOOR = """CREATE TABLE floor AS SELECT id, 1 AS site, id % 7 AS app, 5 AS state, 'run/' || id AS workdir,
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
_FLOOR_ACQUIRE = """UPDATE floor SET session = 1 WHERE id = ANY (ARRAY(SELECT id FROM floor
    WHERE site = 1 AND session IS NULL AND state = 5 ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED)) RETURNING *"""
_FLOOR_UPDATE = "UPDATE floor SET state = 6, updated = 1 WHERE id = ANY (%s) AND state = 5"
_FLOOR_LOG = "INSERT INTO floor_log SELECT id * 100, id, 5, 6, 0 FROM unnest(%s::bigint[]) AS id"


def measure(root: Path, jobs: int, rows: int, parts: Sequence[str]) -> list[Goal]:
    """The goals on PostgreSQL of these parts."""
    server = PostgresServer(wheel_programs(), settings=_DEFAULTS)
    goals: list[Goal] = []
    try:
        if "several" in parts:
            goals += _several(server, root, rows)
        if "crowd" in parts:
            with _database(server) as url:
                goals += crowd.measure(root, rows, {"BALSAM_DATABASE": url})
        if "fairness" in parts:
            with _database(server) as url:
                goals += fairness.measure(root, {"BALSAM_DATABASE": url})
        if "running" in parts:
            with _database(server) as url, Product(root / "running") as product:
                goals += running.measure(product, root, jobs, url)
        if "storing" in parts:
            with _database(server) as url, Product(root / "storing") as product:
                goals += storing.measure(product, root, rows, url)
        return goals
    finally:
        server.close()


@contextmanager
def _database(server: PostgresServer) -> Iterator[str]:
    with server.database() as name:
        os.environ["BALSAM_DATABASE"] = url = server.url(name)
        try:
            yield url
        finally:
            del os.environ["BALSAM_DATABASE"]


def _floors(url: str, batches: int = 200) -> tuple[float, float]:
    """Rows per second of bare statements over one connection, a hundred to a commit: acquired; updated and logged."""
    batches = sized(batches)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(_FLOOR)
        begin = time.perf_counter()
        batches_of_ids = [[row[0] for row in db.execute(_FLOOR_ACQUIRE).fetchall()] for _ in range(batches)]
        between = time.perf_counter()
        for ids in batches_of_ids:
            with db.transaction():
                db.execute(_FLOOR_UPDATE, (ids,))
                db.execute(_FLOOR_LOG, (ids,))
        end = time.perf_counter()
        db.execute("DROP TABLE floor, floor_log")
    return batches * BATCH / (between - begin), batches * BATCH / (end - between)


def _several(server: PostgresServer, root: Path, rows: int) -> list[Goal]:
    """Two processes on one database; requests go to the first, a stream listens at the second."""
    with _database(server) as url, ExitStack() as stack:
        home = root / "several"
        first, second = (stack.enter_context(running_service(home, env={"BALSAM_DATABASE": url})) for _ in range(2))
        person = furnish(first, make_user(first, "ann"))
        wake = _wake_ms(first, second, person)
        launcher = Launcher(first, person)
        floor, update_floor = _floors(url)
        few_jobs, batches = sized(FEW), sized(BATCHES, 2)
        launcher.fill(few_jobs)
        machine.wait_for_quiet()
        few = launcher.acquire_rate(batches)
        begin = time.perf_counter()
        updates = launcher.update(report=REPORT) / (time.perf_counter() - begin)
        with _reads(second, person) as read_ms:
            while launcher.left > BATCH * batches:
                launcher.acquire_rate(batches)
            launcher.update(BATCH * batches)
        last = launcher.acquire_rate(batches)
        acquired_together, updated_together = _crowd_rates([first, second], BATCH * batches // 2)
        launcher.fill(rows)
        machine.wait_for_quiet()  # the server tidies up behind a million rows
        many = launcher.acquire_rate(batches)
    note = f"{few:,.0f} rows/s at {few_jobs:,} Jobs, {last:,.0f} at the end of them, {many:,.0f} at {rows:,}; "
    return [
        Goal("wake", "NOTIFY and SSE, POST to event", wake, "ms", 5, 3, True, "between two processes, median"),
        Goal("G9", "acquire by 100", few / floor, "x floor", 0.33, 0.5, False, f"{note}floor {floor:,.0f}/s"),
        Goal("G9", "last batches over the first", last / few, "x", 0.8, 1, False, note),
        Goal("G9", "at many Jobs over at few", many / few, "x", 0.8, 1, False, note),
        Goal("G8", "state updates by 100, with events", updates, "/s", 15_000, 22_000, False, "four to a Job"),
        Goal(
            *("G8", "state updates by 100", updates / update_floor, "x floor", 0.33, 0.5, False),
            f"floor {update_floor:,.0f}/s",
        ),
        Goal(
            "G9", "acquire by 100, four launchers", acquired_together, "rows/s", 13_000, 20_000, False, "two processes"
        ),
        Goal("G8", "state updates, four launchers", updated_together, "/s", 15_000, 22_000, False, "two processes"),
        Goal("reads", "p99 under that load", machine.percentile(read_ms, 0.99), "ms", 100, 50, True, "at the other"),
    ]


def _crowd_rates(services: Sequence[RunningService], jobs: int) -> tuple[float, float]:
    """Jobs acquired and states changed per second by four launchers at once, each at a Site of its own."""
    launchers = []
    for number in range(4):
        service = services[number % len(services)]
        launchers.append(Launcher(service, furnish(service, make_user(services[0], f"launcher{number}"))))
        launchers[-1].fill(jobs)
    acquired = at_once([partial(launcher.acquire_rate, jobs // BATCH) for launcher in launchers])
    changed: list[int] = []

    def update(launcher: Launcher) -> None:
        changed.append(launcher.update(report=REPORT))

    elapsed = at_once([partial(update, launcher) for launcher in launchers])
    return 4 * jobs / acquired, sum(changed) / elapsed


@contextmanager
def _reads(service: RunningService, person: Person) -> Iterator[list[float]]:
    """Times of reads, a hundred a second, for the length of a block."""
    times: list[float] = []
    stopping = threading.Event()

    def read() -> None:
        with service.client(person.token) as client:
            for path in itertools.cycle((f"/api/jobs/{person.job_id}", "/api/jobs?limit=100", "/api/sites")):
                if stopping.wait(0.01):
                    return
                times.append(read_ms(client, path))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield times
    finally:
        stopping.set()
        thread.join()


def _wake_ms(first: RunningService, second: RunningService, person: Person, times: int = 200) -> float:
    """From the POST of a Job at one process to its event on a stream of the other; median."""
    heard = threading.Semaphore(0)
    address = urlsplit(second.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    connection.request("GET", f"/api/sessions/{person.session_id}/stream", headers=second.headers(person.site_token))
    stream = connection.getresponse()

    def listen() -> None:
        while line := stream.readline():
            if line == b"event: work\n":
                heard.release()

    threading.Thread(target=listen, daemon=True).start()
    values = []
    body = json.dumps({"jobs": [{"app_id": person.app_id, "workdir": "wake"}]}).encode()
    headers = {**first.headers(person.token), "Content-Type": "application/json"}
    poster = http.client.HTTPConnection(urlsplit(first.url).hostname or "", urlsplit(first.url).port)
    for _ in range(sized(times)):
        time.sleep(0.02)
        while heard.acquire(blocking=False):
            pass
        begin = time.perf_counter()
        poster.request("POST", "/api/jobs", body, headers)
        if not heard.acquire(timeout=10):
            raise RuntimeError("a wake did not come within 10 s")
        values.append((time.perf_counter() - begin) * 1000)
        poster.getresponse().read()
    poster.close()
    return median(values)
