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

from bench import acquiring, crowd, fairness, machine, running, storing
from bench.launcher import BATCH, Launcher, at_once, read_ms
from bench.product import Product
from bench.result import Goal
from bench.sizes import sized
from tests.server.world import Person, furnish, make_user
from tests.services import RunningService, running_service
from tests.testbed.postgres import PostgresServer, wheel_programs

FEW = 100_000
_DEFAULTS = {"shared_buffers": "128MB"}  # the tests' server has less than PostgreSQL comes with


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


def _several(server: PostgresServer, root: Path, rows: int) -> list[Goal]:
    """Two processes on one database; requests go to the first, a stream listens at the second."""
    jobs = BATCH * acquiring.batches()
    few = sized(FEW, 2 * jobs)
    with _database(server) as url, ExitStack() as stack:
        home = root / "several"
        first, second = (stack.enter_context(running_service(home, env={"BALSAM_DATABASE": url})) for _ in range(2))
        person = furnish(first, make_user(first, "ann"))
        wake = _wake_ms(first, second, person)
        launcher = Launcher(first, person)
        launcher.fill(few + jobs)
        machine.wait_for_quiet()
        acquired, floor, updated, update_floor = acquiring.against_floor(url, launcher)
        with _reads(second, person) as read_ms:
            while launcher.left > jobs:
                launcher.acquire_rate(acquiring.batches())
            launcher.update(jobs)
        at_few, at_many, at_end = _rates_of_sizes(server, root, (few, rows), launcher)
        acquired_together, updated_together = _crowd_rates([first, second], jobs // 2)
    sizes = f"{at_few:,.0f} rows/s at {few:,} Jobs, {at_end:,.0f} at the end of them, {at_many:,.0f} at {rows:,}"
    return [
        Goal("wake", "NOTIFY and SSE, POST to event", wake, "ms", 5, 3, True, "between two processes, median"),
        Goal("G9", "acquire by 100", acquired / floor, "x floor", 0.33, 0.5, False, f"floor {floor:,.0f}/s"),
        Goal("G9", "last batches over the first", at_end / at_few, "x", 0.8, 1, False, sizes),
        Goal("G9", "at many Jobs over at few", at_many / at_few, "x", 0.8, 1, False, sizes),
        Goal("G8", "state updates by 100, with events", updated, "/s", 15_000, 22_000, False, "four to a Job"),
        Goal(
            *("G8", "state updates by 100", updated / update_floor, "x floor", 0.33, 0.5, False),
            f"floor {update_floor:,.0f}/s",
        ),
        Goal(
            "G9", "acquire by 100, four launchers", acquired_together, "rows/s", 13_000, 20_000, False, "two processes"
        ),
        Goal("G8", "state updates, four launchers", updated_together, "/s", 15_000, 22_000, False, "two processes"),
        Goal("reads", "p99 under that load", machine.percentile(read_ms, 0.99), "ms", 100, 50, True, "at the other"),
    ]


def _rates_of_sizes(server: PostgresServer, root: Path, sizes: Sequence[int], last: Launcher) -> list[float]:
    """Jobs acquired per second by turns out of so many, in a database and by a service of their own; then by `last`."""
    with ExitStack() as stack:
        launchers = []
        for number, jobs in enumerate(sizes):
            database = {"BALSAM_DATABASE": server.url(stack.enter_context(server.database()))}
            service = stack.enter_context(running_service(root / f"size{number}", env=database))
            launchers.append(Launcher(service, furnish(service, make_user(service, "ann"))))
            launchers[-1].fill(jobs)
        machine.wait_for_quiet()  # the server tidies up behind a million rows
        return acquiring.by_turns([partial(each.acquire_rate, acquiring.SLICE) for each in (*launchers, last)])


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
        changed.append(launcher.update(report=acquiring.REPORT))

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
