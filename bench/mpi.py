"""G6: Jobs of MPI ranks on one node. What the launcher alone adds to the bare mpiexec, one at a time; and the rate of
all of it, two in flight, beside libEnsemble's MPIExecutor, which keeps nothing.

Each Job has two ranks, as one of a single rank goes without an mpiexec. The node pretends to have a core for each.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from balsam.platform.mpirun import detect
from bench import CHECKOUT, apps, machine
from bench.product import Product
from bench.result import Goal
from bench.sizes import sized
from tests.testbed import mpi

RANKS, IN_FLIGHT = 2, 2


def measure(root: Path) -> list[Goal]:
    """Both goals; floors before and after. Raises FileNotFoundError without MPICH."""
    found = mpi.find("MPICH")
    if found is None:
        raise FileNotFoundError("no mpiexec of MPICH here: run tests/testbed/install-mpi")
    mpiexec = str(found)
    os.environ[detect.VARIABLE] = f"mpich:{mpiexec}"  # as a job-template.sh may say it
    try:
        with Product(root / "mpi") as product:
            return [_own_time(mpiexec, root, sized(150)), _rate(mpiexec, product, sized(600))]
    finally:
        del os.environ[detect.VARIABLE]


def _own_time(mpiexec: str, root: Path, jobs: int) -> Goal:
    before = _bare_ms(mpiexec)
    with tempfile.TemporaryDirectory(dir=root) as directory:
        words = [sys.executable, "-m", "bench.pilot", directory, str(jobs), "--mpiexec", mpiexec, "--ranks", str(RANKS)]
        said = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    ours, floor = 1000 / json.loads(said.stdout)["rate"], (before + _bare_ms(mpiexec)) / 2
    note = f"{ours:.1f} - {floor:.1f} ms; {RANKS} ranks of MPICH, launcher alone"
    return Goal("G6", "launcher's own time for an MPI Job", ours - floor, "ms", 5, 2, True, note)


def _bare_ms(mpiexec: str, times: int = 60) -> float:
    words = [mpiexec, "-launcher", "fork", "-hosts", "localhost", "-n", str(RANKS), "/bin/true"]
    times = sized(times)
    return sum(machine.timed_ms(lambda: subprocess.run(words, check=True)) for _ in range(times)) / times


def _rate(mpiexec: str, product: Product, jobs: int) -> Goal:
    _pretend_cores(product)
    no_op = apps.no_op(product.site["name"])
    allocation = product.allocation()
    _run(no_op, 2 * IN_FLIGHT)
    before = _libe_rate(mpiexec)
    ours = _run(no_op, jobs)
    floor = (before + _libe_rate(mpiexec)) / 2
    allocation.cancel()
    note = f"{ours:,.0f}/s, end to end; MPIExecutor {floor:,.0f}/s; {RANKS} ranks of MPICH, {IN_FLIGHT} in flight"
    return Goal("G6", "MPI Jobs / libEnsemble's MPIExecutor", ours / floor, "x", 0.7, 0.9, False, note)


def _pretend_cores(product: Product) -> None:
    path = Path(product.site["path"]) / "settings.yml"
    settings = yaml.safe_load(path.read_text())
    settings["node"] = {"cpus": RANKS * IN_FLIGHT}
    path.write_text(yaml.safe_dump(settings))
    balsam = str(Path(sys.executable).parent / "balsam")
    subprocess.run([balsam, "site", "sync", product.site["path"]], check=True, stdout=subprocess.DEVNULL)


def _run(no_op: Any, count: int) -> float:
    """Jobs per second, from their submission to the end of `wait`."""
    from balsam.api import Job

    fields = {"ranks_per_node": RANKS, "node_packing_count": IN_FLIGHT, "save": False}
    jobs = [no_op.submit(workdir=f"mpi/{time.time_ns()}-{number}", **fields) for number in range(count)]
    begin = time.perf_counter()
    created = Job.objects.bulk_create(jobs)
    _, not_done = Job.objects.wait(created, timeout=120)
    elapsed = time.perf_counter() - begin
    if not_done or any(job.state != "JOB_FINISHED" for job in created):
        raise RuntimeError(f"{len(not_done)} of {count} MPI Jobs did not end")
    return count / elapsed


def _libe_rate(mpiexec: str, count: int = 400) -> float:
    from libensemble.executors.mpi_executor import MPIExecutor

    executor = MPIExecutor(custom_info={"mpi_runner": "mpich", "runner_name": mpiexec})
    executor.register_app(full_path=shutil.which("true"), app_name="true")
    running: list[Any] = []
    count = sized(count)
    begin = time.perf_counter()
    for _ in range(count):
        running.append(executor.submit(app_name="true", num_procs=RANKS))
        if len(running) == IN_FLIGHT:
            running.pop(0).wait()
    for task in running:
        task.wait()
    return count / (time.perf_counter() - begin)
