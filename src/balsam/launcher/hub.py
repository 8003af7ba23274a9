"""The hub: the launcher's child process through which it speaks with the processes on its nodes in serial mode.

`python -m balsam.launcher.hub FD`; lines over the socket FD. The first is the errand, JSON. Then, both ways, the index
of a node, a tab and messages (`node_messages.py`), which the hub passes on unread; with `-` for the index they are
by the hub itself: failed {reason} | spread_over {how}. It makes the allocation's keys, listens,
has a guardian started on each node, and does no disk and no HTTP, so that nothing holds up what it passes on. The end
of file on FD means that the launcher is gone: so are then, in a moment, the processes on the nodes.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from balsam.domain.clock import SystemClock
from balsam.launcher import guardian
from balsam.launcher.engines.dask import NodeServer, address_towards
from balsam.launcher.node_keys import NodeKeys, make_node_keys
from balsam.launcher.node_messages import encode
from balsam.launcher.open_files import allow_files
from balsam.launcher.process import Child, Command, CommandError, SpawnError, close_child, reap, spawn
from balsam.launcher.proctable import ALLOCATION_ENV
from balsam.launcher.spreading import SpreadError, spread_words

log = logging.getLogger("balsam.hub")

_READ_BYTES = 1 << 18
SPREAD_OUTPUT = "nodes-{}.out"


@dataclass(frozen=True, slots=True)
class Errand:
    """What the launcher says first. `partition` is its JSON; `end` of the allocation is in monotonic seconds."""

    partition: str
    names: list[str]
    index: int
    directory: str
    allocation: str
    end: float
    kill_margin_sec: float
    hard_margin_sec: float
    kill_grace_sec: float


class Hub:
    """One partition's hub, on a socket that does not block."""

    def __init__(self, errand: Errand, sock: socket.socket, received: bytes) -> None:
        self._errand = errand
        self._sock = sock
        self._in = received
        self._out = bytearray()
        self._is_writing = False
        self._server = NodeServer(
            lambda node: self._say(str(node), {"is": "up"}),
            lambda node: self._say(str(node), {"is": "down"}),
            lambda node, data: self._send(b"%d\t%s\n" % (node, data)),
        )
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Serve until the launcher is gone."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._sock, self._receive)
        try:
            await self._open(loop)
        except (SpreadError, SpawnError, CommandError, OSError) as error:
            self._say("-", {"is": "failed", "reason": str(error)})
        self._take(b"")
        await self._over.wait()
        await self._server.close()

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        errand = self._errand
        left = errand.end - time.monotonic()
        allow_files(2 * len(errand.names))
        keys = make_node_keys(SystemClock().now(), left)
        address = await self._server.open(address_towards(errand.names[-1]), keys)
        child = self._spread(json.dumps(self._guardian_config(address, keys, left)))
        loop.add_reader(child.pidfd, self._spread_over, child)

    def _guardian_config(self, address: str, keys: NodeKeys, left: float) -> dict[str, Any]:
        errand = self._errand
        told = {"server": address, "keys": asdict(keys), "partition": errand.partition}
        return {
            "argv": [sys.executable, "-P", "-m", "balsam.launcher.node_process"],
            "allocation": errand.allocation,
            "per_node": True,
            "stdin": json.dumps(told),
            "wall_time_sec": left,
            "kill_margin_sec": errand.kill_margin_sec,
            "hard_margin_sec": errand.hard_margin_sec,
            "kill_grace_sec": errand.kill_grace_sec,
        }

    def _spread(self, config: str) -> Child:
        """Start a guardian on each node; what they and their processes say for people goes into a file."""
        errand = self._errand
        argv = [sys.executable, "-S", "-E", guardian.__file__]
        words = spread_words(errand.names, argv, os.environ)
        memory = guardian.memory_file(config)
        try:
            output = SPREAD_OUTPUT.format(errand.index)
            # Guardians of nodes outlive the launcher for the moment in which they end its Jobs.
            env = {name: value for name, value in os.environ.items() if name != ALLOCATION_ENV}
            return spawn(Command(tuple(words), env, errand.directory, output, stdin_fd=memory))
        finally:
            os.close(memory)

    def _spread_over(self, child: Child) -> None:
        status = reap(child)
        if status is not None:
            asyncio.get_running_loop().remove_reader(child.pidfd)
            close_child(child)
            self._say("-", {"is": "spread_over", "how": status.describe()})

    # The launcher

    def _receive(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if data:
            self._take(data)
            return
        asyncio.get_running_loop().remove_reader(self._sock)
        self._over.set()

    def _take(self, data: bytes) -> None:
        *lines, self._in = (self._in + data).split(b"\n")
        for line in lines:
            node, _, messages = line.partition(b"\t")
            self._server.send(int(node), messages)

    def _say(self, node: str, message: dict[str, Any]) -> None:
        self._send(node.encode() + b"\t" + encode([message]) + b"\n")

    def _send(self, line: bytes) -> None:
        self._out += line
        if not self._is_writing:
            self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._out:
                del self._out[: self._sock.send(self._out)]
        loop = asyncio.get_running_loop()
        if bool(self._out) is not self._is_writing:
            self._is_writing = bool(self._out)
            if self._is_writing:
                loop.add_writer(self._sock, self._flush)
            else:
                loop.remove_writer(self._sock)


def main() -> None:
    """Entry point: the socket's descriptor is the only argument; the first line is the errand."""
    logging.basicConfig(format="%(asctime)s %(name)s[%(process)d]: %(message)s", level=logging.INFO)
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.setblocking(True)
    received = b""
    while b"\n" not in received:
        data = sock.recv(_READ_BYTES)
        if not data:
            return
        received += data
    sock.setblocking(False)
    first, _, rest = received.partition(b"\n")
    asyncio.run(Hub(Errand(**json.loads(first)), sock, rest).run())


if __name__ == "__main__":
    main()
