"""The process table as Linux shows it under /proc: who descends from whom, who carries a mark, and killing them all.

Called by the guardian and by `process.py`. Standard library only, no state. It promises that `kill_until_gone` answers
True only after a look over the whole table that no living process can have escaped saw none of those that are wanted
(S6, S9).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

# In the environment of everything that runs in an allocation.
ALLOCATION_ENV = "BALSAM_ALLOCATION"
_KERNEL_THREAD = 0x00200000
_LISTINGS = 20  # in one look
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Process(NamedTuple):
    """One row of the process table. `started` is in clock ticks since boot."""

    pid: int
    parent: int
    group: int
    session: int
    started: int
    dead: bool


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
    if int(fields[6]) & _KERNEL_THREAD:
        return None
    # A thread group whose first thread ended looks like a zombie, while its other threads run on.
    dead = fields[0] in b"ZX" and int(fields[17]) <= 1
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]), dead)


def read_process_table() -> dict[int, Process]:
    """Return all user processes by pid, the newest first. A process that ends meanwhile is left out. Raises OSError."""
    return {pid: row for pid in _listing() if (row := read_process(pid)) is not None}


def look_over(since: int = 0) -> Iterator[tuple[Process, bytes]]:
    """Yield the living user processes, the newest first, each with its environment as `read_environ` has it.

    What started before `since` comes without it. Raises OSError, also when the table never holds still.

    A process that forks and ends between a listing and its turn has a child that this listing has not. So the table is
    listed again, and what is new in it is looked at, until nothing of a listing had ended unseen (S6, S9): whatever
    lived when that listing was made was yielded.
    """
    known: set[int] = set()
    bare: set[int] = set()
    for _ in range(_LISTINGS):
        all_seen = True
        for pid in _listing():
            if pid in known:
                continue
            row = read_process(pid)
            if row is None or row.dead:
                known.add(pid)
                all_seen = False
                continue
            environ = read_environ(pid) if row.started >= since else b""
            if row.started >= since and len(environ) <= 1 and pid not in bare:
                # It has just ended, or is in the middle of an exec: it has its turn once more.
                bare.add(pid)
                all_seen = False
                continue
            known.add(pid)
            yield row, environ
        if all_seen:
            return
    raise OSError(errno.EAGAIN, "they come and go too fast")


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
        return b""
    parts = [b"\0"]
    try:
        while part := os.read(fd, 1 << 17):
            parts.append(part)
    except OSError as error:
        _pass_over(error)
        return b""
    finally:
        os.close(fd)
    return b"".join(parts)


def _pass_over(error: OSError) -> None:
    """A process that is gone, or somebody else's. Raises what says nothing of it: the machine is short of something."""
    if error.errno in _SHORTAGES:
        raise error


def find_descendants(root: int, allocation: str, spared: Collection[Process] = ()) -> Iterator[Process]:
    """Yield the living processes below `root`, and those anywhere that carry the allocation's mark. Raises OSError.

    The mark finds what the tree cannot: processes that were adopted by init because a guardian had died.
    `spared` are children of `root` whose trees are nobody's business (the batch script's own background helpers).
    """
    top = read_process(root)
    mark = f"\0{ALLOCATION_ENV}={allocation}\0".encode()
    above = _line_of_parents(os.getpid())
    seen: dict[int, Process] = {}
    children: dict[int, list[int]] = {}
    marked: set[int] = set()
    for process, environ in look_over(0 if top is None else top.started):
        seen[process.pid] = process
        children.setdefault(process.parent, []).append(process.pid)
        if mark in environ and process.pid not in above:
            marked.add(process.pid)
            yield process
    left_alone = {(process.pid, process.started) for process in spared}
    heads = [pid for pid in children.get(root, []) if (pid, seen[pid].started) not in left_alone]
    below: set[int] = set()
    while heads:
        pid = heads.pop()
        below.add(pid)
        heads.extend(child for child in children.get(pid, []) if child not in below)
    yield from (seen[pid] for pid in below - marked - above)


def find_marked(beginning: str) -> Iterator[Process]:
    """Yield the living processes whose allocation's mark begins so, whatever their age and parents. Raises OSError."""
    mark = f"\0{ALLOCATION_ENV}={beginning}".encode()
    return (process for process, environ in look_over() if mark in environ)


def _line_of_parents(pid: int) -> set[int]:
    line: set[int] = set()
    while pid not in line and (process := read_process(pid)) is not None:
        line.add(pid)
        pid = process.parent
    return line


class Killer:
    """SIGKILL for processes, each right after it was read from the process table, and once for the group of it.

    A group is killed in one step in the kernel, so a member that forks just then cannot escape. Numbers are not given
    again within the milliseconds since a process was read: that takes a whole turn of the pid space.
    """

    def __init__(self) -> None:
        self._groups = {os.getpgrp(), 0, 1}

    def kill(self, process: Process) -> None:
        if process.group not in self._groups:
            self._groups.add(process.group)
            _signal_quietly(os.killpg, process.group)
        _signal_quietly(os.kill, process.pid)


def _signal_quietly(send: Callable[[int, int], None], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(number, signal.SIGKILL)


def kill_until_gone(
    find: Callable[[], Iterable[Process]],
    reap: Callable[[], None] = lambda: None,
    give_up_at: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> bool:
    """Kill what `find` gives, each as it comes, until that is nothing; False when that failed until `give_up_at`.

    `give_up_at` is in CLOCK_MONOTONIC seconds; without it this waits as long as a process survives (for instance in an
    uninterruptible read from a dead file server) and names it every 10 s. What `find` can't see is not gone.
    """
    delay, warn_at = 0.001, time.monotonic() + 10.0
    while True:
        reap()
        killer, survivors = Killer(), []
        try:
            for process in find():
                killer.kill(process)
                survivors.append(process)
        except OSError as error:
            trouble = f"processes can't be looked for: {error.strerror}"
        else:
            if not survivors:
                return True
            pids = " ".join(str(process.pid) for process in survivors[:20])
            trouble = f"still alive after SIGKILL: {len(survivors)} processes ({pids})"
        now = time.monotonic()
        if give_up_at is not None and now >= give_up_at:
            return False
        if now >= warn_at:
            say(f"{trouble}; waiting")
            warn_at = now + 10.0
        time.sleep(delay)
        delay = min(delay * 2, 0.2)
