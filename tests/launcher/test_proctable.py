"""Reading the process table and killing until nothing is seen, where the zoo can't tell luck from a rule."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from balsam.launcher.proctable import ALLOCATION_ENV, Killer, find_marked, kill_until_gone
from balsam.launcher.sweep import Run, Sweeper
from balsam.platform import process_table
from balsam.platform.process_table import Process, look_over, read_environ, read_process, read_process_table
from tests.launcher.conftest import wait_until


def test_true_only_after_a_look_that_saw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """S6, S9: what was killed is looked for again, since it may have forked meanwhile."""
    survivor = Process(2**22 + 5, 1, 2**22 + 5, 2**22 + 5, 0, False)
    looks = [[survivor], [survivor], [survivor], []]
    killed: list[Process] = []
    monkeypatch.setattr(Killer, "kill", lambda _, process: killed.append(process))
    assert kill_until_gone(lambda: looks.pop(0))
    assert (looks, killed) == ([], [survivor] * 3)


def test_gives_up_in_time_and_says_who_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    survivor = Process(2**22 + 5, 1, 2**22 + 5, 2**22 + 5, 0, False)
    monkeypatch.setattr(Killer, "kill", lambda _, process: None)
    start = time.monotonic()
    assert not kill_until_gone(lambda: [survivor], give_up_at=start + 0.3)
    assert 0.3 <= time.monotonic() - start < 2


class Chain:
    """A process that forks and ends when told to, and so on: one of it lives at any time, in a session of its own."""

    _CODE = """if True:
        import os, sys
        while True:
            print(os.getpid(), flush=True)
            if sys.stdin.readline() == "":
                break
            if os.fork():
                os._exit(0)
            os.setsid()
    """

    def __init__(self, mark: str) -> None:
        environ = {**os.environ, ALLOCATION_ENV: mark}
        argv = [sys.executable, "-S", "-E", "-c", self._CODE]
        self._first = subprocess.Popen(argv, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._told()

    def _told(self) -> int:
        assert self._first.stdout is not None
        return int(self._first.stdout.readline())

    def move_on(self) -> None:
        """Returns when the next one lives and the one before is dead."""
        assert self._first.stdin is not None
        before = self.pid
        self._first.stdin.write(b"on\n")
        self._first.stdin.flush()
        self.pid = self._told()
        wait_until(lambda: (row := read_process(before)) is None or row.dead)

    def end(self) -> None:
        self._first.communicate()


@pytest.fixture
def chain() -> Iterator[Chain]:
    chain = Chain(f"chain.{os.getpid()}")
    yield chain
    chain.end()


def _moving(monkeypatch: pytest.MonkeyPatch, chain: Chain, times: int) -> list[int]:
    """The chain moves on as soon as it was listed, so many times. Returns what counts the listings."""
    listed: list[int] = []
    listing = process_table._listing

    def listing_and_moving() -> list[int]:
        pids = listing()
        listed.append(len(pids))
        if len(listed) <= times:
            chain.move_on()
        return pids

    monkeypatch.setattr(process_table, "_listing", listing_and_moving)
    return listed


def test_what_forks_and_ends_between_a_listing_and_its_turn_is_found(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S6, S9: its child is not in that listing, so a look that saw nobody alive would prove nothing."""
    listed = _moving(monkeypatch, chain, 3)
    assert [process.pid for process in find_marked(f"chain.{os.getpid()}")] == [chain.pid]
    assert len(listed) > 3


def test_nothing_is_gone_while_the_table_does_not_hold_still(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """S6, S9: one that always escapes is not gone."""
    listed = _moving(monkeypatch, chain, 10_000)
    with pytest.raises(OSError, match="come and go"):
        list(find_marked(f"chain.{os.getpid()}"))
    assert len(listed) == process_table._LISTINGS
    sweeper = Sweeper(f"chain.{os.getpid()}")
    run = Run("1", "1", (chain.pid,))
    sweeper.hold(run, kill_at=0.0)
    assert sweeper.sweep(time.monotonic()) == []
    assert sweeper.holds(run)


def test_a_process_in_the_middle_of_an_exec_has_its_turn_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment can't be read for a moment; it would pass for somebody else's."""
    seen: list[int] = []

    def read_later(pid: int) -> bytes:
        seen.append(pid)
        return read_environ(pid) if seen.count(pid) > 3 else b"\0"

    monkeypatch.setattr(process_table, "read_environ", read_later)
    me = [environ for process, environ in look_over() if process.pid == os.getpid()]
    assert me == [read_environ(os.getpid())]


def test_what_was_just_started_is_found_by_its_mark() -> None:
    """`Popen` returns when the old program is gone; its environment is there some moments later, or milliseconds where
    others want the core."""
    for number in range(200):
        mark = f"started.{os.getpid()}.{number}."
        with subprocess.Popen(["sleep", "60"], env={ALLOCATION_ENV: mark}) as child:
            try:
                assert [process.pid for process in find_marked(mark)] == [child.pid]
            finally:
                child.kill()


def test_an_empty_environment_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it to become another one."""
    pauses: list[float] = []
    with subprocess.Popen(["sleep", "60"], env={}) as child:
        try:
            wait_until(lambda: (row := read_process(child.pid)) is not None and row.has_environ is False)
            monkeypatch.setattr(process_table.time, "sleep", pauses.append)
            assert (child.pid, b"\0") in [(process.pid, environ) for process, environ in look_over()]
        finally:
            child.kill()
    assert sum(pauses) == 0


def test_sees_itself_and_what_it_was_started_with() -> None:
    me = read_process_table()[os.getpid()]
    assert (me.parent, me.group, me.session, me.dead) == (os.getppid(), os.getpgrp(), os.getsid(0), False)
    with subprocess.Popen(["sleep", "60"], env={"A": "1", "B": "x=y"}) as child:
        try:
            deadline = time.monotonic() + 5
            while b"\0A=1\0B=x=y\0" not in read_environ(child.pid) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert read_environ(child.pid) == b"\0A=1\0B=x=y\0"
        finally:
            child.kill()
    assert read_environ(child.pid) == b""


def test_a_thread_group_whose_first_thread_ended_is_alive() -> None:
    """It looks like a zombie; its threads run on and may write."""
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as child:
        try:
            deadline = time.monotonic() + 10
            while _state(child.pid) != "Z" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert _state(child.pid) == "Z"
            assert not read_process_table()[child.pid].dead
        finally:
            child.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 5
        while not read_process_table()[child.pid].dead and time.monotonic() < deadline:
            time.sleep(0.01)
        assert read_process_table()[child.pid].dead, "a zombie that nobody collected yet"


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0]
