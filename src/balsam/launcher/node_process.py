"""The launcher's process on a node, in serial mode over several: starts Jobs there and looks after them.

`python -m balsam.launcher.node_process`, started by a guardian of that node, which gives it a line of JSON on standard
input: where the hub is, the allocation's keys, the partition. All about processes is that of `children.py`; this one
carries its words to the hub and back. It holds a lease of the launcher's (`NODE_LEASE_SEC`), asks for it to be renewed
all the time, and its guardian ends this node's processes when that stops (S6); without a connection it ends at once.
It has one thread, as quick starts of processes need it.
"""

import asyncio
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from balsam.domain.clock import SystemClock
from balsam.launcher.children import Children
from balsam.launcher.engines.dask import NodeClient
from balsam.launcher.guardian import EXIT_CONFIG, node_name
from balsam.launcher.guardian_link import GuardianLink
from balsam.launcher.machine_messages import Checkpoint, Drain, Input
from balsam.launcher.node_keys import NodeKeys
from balsam.launcher.node_messages import BadMessage, Told, decode, encode, of_input, signal_of, start_of
from balsam.launcher.open_files import FILES_PER_JOB, allow_files
from balsam.launcher.partition import Partition
from balsam.launcher.proctable import ALLOCATION_ENV, find_marked, kill_until_gone
from balsam.launcher.sweep import Sweeper
from balsam.launcher.wiring import Parts, build_parts
from balsam.launcher.workdir import WorkdirError

log = logging.getLogger("balsam.node")

RENEW_SEC = 5.0
EXIT_DISCONNECTED = 1
# To carry a message to the launcher costs as much as to start a Job, whether it tells of one end or of ten.
GATHER_SEC_PER_JOB = 0.0005
LONGEST_GATHER_SEC = 0.01


def gather_sec(jobs: int) -> float:
    """How long a node of so many Jobs, which was given some or told of some, waits for more to tell.

    >>> gather_sec(1), gather_sec(64)
    (0.0005, 0.01)
    """
    return min(LONGEST_GATHER_SEC, jobs * GATHER_SEC_PER_JOB)


def index_of(name: str, names: list[str]) -> int | None:
    """Which of the partition's nodes this is; batch systems and machines add their domain or not."""
    short = [other.partition(".")[0] for other in names]
    if name in names:
        return names.index(name)
    wanted = name.partition(".")[0]
    return short.index(wanted) if wanted in short else None


class NodeProcess:
    """One node of the partition."""

    def __init__(self, index: int, partition: Partition, parts: Parts, guardian: GuardianLink, allocation: str) -> None:
        self._apps = parts.apps
        self._guardian = guardian
        self._clock = SystemClock()
        self._epoll = select.epoll()
        self._inputs: list[Input] = []
        cores = len(partition.nodes[index].cpu_ids)
        allow_files(FILES_PER_JOB * cores)
        self._children = Children(
            self._epoll,
            parts.starter,
            parts.data,
            Sweeper(allocation),
            self._clock,
            partition.config.error_tail_num_lines,
            cores,
            self._inputs,
        )
        self._client = NodeClient(index, self._received)
        self._timer: asyncio.TimerHandle | None = None
        self._is_gathering = False
        self._is_told_to_end = False

    async def run(self, server: str, keys: NodeKeys) -> int:
        """Serve until told to end, or the connection is gone; returns the exit status for the guardian."""
        await self._client.open(server, keys)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._told, Drain("its node was told to end"))
        loop.add_reader(self._epoll.fileno(), self._hear)
        loop.add_reader(self._guardian.fileno(), self._orphaned)
        renewing = loop.create_task(self._renew())
        await self._client.over()
        renewing.cancel()
        if self._guardian.guardian_is_gone():
            self._orphaned()
        return 0 if self._is_told_to_end else EXIT_DISCONNECTED

    async def _renew(self) -> None:
        while True:
            self._client.send(encode([{"is": "renew", "at": time.monotonic()}]))
            await asyncio.sleep(RENEW_SEC)

    def _orphaned(self) -> None:
        """S6: nobody watches our lease any more. Whatever runs here is found by its mark and killed."""
        log.error("the guardian is gone: killing all Jobs")
        allocation = os.environ[ALLOCATION_ENV]
        kill_until_gone(lambda: (row for row in find_marked(allocation) if row.pid != os.getpid()))
        os._exit(EXIT_DISCONNECTED)

    def _received(self, data: bytes) -> None:
        for message in decode(data):
            self._do(message)
        if self._inputs and not self._is_gathering:
            self._gather()  # short Jobs that were started now end before that is told
        self._turn_over()

    def _do(self, message: Mapping[str, Any]) -> None:
        match message["do"]:
            case "start":
                if "app" in message:
                    self._apps.add(message["app"])
                self._children.start(start_of(message))
            case "signal":
                self._children.signal(signal_of(message, self._clock.monotonic()))
            case "checkpoint":
                self._children.checkpoint(Checkpoint(message["job_id"]))
            case "lease":
                self._guardian.renew(message["at"] + message["for_sec"])
            case "end":
                self._is_told_to_end = True
                self._children.close()
                self._ending = asyncio.get_running_loop().create_task(self._client.close())
            case other:
                raise BadMessage(f"the launcher says {other!r}, which this node does not know")

    def _told(self, said: Input) -> None:
        self._inputs.append(said)
        self._turn_over()

    def _hear(self) -> None:
        for fd, _ in self._epoll.poll(0):
            self._children.heard(fd)
        self._turn_over()

    def _sweep(self) -> None:
        self._timer = None
        self._children.sweep(self._clock.monotonic())
        self._turn_over()

    def _turn_over(self) -> None:
        """Tell what happened, unless more of it is waited for, and be called when something is due."""
        if self._inputs and not self._is_gathering:
            self._tell()
        due = self._children.due()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if due is not None:
            pause = max(0.0, due - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(pause, self._sweep)

    def _tell(self) -> None:
        self._client.send(encode([of_input(said) for said in self._inputs if isinstance(said, Told)]))
        self._inputs.clear()
        self._gather()

    def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._epoll.fileno())
        self._is_gathering = True
        loop.call_later(gather_sec(self._children.count), self._gathered)

    def _gathered(self) -> None:
        self._is_gathering = False
        self._hear()
        if not self._is_gathering:
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._hear)


def main() -> int:
    """Entry point of the process that a node's guardian starts."""
    logging.basicConfig(
        format="%(asctime)s %(name)s[%(process)d]: %(message)s", level=os.environ.get("BALSAM_LOG_LEVEL", "INFO")
    )
    told = json.loads(sys.stdin.readline())
    partition = Partition.from_json(told["partition"])
    guardian = GuardianLink.from_environ()
    name, names = node_name(os.environ), [node.name for node in partition.nodes]
    index = index_of(name, names)
    if guardian is None or index is None:
        log.error("this is %s, which is none of the partition's nodes (%s), or has no guardian", name, ", ".join(names))
        return EXIT_CONFIG
    allocation = os.environ[ALLOCATION_ENV]
    try:
        parts = build_parts(partition, os.environ, allocation, name)
    except (WorkdirError, LookupError, ImportError) as error:
        log.error("%s", error)
        return EXIT_CONFIG
    node = NodeProcess(index, partition, parts, guardian, allocation)
    try:
        return asyncio.run(node.run(told["server"], NodeKeys(**told["keys"])))
    except (OSError, TimeoutError) as error:
        log.error("the launcher can't be reached: %s", error)
        return EXIT_DISCONNECTED


if __name__ == "__main__":
    sys.exit(main())
