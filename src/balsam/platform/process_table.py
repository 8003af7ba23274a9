"""The process table as Linux shows it under /proc, looked over so that nothing that lives escapes the look.

Used by the launcher's side of S6 and S9 and by the local scheduler. Standard library only, no state: the guardian loads
it without any installed package.
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_KERNEL_THREAD, _EXITING = 0x00200000, 0x00000004
_LISTINGS = 20  # in one look
_MOST_PAUSES, _LONGEST_PAUSE_SEC = 10, 0.05  # a quarter of a second for a process in the middle of an exec
_UNREADABLE, _EMPTY = b"", b"\0"  # of environments
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Process(NamedTuple):
    """One row of the process table. `started` is in clock ticks since boot.

    `has_environ`: None while that can't be said, in the middle of an exec.
    """

    pid: int
    parent: int
    group: int
    session: int
    started: int
    dead: bool
    has_environ: bool | None = True


def read_process(pid: int) -> Process | None:
    """Return a process's row; None when it has gone, is the kernel's own or can't be read. Raises OSError."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        _pass_over(error)
        return None
    try:
        stat = os.read(fd, 4096)
    except OSError as error:
        _pass_over(error)
        return None
    finally:
        os.close(fd)
    fields = stat[stat.rindex(b")") + 2 :].split()
    flags = int(fields[6])
    if flags & _KERNEL_THREAD:
        return None
    # A thread group whose first thread ended looks like a zombie, while its other threads run on.
    ended = fields[0] in b"ZX"
    dead = ended and int(fields[17]) <= 1
    begin, end = int(fields[47]), int(fields[48])
    has_environ = None if end == 0 and not ended and not flags & _EXITING else end > begin
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]), dead, has_environ)


def read_process_table() -> dict[int, Process]:
    """Return all user processes by pid, the newest first. A process that ends meanwhile is left out. Raises OSError."""
    return {pid: row for pid in _listing() if (row := read_process(pid)) is not None}


def look_over(since: int = 0) -> Iterator[tuple[Process, bytes]]:
    """Yield the living user processes, the newest first, each with its environment as `read_environ` has it.

    What started before `since` comes without it. Raises OSError, also when the table never holds still.

    A process that forks and ends between a listing and its turn has a child that this listing has not. So the table is
    listed again, and what is new in it is looked at, until nothing of a listing had ended unseen (S6, S9): whatever
    lived when that listing was made was yielded. One in the middle of an exec, which takes longer where others want the
    core, shows no environment and would pass for somebody else's: it has its turn later.
    """
    known: set[int] = set()
    seen_bare: Counter[int] = Counter()
    for _ in range(_LISTINGS):
        all_seen, pause_sec = True, 0.0
        for pid in _listing():
            if pid in known:
                continue
            row = read_process(pid)
            if row is None or row.dead:
                known.add(pid)
                all_seen = False
                continue
            environ = read_environ(pid) if row.started >= since else _UNREADABLE
            if environ == _EMPTY and seen_bare[pid] < _MOST_PAUSES and _is_bare(pid):
                pause_sec = max(pause_sec, min(0.001 * 2 ** seen_bare[pid], _LONGEST_PAUSE_SEC))
                seen_bare[pid] += 1
                all_seen = False
                continue
            known.add(pid)
            yield row, environ
        if all_seen:
            return
        time.sleep(pause_sec)
    raise OSError(errno.EAGAIN, "they come and go too fast")


def _is_bare(pid: int) -> bool:
    """Whether a process whose environment was empty has one after all, will have one, or has gone."""
    row = read_process(pid)
    return row is None or row.dead or row.has_environ is not False


def _listing() -> list[int]:
    """Newest first, because a process that forks and exits in a loop is caught only while its number is fresh."""
    return sorted((int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()), reverse=True)


def read_environ(pid: int) -> bytes:
    """Return the environment `pid` was started with, as NUL-framed entries; empty when it is gone or not ours.

    Raises OSError.
    """
    try:
        fd = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        _pass_over(error)
        return _UNREADABLE
    parts = [_EMPTY]
    try:
        while part := os.read(fd, 1 << 17):
            parts.append(part)
    except OSError as error:
        _pass_over(error)
        return _UNREADABLE
    finally:
        os.close(fd)
    return b"".join(parts)


def _pass_over(error: OSError) -> None:
    """A process that is gone, or somebody else's. Raises what says nothing of it: the machine is short of something."""
    if error.errno in _SHORTAGES:
        raise error
