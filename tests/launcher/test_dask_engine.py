"""What the launcher leans on of Dask.distributed, tried with the release that is installed; and who is let in."""

import asyncio
import datetime
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from cryptography import x509

from balsam.launcher.node_keys import NodeKeys, make_node_keys

dask = pytest.importorskip("balsam.launcher.engines.dask", reason="needs the extra `dask`", exc_type=ImportError)
distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)


def keys() -> NodeKeys:
    return make_node_keys(datetime.datetime.now(datetime.UTC), 600.0)


class Bed:
    """A server on the loopback and what it tells."""

    def __init__(self) -> None:
        self.keys = keys()
        self.ups: list[int] = []
        self.downs: list[int] = []
        self.data: list[tuple[int, bytes]] = []
        self.server = dask.NodeServer(self.ups.append, self.downs.append, lambda *said: self.data.append(said))
        self.address = ""

    async def client(self, node: int, got: list[bytes], with_keys: NodeKeys | None = None) -> dask.NodeClient:
        client = dask.NodeClient(node, got.append)
        await client.open(self.address, with_keys or self.keys)
        return client


def on_a_bed(test: Callable[[Bed], Awaitable[None]]) -> None:
    async def whole() -> None:
        bed = Bed()
        bed.address = await bed.server.open("127.0.0.1", bed.keys)
        try:
            await test(bed)
        finally:
            await bed.server.close()

    asyncio.run(asyncio.wait_for(whole(), 60))


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


def test_bytes_both_ways_and_who_is_there() -> None:
    threads = set(threading.enumerate())  # of other tests

    async def test(bed: Bed) -> None:
        first: list[bytes] = []
        second: list[bytes] = []
        one, two = await bed.client(0, first), await bed.client(1, second)
        assert set(threading.enumerate()) <= threads, "a second thread makes each start of a process slower"
        for number in range(1000):
            bed.server.send(1, b"%d" % number)
            one.send(b"\xff%d" % number)
        bed.server.send(5, b"nobody is there")
        bed.server.send(0, b"x" * 3_000_000)
        await until(lambda: len(second) == 1000 and len(bed.data) == 1000 and first)
        assert second == [b"%d" % number for number in range(1000)], "in order, nothing twice"
        assert bed.data == [(0, b"\xff%d" % number) for number in range(1000)]
        assert first == [b"x" * 3_000_000] and bed.ups == [0, 1] and bed.downs == []
        await one.close()
        await until(lambda: bed.downs == [0])
        await two.close()

    on_a_bed(test)


def test_a_node_that_comes_again_before_its_end_was_noticed() -> None:
    async def test(bed: Bed) -> None:
        got: list[bytes] = []
        old = await bed.client(3, [])
        new = await bed.client(3, got)
        assert (bed.ups, bed.downs) == ([3, 3], [3])
        old.send(b"late")
        bed.server.send(3, b"for the new one")
        new.send(b"here")
        await until(lambda: bed.data and got)
        await old.close()
        assert bed.data == [(3, b"here")] and bed.downs == [3]
        await new.close()

    on_a_bed(test)


def test_the_end_of_the_server_ends_the_clients() -> None:
    async def test(bed: Bed) -> None:
        client = await bed.client(0, [])
        over = asyncio.create_task(client.over())
        await bed.server.close()
        await asyncio.wait_for(over, 20)

    on_a_bed(test)


def test_nothing_listens_elsewhere_and_no_thread_of_dask_decides() -> None:
    async def test(bed: Bed) -> None:
        client = await bed.client(0, [])
        mine = psutil.Process().net_connections("tcp")
        assert {each.laddr.ip for each in mine if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
        scheduler = bed.server._scheduler
        assert "stealing" not in scheduler.extensions and scheduler.allowed_failures == 0
        assert scheduler.worker_ttl == 300.0, "longer than a node's lease"
        assert scheduler.security.require_encryption and client._worker.security.require_encryption
        assert client._worker.memory_manager.memory_limit is None
        reader, writer = await asyncio.open_connection("127.0.0.1", scheduler.http_server.port)
        writer.write(b"GET /info/main/workers.html HTTP/1.0\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 404")
        writer.close()
        await client.close()

    on_a_bed(test)


def test_nothing_of_dask_wakes_an_idle_node_all_the_time() -> None:
    async def test(bed: Bed) -> None:
        client = await bed.client(0, [])
        for server in (bed.server._scheduler, client._worker):
            often = {name: each.callback_time for name, each in server.periodic_callbacks.items()}
            assert {name: ms for name, ms in often.items() if ms < 250} == {}
        await client.close()

    on_a_bed(test)


def _greets(address: str, context: ssl.SSLContext | None) -> bytes:
    """What Dask sends first to whom it speaks with."""
    host, _, port = address.removeprefix("tls://").rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=10) as plain:
        sock = plain if context is None else context.wrap_socket(plain)
        return sock.recv(100)
    return b""


def test_outsiders_are_refused() -> None:
    """In the clear, with TLS without a key, with another allocation's keys; at the server's door and at a node's."""

    async def test(bed: Bed) -> None:
        client = await bed.client(0, [])
        nothing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        nothing.check_hostname, nothing.verify_mode = False, ssl.CERT_NONE
        security = dask.security_of(keys())
        foreign = security.get_connection_args("client")["ssl_context"]
        foreign.verify_mode = ssl.CERT_NONE
        own = dask.security_of(bed.keys).get_connection_args("client")["ssl_context"]
        for address in (bed.address, client._worker.address):
            for context in (None, nothing, foreign):
                assert await asyncio.to_thread(_greets, address, context) == b""
            assert await asyncio.to_thread(_greets, address, own) != b"", "the test would see it if it were let in"
        with pytest.raises((OSError, TimeoutError)):
            await distributed.comm.connect(bed.address.replace("tls", "tcp"), timeout=1)
        assert bed.ups == [0]
        await client.close()

    on_a_bed(test)


def test_keys_hold_around_the_allocation() -> None:
    """On nodes whose clocks are wrong too; not for a year."""
    certificate = x509.load_pem_x509_certificate(make_node_keys(NOW, 3600.0).certificate.encode())
    day = datetime.timedelta(days=1)
    assert certificate.not_valid_before_utc == NOW - day
    assert certificate.not_valid_after_utc == NOW + datetime.timedelta(hours=1) + day


def test_the_users_own_configuration_of_dask_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("distributed:\n  scheduler:\n    allowed-failures: 7\n")
    code = (
        "from balsam.launcher.engines import dask as ours; import dask, os; from distributed.comm import utils\n"
        "assert all(dask.config.get(name) == value for name, value in ours.SETTINGS.items())\n"
        "assert dask.config.get('distributed.scheduler.allowed-failures') == 0\n"
        "assert utils.OFFLOAD_THRESHOLD is False and os.environ['DASK_X'] == 'hers'\n"
    )
    env = {**os.environ, "DASK_CONFIG": str(tmp_path), "DASK_X": "hers", "DASK_DISTRIBUTED__COMM__OFFLOAD": "5MiB"}
    subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, check=True, timeout=60)
