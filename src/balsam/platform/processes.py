"""Processes of this machine, named so that a reused pid is never taken for the one that was meant.

Used by the local scheduler. A process is (pid, start time); signals go through a pidfd that was checked against both.
Membership of an allocation is read from the environment that every descendant inherits, so that a process that left
its group and session is found as well. Linux reads /proc, other systems go through psutil.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from balsam.platform import process_table

_PROC = Path("/proc")
_IS_LINUX = sys.platform == "linux"


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process for ever: `start` is in clock ticks since boot (elsewhere in 1/100 s since the epoch)."""

    pid: int
    start: int


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A living process and how it hangs together with others."""

    id: ProcessId
    parent: int
    session: int


def look(pid: int) -> ProcessInfo | None:
    """The living process with this pid; None when there is none or only its zombie."""
    if _IS_LINUX:
        return _look_proc(pid)
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return ProcessInfo(ProcessId(pid, int(process.create_time() * 100)), process.ppid(), os.getsid(pid))
    except (psutil.Error, OSError):
        return None


def is_alive(process: ProcessId) -> bool:
    """Whether this very process lives, and not a later one with its pid."""
    info = look(process.pid)
    return info is not None and info.id == process


def marked(variable: str, value: str, session: int | None = None) -> Iterator[ProcessInfo]:
    """Living processes of this user that were started with `variable=value` in their environment; and those of the
    session, if one is given. Raises OSError when they can't be looked for, or come and go too fast."""
    entry = f"\0{variable}={value}\0".encode()
    for info, environ in _look_over():
        if entry in environ or (session is not None and info.session == session):
            yield info


def send(process: ProcessId, signum: signal.Signals) -> bool:
    """Signal this very process; False when it is gone."""
    handle = open_handle(process)
    if handle is not None:
        try:
            signal.pidfd_send_signal(handle, signum)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True
    if _IS_LINUX or not is_alive(process):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signum)
        return True
    return False


def open_handle(process: ProcessId) -> int | None:
    """A pidfd, readable once the process ended; None when it is gone or the system has no pidfd. Close it."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return None
    # Checked after opening: from here on the handle can't come to mean another process.
    if is_alive(process):
        return handle
    os.close(handle)
    return None


def boot_id() -> str:
    """Changes with every boot of the machine; empty where the system does not tell."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "" if _IS_LINUX else str(int(psutil.boot_time()))


def _look_proc(pid: int) -> ProcessInfo | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name in parentheses may itself hold blanks and parentheses.
    fields = stat[stat.rfind(b")") + 2 :].split()
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return ProcessInfo(ProcessId(pid, int(fields[19])), int(fields[1]), int(fields[3]))


def _look_over() -> Iterator[tuple[ProcessInfo, bytes]]:
    """Living processes with their environments as NUL-framed entries, as far as they can be read."""
    if _IS_LINUX:
        for row, environ in process_table.look_over():
            yield ProcessInfo(ProcessId(row.pid, row.started), row.parent, row.session), environ
        return
    for pid in psutil.pids():
        info = look(pid)
        if info is not None:
            yield info, _environment(pid)


def _environment(pid: int) -> bytes:
    try:
        entries = psutil.Process(pid).environ().items()
    except (psutil.Error, OSError):
        return b""
    return "".join(f"\0{name}={value}" for name, value in entries).encode() + b"\0"
