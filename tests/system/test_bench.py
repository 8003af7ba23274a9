"""Every part of `make bench` runs to its end and tells of all its goals; how fast anything was decides nothing here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import ASKED_FOR, PARTS
from tests.testbed.postgres import wheel_programs

CHECKOUT = Path(__file__).parents[2]
TIMEOUT_SEC = 100

_CROWD = {
    ("crowd", "cost of a Job at few over at many"),
    ("crowd", "CPU of the service for a Job"),
    ("crowd", "memory of the service"),
    ("crowd", "CPU while nothing happens"),
}
_FAIRNESS = {("fairness", "p99 of another user's reads")}
_RUNNING = {
    ("G1", "no-op Jobs, end to end"),
    ("G2", "launcher alone, no-op Jobs"),
    ("G3", "10 no-op Python Jobs"),
    ("G4", "submit -> process starts"),
    ("G5", "submit -> wait() returns"),
    ("G13", "BalsamExecutor over libE's own"),
    ("idle", "CPU of all our processes"),
    ("memory", "largest of our processes"),
}
_STORING = {
    ("G7", "bulk_create of 100"),
    ("G7", "bulk_create of 1,000"),
    ("G10", "get"),
    ("G10", "first page of 100"),
    ("G10", "tag page of 100"),
    ("G10", "newest page of 100"),
    ("G10", "deep keyset page of 100"),
    ("G10", "balsam job ls, start-up included"),
    ("G11", "counts by state"),
    ("G12", "single-Job POST, 16 connections"),
}
GOALS = {
    "starting": {
        ("start", "import balsam.api"),
        ("start", "from balsam.api import the models"),
        ("start", "balsam --help"),
    },
    "running": _RUNNING,
    "scheduling": {("scale", "scheduling of one Job"), ("scale", "memory of a launcher that holds them")},
    "waiting": {("wait", "as_completed over 10 running Jobs")},
    "workflows": {
        ("dag", "chain and fan of 100 Jobs, each transition"),
        ("dag", "chain and fan of 100 Jobs, each transition, against 10 Jobs"),
    },
    "fairness": _FAIRNESS,
    "storing": _STORING,
    "crowd": _CROWD,
}
_MPI = {("G6", "launcher's own time for an MPI Job"), ("G6", "MPI Jobs / libEnsemble's MPIExecutor")}
_MOVING = {
    ("G-files", "0.01 GB to the service"),
    ("G-files", "0.01 GB home"),
    ("G-files", "memory grown by it, at most"),
    ("G-files", "2 kB home from 10 Jobs, each"),
}
_SEVERAL = {
    ("wake", "NOTIFY and SSE, POST to event"),
    ("G8", "state updates by 100, with events"),
    ("G8", "state updates by 100"),
    ("G8", "state updates, four launchers"),
    ("G9", "acquire by 100"),
    ("G9", "last batches over the first"),
    ("G9", "at many Jobs over at few"),
    ("G9", "acquire by 100, four launchers"),
    ("reads", "p99 under that load"),
}


def goals_of(*words: str) -> set[tuple[str, str]]:
    """Names of the goals in the table of a quick run. The bench leaves the checkout for a directory of its own; nothing
    but where it was started says where its modules are."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    bench = [sys.executable, "-m", "bench", *words, "--quick"]
    # SIGTERM, on which the bench takes down what it started.
    command = ["timeout", "--kill-after=15", str(TIMEOUT_SEC), *bench]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
    lines = [re.split(r" {2,}", line) for line in done.stdout.splitlines()]
    head = next(number for number, cells in enumerate(lines) if cells[:2] == ["goal", "what"])
    return {(cells[0], cells[1]) for cells in lines[head + 1 :]}


def test_no_part_is_forgotten() -> None:
    of_slurm = {"slurm"}  # tests/cluster
    assert {*PARTS, *ASKED_FOR} == {*GOALS, "mpi", "moving", "postgres", *of_slurm}


@pytest.mark.parametrize("part", GOALS)
def test_the_part_tells_of_all_its_goals(part: str) -> None:
    assert goals_of(part) == GOALS[part]


def test_mpi_tells_of_all_its_goals(mpich: Path) -> None:
    assert goals_of("mpi") == _MPI


@pytest.mark.skipif(shutil.which("curl") is None, reason="files are moved beside curl")
def test_moving_tells_of_all_its_goals() -> None:
    assert goals_of("moving") == _MOVING


def test_postgres_tells_of_all_its_goals() -> None:
    wheel_programs()
    assert goals_of("postgres") == _SEVERAL | _CROWD | _FAIRNESS | _RUNNING | _STORING
