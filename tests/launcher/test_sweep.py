"""S9 against the zoo: whatever a command does, nothing of it survives, and its slot is not free before it is gone.

`Tag.alive` looks at processes on its own, without the code under test.
"""

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from balsam.launcher.process import Child, Command, ExitStatus, close_child, group_exists, kill, reap, spawn, terminate
from balsam.launcher.proctable import ALLOCATION_ENV, find_marked, kill_until_gone
from balsam.launcher.sweep import ATTEMPT_ENV, JOB_ENV, RETIRED_PERIOD_SEC, Run, Sweeper
from balsam.platform.process_table import Process, look_over
from tests.launcher.conftest import ZOO, Tag, files_left, wait_until

PYTHON = (sys.executable, "-S", "-E")


class Bench:
    """What the launcher's loop does with one run, by the rules of `Sweeper`."""

    def __init__(self, tag: Tag, directory: Path) -> None:
        self.tag, self.directory = tag, directory
        self.allocation = f"allocation {tag.seconds}"
        self.sweeper = Sweeper(self.allocation)

    def start(self, animal: str, *arguments: str, job_id: str = "1", seconds: str | None = None) -> Child:
        interpreter = PYTHON if animal.endswith(".py") else ("bash",)
        marks = {"ZOO": self.tag.seconds, ALLOCATION_ENV: self.allocation, JOB_ENV: job_id, ATTEMPT_ENV: "2"}
        argv = (*interpreter, str(ZOO / animal), seconds or self.tag.seconds, *arguments)
        output = self.directory / f"{job_id}.out"
        child = spawn(Command(argv, {**os.environ, **marks}, str(self.directory), str(output)))
        wait_until(lambda: "ready" in output.read_text())
        return child

    def run_of(self, child: Child, job_id: str = "1") -> Run:
        return Run(job_id, "2", (child.pid,))

    def end(self, child: Child) -> ExitStatus:
        assert select.select([child.pidfd], [], [], 10)[0], "its first process did not end"
        status = reap(child)
        assert status is not None
        close_child(child)
        return status

    def sweep_until_gone(self, run: Run, timeout_sec: float = 10.0) -> None:
        """Sweeps when due; at the moment the run is reported gone, nothing of it may live."""
        end = time.monotonic() + timeout_sec
        while self.sweeper.holds(run):
            now = time.monotonic()
            assert now < end, f"never gone: {self.tag.alive()}"
            due = self.sweeper.due()
            assert due is not None
            if due > now:
                time.sleep(min(due - now, 0.05))
                continue
            if run in self.sweeper.sweep(now):
                assert self.tag.alive() == []


@pytest.fixture
def bench(tag: Tag, tmp_path: Path) -> Bench:
    return Bench(tag, tmp_path)


ANIMALS = {
    "ignores SIGTERM": ("ignores_term.sh",),
    "daemon while the first process stays": ("daemon.py", "stay"),
    "stopped": ("stopped.sh",),
    "forks in a loop": ("comet.py",),
    "makes zombies": ("zombies.py",),
    "writes for ever": ("writes.sh",),
    "doubles itself": ("bomb.py",),
}


@pytest.mark.parametrize("animal", ANIMALS.values(), ids=ANIMALS.keys())
def test_killed_zoo_leaves_no_survivor(bench: Bench, animal: tuple[str, ...]) -> None:
    """S9, F18: TERM, then KILL after the grace; the slot is not free before all is gone."""
    child = bench.start(*animal)
    run = bench.run_of(child)
    terminate(child.group)
    grace_end = time.monotonic() + 0.3
    if not select.select([child.pidfd], [], [], 0.3)[0]:
        kill(child.group)
    bench.end(child)
    bench.sweeper.hold(run, kill_at=grace_end)
    bench.sweep_until_gone(run)
    assert bench.tag.alive() == []


def test_a_daemon_in_a_new_session_for_every_fork_is_caught(bench: Bench) -> None:
    """The worst: never the same process number, group or session for longer than a fraction of a millisecond."""
    child = bench.start("comet.py", "setsid")
    run = bench.run_of(child)
    bench.end(child)
    bench.sweeper.hold(run, kill_at=0.0)
    bench.sweep_until_gone(run, timeout_sec=30)
    time.sleep(0.2)
    assert bench.tag.alive() == []


def test_slot_is_held_while_a_daemon_of_a_killed_run_lives(bench: Bench) -> None:
    """S9: the group is empty, but a daemon outside of it is alive: not gone before the kill, gone after it."""
    child = bench.start("daemon.py")
    run = bench.run_of(child)
    bench.end(child)
    wait_until(lambda: not group_exists(child.group))
    now = time.monotonic()
    bench.sweeper.hold(run, kill_at=now + 60)
    assert bench.sweeper.sweep(now + 1) == []
    assert bench.sweeper.sweep(now + 59) == []
    assert len(bench.tag.alive()) == 1
    assert bench.sweeper.sweep(now + 61) == []
    wait_until(lambda: bench.tag.alive() == [])
    assert bench.sweeper.sweep(now + 62) == [run]


