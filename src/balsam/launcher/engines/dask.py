"""The launcher's way to the processes on its other nodes, on Dask.distributed: membership, TLS, transport, loss.

`NodeServer` runs in the hub, one `NodeClient` on each node; what they carry for the launcher are bytes. Nothing of
Dask's task graph is used: no client, no task, no nanny. Imported by `hub.py` and `node_process.py` only, and only where
a launcher in serial mode has several nodes. The streams that this leans on are no plug-in API that Dask advertises:
`tests/launcher/test_dask_engine.py` tries them with each release that `pyproject.toml` lets in.
"""

import asyncio
import logging
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask.config

from balsam.launcher.node_keys import NodeKeys

SETTINGS: dict[str, Any] = {
    # No HTTP: what remains of it listens on the loopback and answers nothing.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # Nothing is Dask's to decide: not where anything runs, not when a node is lost, not what memory may be used.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.active-memory-manager.start": False,
    # Longer than any lease of a node.
    "distributed.scheduler.worker-ttl": "300s",
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    # It would look at its own loop fifty times a second, and twice at its process: beside the programs of Jobs.
    "distributed.admin.system-monitor.interval": "60s",
    "distributed.admin.tick.interval": "60s",
    "distributed.admin.tick.cycle": "60s",
    "distributed.admin.tick.limit": "1h",
    "distributed.comm.timeouts.tcp": "30s",
    "distributed.comm.timeouts.connect": "10s",
    "distributed.comm.compression": None,
    # A thread would make the start of every Job slower.
    "distributed.comm.offload": False,
}
# The user's own configuration of Dask is for her programs, and some of it is read when the library is imported.
dask.config.refresh(paths=[], env={})
dask.config.set(SETTINGS)

from distributed import Scheduler, Security, Worker  # noqa: E402
from distributed.diagnostics.plugin import SchedulerPlugin  # noqa: E402

_OP = "balsam"
_NO_PORT = "127.0.0.1:0"
HELLO_SEC = 30.0
GOODBYE_SEC = 2.0

logging.getLogger("distributed").setLevel(logging.WARNING)
# That its directory is gone when it ends is as it should be.
logging.getLogger("distributed.diskutils").setLevel(logging.CRITICAL)


def security_of(keys: NodeKeys) -> Security:
    """TLS with the allocation's own keys on both sides, and nothing without it."""
    # Given as texts they would be written to a disk for a moment.
    certificate, key = _memory_path(keys.certificate), _memory_path(keys.key)
    both = {f"tls_{role}_cert": certificate for role in ("scheduler", "worker", "client")}
    both |= {f"tls_{role}_key": key for role in ("scheduler", "worker", "client")}
    make: Callable[..., Security] = Security
    return make(require_encryption=True, tls_ca_file=certificate, **both)


def _memory_path(text: str) -> str:
    """A path by which this process alone reads the text, for as long as it lives."""
    fd = os.memfd_create("balsam-keys", os.MFD_CLOEXEC)
    os.write(fd, text.encode())
    return f"/proc/self/fd/{fd}"


def address_towards(host: str, port: int = 9) -> str:
    """This machine's address on its way to a host; nothing is sent. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, port))
        address: str = sock.getsockname()[0]
        return address


class _Membership(SchedulerPlugin):
    """Tells who comes and who is gone."""

    name = "balsam"

    def __init__(self, came: Callable[[str], None], went: Callable[[str], None]) -> None:
        self._came, self._went = came, went

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self._came(worker)

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        self._went(worker)


class NodeServer:
    """The launcher's end. Nodes are known by their index in the partition; `on_up`, `on_down` and `on_data` get it."""

    def __init__(
        self, on_up: Callable[[int], None], on_down: Callable[[int], None], on_data: Callable[[int, bytes], None]
    ) -> None:
        self._on_up, self._on_down, self._on_data = on_up, on_down, on_data
        self._address_of: dict[int, str] = {}
        self._node_at: dict[str, int] = {}
        self._scheduler: Any = None

    async def open(self, host: str, keys: NodeKeys) -> str:
        """Listen; returns the address for the nodes."""
        scratch = tempfile.mkdtemp(prefix="balsam-hub-")
        try:
            with dask.config.set({"temporary-directory": scratch}):
                self._scheduler = Scheduler(
                    host=host, port=0, protocol="tls", security=security_of(keys), dashboard=False,
                    dashboard_address=_NO_PORT, plugins=[_Membership(self._came, self._went)],
                )  # fmt: skip
            self._scheduler.stream_handlers[_OP] = self._said
            await self._scheduler
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        address: str = self._scheduler.address
        return address

    def send(self, node: int, data: bytes) -> None:
        """Bytes for a node; for one that is not there they are dropped."""
        address = self._address_of.get(node)
        if address is not None:
            self._scheduler.worker_send(address, {"op": _OP, "data": data})

    async def close(self) -> None:
        """Wait a moment for nodes that were told to end, then leave the others."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SEC):
                while self._address_of:
                    await asyncio.sleep(0.01)
        await self._scheduler.close()

    def _came(self, address: str) -> None:
        node = int(self._scheduler.workers[address].name.partition(":")[0])
        # One node has one process: an earlier one whose end was not noticed yet is gone.
        if node in self._address_of:
            self._leave(node, self._address_of[node])
        self._address_of[node], self._node_at[address] = address, node
        self._on_up(node)

    def _went(self, address: str) -> None:
        node = self._node_at.get(address)
        if node is not None:
            self._leave(node, address)

    def _leave(self, node: int, address: str) -> None:
        del self._node_at[address], self._address_of[node]
        self._on_down(node)

    def _said(self, worker: str, data: bytes) -> None:
        node = self._node_at.get(worker)
        if node is not None:
            self._on_data(node, data)


class NodeClient:
    """A node's end."""

    def __init__(self, node: int, on_data: Callable[[bytes], None]) -> None:
        self._node, self._on_data = node, on_data
        self._worker: Any = None

    async def open(self, server: str, keys: NodeKeys) -> None:
        """Register with the launcher. Raises TimeoutError, OSError."""
        host, _, port = server.removeprefix("tls://").rpartition(":")
        scratch = tempfile.mkdtemp(prefix="balsam-node-")
        try:
            with dask.config.set({"temporary-directory": scratch}):
                self._worker = Worker(
                    server, name=f"{self._node}:{uuid.uuid4().hex}", nthreads=1, memory_limit=0, nanny=None,
                    host=address_towards(host, int(port)), protocol="tls", security=security_of(keys),
                    dashboard=False, dashboard_address=_NO_PORT, local_directory=str(Path(scratch) / "worker"),
                )  # fmt: skip
                self._worker.stream_handlers[_OP] = self._said
                await asyncio.wait_for(self._worker, HELLO_SEC)
        finally:
            # Nothing is ever kept in there, and what ends by SIGKILL leaves nothing either.
            shutil.rmtree(scratch, ignore_errors=True)

    def send(self, data: bytes) -> None:
        """Bytes for the launcher."""
        self._worker.batched_stream.send({"op": _OP, "data": data})

    async def over(self) -> None:
        """Wait until the launcher can't be reached any more."""
        await self._worker.finished()

    async def close(self) -> None:
        """Deliver what was sent, and leave."""
        await self._worker.close(nanny=False)

    def _said(self, data: bytes) -> None:
        self._on_data(data)
