"""Reading the process table and killing until nothing is seen, where the zoo can't tell luck from a rule."""

import os
import signal
import subprocess
import sys
import time

import pytest

from balsam.launcher import proctable
from balsam.launcher.proctable import Process, kill_until_gone, read_environ, read_process_table


def test_true_only_after_a_pass_that_saw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """S6, S9: what was killed is looked for again, since it may have forked meanwhile."""
    survivor = Process(2**22 + 5, 1, 2**22 + 5, 2**22 + 5, 0, False)
    passes = [[survivor], [survivor], [survivor], []]
    killed: list[int] = []
    monkeypatch.setattr(proctable, "kill_processes", lambda found: killed.append(len(found)))
    assert kill_until_gone(lambda: passes.pop(0))
    assert (passes, killed) == ([], [1, 1, 1])


def test_gives_up_in_time_and_says_who_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    survivor = Process(2**22 + 5, 1, 2**22 + 5, 2**22 + 5, 0, False)
    monkeypatch.setattr(proctable, "kill_processes", lambda found: None)
    start = time.monotonic()
    assert not kill_until_gone(lambda: [survivor], give_up_at=start + 0.3)
    assert 0.3 <= time.monotonic() - start < 2


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