def test_nothing_is_gone_that_could_not_be_looked_for(bench: Bench) -> None:
    """S9: a launcher that can open no more files sees nobody."""
    child = bench.start("daemon.py")
    run = bench.run_of(child)
    bench.end(child)
    bench.sweeper.hold(run, kill_at=0.0)
    bench.sweeper.retire(Run("2", "1", (999999,)), now=0.0)
    with files_left(0):
        assert bench.sweeper.sweep(time.monotonic()) == []
        assert not kill_until_gone(lambda: find_marked(bench.allocation), give_up_at=time.monotonic() + 0.1)
    bench.sweep_until_gone(run)
    assert bench.sweeper.due() is None


def test_members_that_are_left_in_the_group_are_killed(bench: Bench) -> None:
    child = bench.start("background.sh")
    assert bench.end(child) == ExitStatus(0)
    assert group_exists(child.group)
    bench.sweeper.hold(bench.run_of(child), kill_at=0.0)
    bench.sweep_until_gone(bench.run_of(child))


def test_unmarked_process_in_another_group_of_the_session_is_found(bench: Bench) -> None:
    child = bench.start("jobcontrol.sh")
    bench.end(child)
    wait_until(lambda: not group_exists(child.group))
    assert len(bench.tag.alive()) == 1
    bench.sweeper.hold(bench.run_of(child), kill_at=0.0)
    bench.sweep_until_gone(bench.run_of(child))


def test_daemon_of_a_run_that_ended_by_itself_is_gone_within_seconds(bench: Bench) -> None:
    child = bench.start("daemon.py")
    bench.end(child)
    now = time.monotonic()
    bench.sweeper.retire(bench.run_of(child), now)
    assert bench.sweeper.due() == now + RETIRED_PERIOD_SEC
    assert bench.sweeper.sweep(now + 1) == []
    wait_until(lambda: bench.tag.alive() == [], 1.0)
    assert bench.sweeper.due() == now + 2, "what was killed may have forked: look once more"
    bench.sweeper.sweep(now + 2)
    assert bench.sweeper.due() is None


def test_a_process_that_writes_over_its_marks_is_found_by_its_session(bench: Bench) -> None:
    child = bench.start("retitled.py")
    bench.sweeper.hold(bench.run_of(child), kill_at=0.0)
    assert bench.sweeper.sweep(time.monotonic()) == []
    bench.end(child)
    bench.sweep_until_gone(bench.run_of(child))


def test_others_are_left_alone(bench: Bench) -> None:
    """A sweep for one run touches no other job, no other attempt, no other allocation, nothing older."""
    alive = [bench.start("daemon.py", "stay", job_id=str(number)) for number in (1, 2)]
    count = len(bench.tag.alive())
    other_attempt = Run("1", "3", (999999,))
    stranger = Sweeper("another allocation")
    for sweeper, run in ((bench.sweeper, other_attempt), (stranger, Run("1", "2", (999999,)))):
        sweeper.hold(run, kill_at=0.0)
        assert sweeper.sweep(time.monotonic()) == [run]
    assert len(bench.tag.alive()) == count
    bench.sweeper.hold(bench.run_of(alive[0]), kill_at=0.0)
    kill(alive[0].group)
    bench.end(alive[0])
    while bench.sweeper.holds(bench.run_of(alive[0])):
        bench.sweeper.sweep(time.monotonic())
    left = bench.tag.alive()
    assert len(left) == count // 2
    assert {process.environ()[JOB_ENV] for process in left} == {"2"}
    kill(alive[1].group)
    bench.end(alive[1])


def test_death_by_signal_is_told(bench: Bench) -> None:
    child = bench.start("by_signal.sh", "SEGV")
    status = bench.end(child)
    assert (status.code, status.signal) == (139, 11)
    assert not group_exists(child.group)


def test_a_thousand_ended_runs_cost_one_pass(bench: Bench) -> None:
    passes = []

    def counted(since: int) -> Iterator[tuple[Process, bytes]]:
        passes.append(1)
        return look_over(since)

    sweeper = Sweeper(bench.allocation, counted)
    assert sweeper.due() is None
    for number in range(1000):
        sweeper.retire(Run(str(number), "1", (900000 + number,)), now=10.0)
    assert sweeper.due() == 11.0
    sweeper.sweep(11.0)
    assert (len(passes), sweeper.due()) == (1, None)


def test_looks_less_and_less_often_and_at_once_after_the_kill(tag: Tag, tmp_path: Path) -> None:
    bench = Bench(tag, tmp_path)
    child = bench.start("daemon.py")
    run = bench.run_of(child)
    bench.end(child)
    bench.sweeper.hold(run, kill_at=5.0)
    due: Callable[[], float | None] = bench.sweeper.due
    times = []
    now = 0.0
    while now < 5.0:
        bench.sweeper.sweep(now)
        now = due() or 0.0
        times.append(now)
    assert 5 < len(times) < 25
    assert times[-1] == 5.0
    bench.sweeper.sweep(5.0)
    assert (due() or 0) < 5.01
    wait_until(lambda: tag.alive() == [])
    assert bench.sweeper.sweep(6.0) == [run]
