"""kill -9 in the allocation, with the real service: no rank survives its launcher, no two attempts overlap (S6, S9).

Four Jobs run in one allocation. Each attempt holds a lock in the work directory for as long as it lives and writes what
it saw, so that an overlap of two attempts is seen by the second.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.live_site import LiveSite, eventually, finished, live_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

JOBS = 4
GONE_SEC = 3.0

# argv: how long the first attempt lasts. A line per start and end, written whole: it may be killed at any instant.
RANK = """
import fcntl, os, sys, time
def note(what):
    text = f"{what} {os.environ['BALSAM_ATTEMPT']} {os.getpid()} {time.time()}\\n"
    os.write(log, text.encode())
log = os.open("spells", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
lock = os.open("lock", os.O_WRONLY | os.O_CREAT)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    note("overlap")
note("start")
time.sleep(float(sys.argv[1]) if os.environ["BALSAM_ATTEMPT"] == "1" else 0.3)
note("end")
"""
SCRIPT = """
import json, sys, time
from balsam.api import ApplicationDefinition, BatchJob, Job

class Rank(ApplicationDefinition):
    site = "{name}"
    command_template = "{python} {rank} {{{{ seconds }}}}"

def allocation():
    return BatchJob.objects.create(site_id={id}, num_nodes=1, wall_time_min=10, job_mode="mpi", queue="local",
                                   project="local", filter_tags={{"group": "{group}"}})

def is_over(batch):
    batch.refresh_from_db()
    return batch.state == "finished"

batch = allocation()
jobs = [Job(app_id=Rank, workdir=f"{group}/{{number}}", parameters={{"seconds": {seconds}}},
            tags={{"group": "{group}"}}, node_packing_count={jobs}) for number in range({jobs})]
jobs = Job.objects.bulk_create(jobs)
deadline = time.monotonic() + 90
for job in jobs:
    while not job.wait(0.5):
        assert time.monotonic() < deadline, job.explain()
        if is_over(batch):
            batch = allocation()
batch.cancel()
while not is_over(batch):
    time.sleep(0.05)
for job in jobs:
    job.refresh_from_db()
print(json.dumps([[str(job.state.value), job.attempt] for job in jobs]))
"""


def four_slots(settings: dict[str, Any]) -> None:
    """Four Jobs at once, whatever machine this is."""
    settings.setdefault("node", {})["cpus"] = JOBS
    settings.setdefault("launcher", {})["idle_ttl_sec"] = 600.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("crash") / "home", four_slots) as running:
        (running.home / "rank.py").write_text(RANK)
        yield running


class Ensemble:
    """The four Jobs of one test, and the script that waits for them."""

    def __init__(self, site: LiveSite, group: str, seconds: float) -> None:
        self.directory = site.path / "data" / group
        code = textwrap.dedent(SCRIPT).format(
            name=site.name,
            id=site.id,
            group=group,
            seconds=seconds,
            jobs=JOBS,
            python=sys.executable,
            rank=site.home / "rank.py",
        )
        self.script: subprocess.Popen[str] = site.begin(code, name=f"{group}.py")

    def spells(self) -> list[list[tuple[str, int, int]]]:
        """(what, attempt, pid) of each Job, in the order they were written."""
        return [
            [(words[0], int(words[1]), int(words[2])) for words in map(str.split, path.read_text().splitlines())]
            for path in sorted(self.directory.glob("*/spells"))
        ]

    def running(self) -> list[int]:
        """Pids of the first attempts, once all four have begun."""
        starts = [pid for spell in self.spells() for what, attempt, pid in spell if (what, attempt) == ("start", 1)]
        return starts if len(starts) == JOBS else []

    def ends(self) -> list[list[Any]]:
        """State and number of attempts of each Job, once all are done."""
        ends: list[list[Any]] = json.loads(finished(self.script, 120))
        return ends


@contextmanager
def ensemble(site: LiveSite, group: str, seconds: float = 600) -> Iterator[Ensemble]:
    """Four running Jobs whose first attempts last `seconds`."""
    found = Ensemble(site, group, seconds)
    try:
        eventually(found.running, "the Jobs do not run", 60)
        yield found
    finally:
        if found.script.poll() is None:
            found.script.kill()
            found.script.communicate()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_ran_twice(found: Ensemble) -> None:
    """S6: the second attempt of each Job began when the first was gone, and was the last."""
    assert found.ends() == [["JOB_FINISHED", 2]] * JOBS
    for spell in found.spells():
        assert [(what, attempt) for what, attempt, _ in spell] == [("start", 1), ("start", 2), ("end", 2)]


def test_ranks_die_with_their_launcher_and_run_again(site: LiveSite) -> None:
    with ensemble(site, "launcher") as found:
        ranks, guardian = found.running(), site.pids("guardian")
        killed = site.kill("launcher")
        eventually(lambda: not any(map(lives, ranks)), "ranks outlive their launcher", GONE_SEC)
        eventually(lambda: set(site.pids("launcher")) - {killed}, "no launcher was started again", 20)
        assert site.pids("guardian") == guardian, "the allocation did not go on"
        assert_ran_twice(found)


def test_ranks_die_with_the_guardian_and_run_in_the_next_allocation(site: LiveSite) -> None:
    with ensemble(site, "guardian") as found:
        ranks, launcher = found.running(), site.pids("launcher")
        site.kill("guardian")
        eventually(lambda: not any(map(lives, [*ranks, *launcher])), "processes outlive the guardian", GONE_SEC)
        assert_ran_twice(found)


def test_ranks_of_a_dead_guardian_and_launcher_are_ended_by_the_scheduler(site: LiveSite) -> None:
    """With both of them gone at once, what is left is ended as any scheduler does: with the batch script."""
    with ensemble(site, "both") as found:
        ranks, (guardian,), (launcher,) = found.running(), site.pids("guardian"), site.pids("launcher")
        os.kill(launcher, signal.SIGSTOP)  # so that it can't end them while its guardian dies
        os.kill(guardian, signal.SIGKILL)
        os.kill(launcher, signal.SIGKILL)
        eventually(lambda: not any(map(lives, ranks)), "ranks outlive guardian, launcher and batch script", 20)
        assert_ran_twice(found)


def test_a_launcher_that_stood_still_loses_nothing(site: LiveSite) -> None:
    """The ranks end while nobody looks; they are reported as what became of them, and not run again."""
    with ensemble(site, "stopped", seconds=1.5) as found:
        (launcher,) = site.pids("launcher")
        os.kill(launcher, signal.SIGSTOP)
        try:
            ranks = found.running()
            eventually(lambda: all(spell[-1][0] == "end" for spell in found.spells()), "the ranks do not end", 20)
            time.sleep(1)
        finally:
            os.kill(launcher, signal.SIGCONT)
        assert found.ends() == [["JOB_FINISHED", 1]] * JOBS
        assert [[what for what, _, _ in spell] for spell in found.spells()] == [["start", "end"]] * JOBS
        assert not any(map(lives, ranks))


def test_a_launcher_that_is_killed_while_it_stands_still(site: LiveSite) -> None:
    with ensemble(site, "frozen") as found:
        ranks, (launcher,) = found.running(), site.pids("launcher")
        os.kill(launcher, signal.SIGSTOP)
        time.sleep(0.5)
        assert all(map(lives, ranks)), "a launcher that stands still for a moment is not given up"
        os.kill(launcher, signal.SIGKILL)
        eventually(lambda: not any(map(lives, ranks)), "ranks outlive their launcher", GONE_SEC)
        assert_ran_twice(found)
