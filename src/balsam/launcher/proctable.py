"""The process table as Linux shows it under /proc: who descends from whom, who carries a mark, and killing them all.

Called by the guardian and by `process.py`. Standard library only, no state. It promises that `kill_until_gone` answers
True only after one full pass over the table saw none of the wanted processes alive (S6, S9).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

# In the environment of everything that runs in an allocation.
ALLOCATION_ENV = "BALSAM_ALLOCATION"
_KERNEL_THREAD = 0x00200000
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Process(NamedTuple):
    """One row of the process table. `started` is in clock ticks since boot."""

    pid: int
    parent: int
    group: int
    session: int
    started: int
    dead: bool


def read_process_table() -> dict[int, Process]:
    """Return all user processes by pid, the newest first. A process that ends meanwhile is left out. Raises OSError.

    Newest first, because a process that forks and exits in a loop is caught only while its number is fresh.
    """
    table = {}
    for pid in sorted((int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()), reverse=True):
        try:
            fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            _pass_over(error)
            continue
        try:
            stat = os.read(fd, 4096)
        except OSError as error:
            _pass_over(error)
            continue
        finally:
            os.close(fd)
        fields = stat[stat.rindex(b")") + 2 :].split()
        if int(fields[6]) & _KERNEL_THREAD:
            continue
        # A thread group whose first thread ended looks like a zombie, while its other threads run on.
        dead = fields[0] in b"ZX" and int(fields[17]) <= 1
        table[pid] = Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]), dead)
    return table


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


def find_descendants(root: int, allocation: str, spared: Collection[Process] = ()) -> list[Process]:
    """Return the living processes below `root`, and those anywhere that carry the allocation's mark.

    The mark finds what the tree cannot: processes that were adopted by init because a guardian had died.
    `spared` are children of `root` whose trees are nobody's business (the batch script's own background helpers).
    """
    table = read_process_table()
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    below: set[int] = set()
    left_alone = {(process.pid, process.started) for process in spared}
    heads = [pid for pid in children.get(root, []) if (pid, table[pid].started) not in left_alone]
    while heads:
        pid = heads.pop()
        below.add(pid)
        heads.extend(child for child in children.get(pid, []) if child not in below)
    above = _line_of_parents(table, os.getpid())
    mark = f"\0{ALLOCATION_ENV}={allocation}\0".encode()
    since = table[root].started if root in table else 0
    found = []
    for process in table.values():
        if process.dead or process.pid in above:
            continue
        if process.pid in below or (process.started >= since and mark in read_environ(process.pid)):
            found.append(process)
    return found


def find_marked(beginning: str) -> list[Process]:
    """Return the living processes whose allocation's mark begins so, whatever their age and parents."""
    mark = f"\0{ALLOCATION_ENV}={beginning}".encode()
    return [row for row in read_process_table().values() if not row.dead and mark in read_environ(row.pid)]


def _line_of_parents(table: Mapping[int, Process], pid: int) -> set[int]:
    line = set()
    while pid in table and pid not in line:
        line.add(pid)
        pid = table[pid].parent
    return line


def kill_processes(processes: Collection[Process]) -> None:
    """SIGKILL these, group by group and one by one. Call it right after they were read from the process table.

    A group is killed in one step in the kernel, so a member that forks just then cannot escape. Numbers are not given
    again within the milliseconds since the table was read: that takes a whole turn of the pid space.
    """
    own_group = os.getpgrp()
    for group in {process.group for process in processes} - {own_group, 0, 1}:
        _signal_quietly(os.killpg, group)
    for process in processes:
        _signal_quietly(os.kill, process.pid)


def _signal_quietly(send: Callable[[int, int], None], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(number, signal.SIGKILL)


def kill_until_gone(
    find: Callable[[], list[Process]],
    reap: Callable[[], None] = lambda: None,
    give_up_at: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> bool:
    """Kill what `find` returns until one full pass finds nothing; False when that failed until `give_up_at`.

    `give_up_at` is in CLOCK_MONOTONIC seconds; without it this waits as long as a process survives (for instance in an
    uninterruptible read from a dead file server) and names it every 10 s. What `find` can't see is not gone.
    """
    delay, warn_at = 0.001, time.monotonic() + 10.0
    while True:
        reap()
        try:
            survivors = find()
        except OSError as error:
            trouble = f"processes can't be looked for: {error.strerror}"
        else:
            if not survivors:
                return True
            kill_processes(survivors)
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
