"""Finding processes in the process table, by descent and by mark, and killing them all.

Called by the guardian, the launcher and the processes on its nodes. Standard library only, no state. It promises that
`kill_until_gone` answers True only after a look over the whole table, which nothing that lives can have escaped, saw
none of those that are wanted (S6, S9).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator

from balsam.platform.process_table import Process, look_over, read_process

# In the environment of everything that runs in an allocation.
ALLOCATION_ENV = "BALSAM_ALLOCATION"


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
