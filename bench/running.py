"""Goals that run Jobs: rates (G1, G2 of the launcher alone, G3 of Python), latencies (G4, G5), G13, idling."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import CHECKOUT, apps, floors, machine
from bench.product import Product
from bench.result import Goal
from bench.sizes import sized, sized_sec


def measure(product: Product, root: Path, jobs: int, database: str = "") -> list[Goal]:
    """All goals of this module on one idle allocation. `database`: the PostgreSQL that the product has; else SQLite."""
    no_op, clock = apps.no_op(product.site["name"]), apps.clock(product.site["name"])
    machine.wait_for_quiet()
    with _allocation(product, no_op):
        goals = [*_latency(no_op, clock, root, database), *_idle(product)]
    machine.wait_for_quiet()
    with _allocation(product, no_op):
        goals += [
            _rate(no_op, root, jobs),
            _python_rate(apps.python_no_op(product.site["name"]), root, sized(1000)),
            _executor(no_op),
        ]
    return [*goals, _pilot(root, sized(2000))]


@contextmanager
def _allocation(product: Product, no_op: Any) -> Iterator[None]:
    """A warm allocation. One for each part: a launcher with nothing to do ends itself after a minute."""
    allocation = product.allocation()
    _warm_up(no_op)
    yield
    allocation.cancel()


def _warm_up(no_op: Any) -> None:
    from balsam.api import Job

    _, not_done = Job.objects.wait([no_op.submit(workdir="warm/up")], timeout=60)
    if not_done:
        raise RuntimeError(f"the first Job did not end within a minute: {not_done[0].explain()}")


def _latency(no_op: Any, clock: Any, root: Path, database: str, times: int = 150) -> list[Goal]:
    started, ended, times = [], [], sized(times)
    for number in range(times):
        begin = time.time()
        job = clock.submit(workdir=f"latency/start{number}", node_packing_count=2)
        job.wait(timeout=30)
        started.append((float(job.read_text("job.out")) - begin) * 1000)
        time.sleep(0.02)
    for number in range(times):
        clock_begin = time.perf_counter()
        job = no_op.submit(workdir=f"latency/end{number}", node_packing_count=2)
        job.wait(timeout=30)
        ended.append((time.perf_counter() - clock_begin) * 1000)
        time.sleep(0.02)
    with floors.BareService(root, database) as bare:
        post = floors.post_ms(bare)
    wake, spawn = floors.wake_ms(), 1000 / floors.pilot_rate(root, 300)
    start_floor, end_floor = 2 * post + wake + spawn, 3 * post + 2 * wake + 2 * spawn
    return [
        _latency_goal("G4", "submit -> process starts", started, start_floor, 12, 6),
        _latency_goal("G5", "submit -> wait() returns", ended, end_floor, 18, 9),
    ]


def _latency_goal(name: str, what: str, values: list[float], floor: float, must: float, aim: float) -> Goal:
    median = statistics.median(values)
    note = f"{median / floor:.1f} x floor of {floor:.1f} ms; p99 {machine.percentile(values, 0.99):.1f} ms"
    return Goal(name, what, median, "ms", must, aim, True, note)


def _rate(no_op: Any, root: Path, count: int, rounds: int = 3) -> Goal:
    """Median of a few rounds, each between two measurements of its floor."""
    measured = sorted(_rate_once(no_op, root, count) for _ in range(sized(rounds)))
    ratio, rate, floor = measured[len(measured) // 2]
    note = f"{rate:,.0f}/s; F {floor:,.0f}/s; rounds {', '.join(f'{one[0]:.2f}' for one in measured)}"
    return Goal("G1", "no-op Jobs, end to end", ratio, "F", 0.5, 0.75, False, note)


def _python_rate(no_op: Any, root: Path, count: int, rounds: int = 3) -> Goal:
    """In warm workers, against what Parsl's HTEX did where F was measured beside it, in proportion to F now."""
    measured = sorted(_rate_once(no_op, root, count) for _ in range(sized(rounds)))
    ratio, rate, floor = measured[len(measured) // 2]
    parsl = floors.PARSL_OF_F
    note = f"{rate:,.0f}/s; Parsl here {floor * parsl:,.0f}/s, as {parsl:.2f} F; F {floor:,.0f}/s"
    return Goal("G3", f"{count:,} no-op Python Jobs", ratio / parsl, "Parsl", 1.0, 2.0, False, note)


def _rate_once(no_op: Any, root: Path, count: int) -> tuple[float, float, float]:
    from balsam.api import Job

    before = floors.pilot_rate(root)
    jobs = [no_op.submit(workdir=f"rate/{time.time_ns()}-{n}", save=False, node_packing_count=2) for n in range(count)]
    begin = time.perf_counter()
    created = Job.objects.bulk_create(jobs)
    _, not_done = Job.objects.wait(created, timeout=300)
    elapsed = time.perf_counter() - begin
    if not_done or any(job.state != "JOB_FINISHED" for job in created):
        raise RuntimeError(f"{len(not_done)} of {count} no-op Jobs did not end")
    floor = (before + floors.pilot_rate(root)) / 2
    return count / elapsed / floor, count / elapsed, floor


def _pilot(root: Path, count: int) -> Goal:
    before = floors.pilot_rate(root)
    with tempfile.TemporaryDirectory(dir=root) as directory:
        command = [sys.executable, "-m", "bench.pilot", directory, str(count)]
        said = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    floor = (before + floors.pilot_rate(root)) / 2
    rate = json.loads(said.stdout)["rate"]
    return Goal(
        "G2", "launcher alone, no-op Jobs", rate / floor, "F", 0.7, 0.8, False, f"{rate:,.0f}/s; F {floor:,.0f}/s"
    )


def _executor(no_op: Any, times: int = 100) -> Goal:
    from libensemble.executors.balsam_executors import BalsamExecutor
    from libensemble.executors.executor import Executor

    own = Executor()
    own.register_app(full_path="/bin/true", app_name="true")
    ours = BalsamExecutor()
    ours.register_app(no_op, app_name="true")

    def run(executor: Any, **more: Any) -> None:
        task = executor.submit(app_name="true", **more)
        while not task.finished:
            time.sleep(0.001)
            task.poll()

    floor = machine.median_ms(lambda: run(own), times)
    value = machine.median_ms(lambda: run(ours, app_args={}, num_procs=1, num_nodes=1), times)
    return Goal(
        "G13", "BalsamExecutor over libE's own", value - floor, "ms", 20, 12, True, f"{value:.1f} - {floor:.1f} ms"
    )


def _idle(product: Product, seconds: float = 20.0) -> list[Goal]:
    seconds = sized_sec(seconds)
    time.sleep(2)  # what ended has gone, however little is measured
    found = machine.processes(product.marker)
    before = {pid: machine.cpu_seconds(pid) for pid in found}
    time.sleep(seconds)
    used = sum(machine.cpu_seconds(pid) - before[pid] for pid in found if Path(f"/proc/{pid}").exists())
    largest = max(found, key=machine.rss_mb)
    return [
        Goal(
            "idle",
            "CPU of all our processes",
            used / seconds * 100,
            "% of a core",
            1,
            0.5,
            True,
            f"{len(found)} processes",
        ),
        Goal(
            "memory",
            "largest of our processes",
            machine.rss_mb(largest),
            "MB",
            120,
            80,
            True,
            found[largest][-40:].strip(),
        ),
    ]
