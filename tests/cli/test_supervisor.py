"""The supervisor of `balsam up` while it ends: it goes on restarting, for a bounded time."""

from __future__ import annotations

import ctypes
import errno
import operator
import os
import selectors
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from balsam.cli import supervisor as supervisor_module
from balsam.cli.log_tail import MAX_BYTES, log_tail
from balsam.cli.supervisor import Child, Supervisor


def test_children_are_restarted_until_done_or_the_time_is_over(tmp_path: Path) -> None:
    child = Child("sleeper", ["sleep", "60"], tmp_path / "log")
    events: list[str] = []
    with Supervisor(events.append) as supervisor:
        supervisor.start(child)
        first = child.pid
        os.kill(os.getpid(), signal.SIGTERM)
        supervisor.run_until_signal()
        os.kill(first, signal.SIGKILL)
        assert supervisor.run_until(lambda: child.is_running and child.pid != first, 10)
        begin = time.monotonic()
        assert not supervisor.run_until(lambda: False, 0.3)
        assert 0.3 <= time.monotonic() - begin < 2
        assert not supervisor.is_hurried
    assert not child.is_running
    assert ["ended with status -9" in event for event in events] == [True]


@pytest.mark.slow
@pytest.mark.parametrize("lacking", ["subprocess.Popen", "os.pidfd_open"])
def test_a_child_that_can_not_be_started_again_now_is_tried_later(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "MAX_BACKOFF_SEC", 0.2)
    first, other = (Child(name, ["sleep", "60"], tmp_path / name) for name in ("first", "other"))
    events: list[str] = []
    with Supervisor(events.append) as supervisor:
        supervisor.start(first)
        supervisor.start(other)
        with monkeypatch.context() as patch:
            patch.setattr(lacking, refuse)
            os.kill(first.pid, signal.SIGKILL)
            assert supervisor.run_until(lambda: any("can't be started" in event for event in events), 10)
        assert not first.is_running and other.is_running
        assert supervisor.run_until(lambda: first.is_running, 10)


def test_a_signal_on_the_way_into_the_wait_ends_it(tmp_path: Path) -> None:
    """It comes after Python last looked for signals and before select sleeps: no handler runs until select returns."""
    with Supervisor([].append) as supervisor:
        supervisor._selector = SignalledInSelect(supervisor._selector)
        begin = time.monotonic()
        supervisor.run_until_signal()
        assert time.monotonic() - begin < 10


class SignalledInSelect:
    """A selector that gets SIGTERM right before it sleeps, with no bytecode in between."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def select(self, _timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        kill = partial(ctypes.CDLL(None).kill, os.getpid(), int(signal.SIGTERM))
        _, found = map(operator.call, (kill, partial(self._wrapped._selector.poll, 30, 1)))
        return [(self._wrapped.get_map()[fd], events) for fd, events in found]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_a_hurried_stop_does_not_wait_for_a_deaf_child(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    child = Child("deaf", ["sh", "-c", f"trap '' TERM; : > {ready}; while :; do sleep 0.1; done"], tmp_path / "log")
    events: list[str] = []
    with Supervisor(events.append) as supervisor:
        supervisor.start(child)
        supervisor.wait_until(child, ready.exists)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.7)
        os.kill(os.getpid(), signal.SIGINT)
        begin = time.monotonic()
        assert not supervisor.run_until(lambda: False, 30)
        supervisor.stop(child)
        assert time.monotonic() - begin < 5
    assert not child.is_running
    assert "killing it" in events[-1]


def test_of_a_large_log_only_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert log_tail(log) == "", "there is none"
    log.write_text("x" * 1_000_000 + "\n" + "".join(f"line {number}\n" for number in range(20)))
    assert log_tail(log).splitlines() == [f"line {number}" for number in range(5, 20)]
    log.write_text("x" * 1_000_000)
    assert len(log_tail(log)) == MAX_BYTES
