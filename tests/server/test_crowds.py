"""Many at once: ten thousand idle streams, a thousand agents that come back together. What it costs is told."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.server.world import make_site, ok
from tests.services import RunningService, running_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STREAMS, AGENTS = 10_000, 1_000
AT_ONCE = 200  # connections that a test opens at a time: the machine's backlog is not what is looked at


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[RunningService]:
    """A service that lets one user hold many streams; this process may have as many files open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = STREAMS + 1_000
    if before[1] != resource.RLIM_INFINITY and before[1] < wanted:
        pytest.skip(f"this machine lets a process have {before[1]} files open, {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], wanted), before[1]))
    try:
        with running_service(tmp_path / "home", options=["--streams-per-user", str(STREAMS)]) as service:
            yield service
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def request(method: str, path: str, token: str, body: bytes = b"") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", "Balsam-Wire: 1")
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def greeted(port: int, path: str, token: str, turn: asyncio.Semaphore) -> Stream:
    """A stream that said hello; it is open until its writer is closed."""
    async with turn:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("GET", path, token))
        found = b""
        while b"event: hello" not in found:
            piece = await reader.read(4096)
            assert piece, found
            found += piece
        assert b" 200 " in found, found
        return reader, writer


def test_ten_thousand_idle_streams_do_not_slow_a_call_down(
    crowded: RunningService, figure: Callable[[str], None]
) -> None:
    process = psutil.Process(crowded.pid)
    before = process.memory_info().rss

    async def look() -> tuple[float, float]:
        turn = asyncio.Semaphore(AT_ONCE)
        asks = (greeted(crowded.port, "/api/jobs/stream", crowded.token, turn) for _ in range(STREAMS))
        streams = await asyncio.gather(*asks)
        took = [await asyncio.to_thread(call_sec, crowded) for _ in range(20)]
        spent = process.cpu_times().user
        await asyncio.sleep(5)
        idle = (process.cpu_times().user - spent) / 5
        for _, writer in streams:
            writer.close()
        return sorted(took)[10], idle

    median_sec, idle = asyncio.run(look())
    grown = (process.memory_info().rss - before) / STREAMS
    figure(f"{STREAMS} streams: {grown / 1024:.1f} KiB each, {idle:.0%} of a core, a call {median_sec * 1000:.1f} ms")
    assert grown < 100 * 1024
    assert median_sec < 1
    assert crowded.stop() == 0


def call_sec(service: RunningService) -> float:
    with service.client() as client:
        begun = time.monotonic()
        ok(client.get("/api/jobs?limit=1"))
        return time.monotonic() - begun


def test_a_thousand_agents_come_back_at_once(crowded: RunningService, figure: Callable[[str], None]) -> None:
    with crowded.client() as client:
        sites = [make_site(client) for _ in range(AGENTS)]

    def stream(site: dict[str, Any], turn: asyncio.Semaphore) -> Coroutine[Any, Any, Stream]:
        return greeted(crowded.port, f"/api/sites/{site['site']['id']}/stream", site["token"]["token"], turn)

    async def renew(site: dict[str, Any]) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", crowded.port)
        body = b'{"instance": "i", "hostname": "h", "pid": 1}'
        writer.write(request("POST", f"/api/sites/{site['site']['id']}/agent", site["token"]["token"], body))
        status = await reader.readline()
        writer.close()
        return status

    async def come_back(site: dict[str, Any], held: Stream) -> bytes:
        """As an agent does whose stream broke off, but without a pause that grows: this is the worst of it."""
        with suppress(ConnectionError):
            while await held[0].read(4096):
                pass
        held[1].close()
        while True:
            try:
                status = await renew(site)
                (await stream(site, asyncio.Semaphore()))[1].close()
            except OSError:  # nobody listens yet
                await asyncio.sleep(0.05)
            else:
                return status

    async def all_come(restarted: list[RunningService]) -> tuple[list[bytes], float]:
        turn = asyncio.Semaphore(AT_ONCE)
        held = await asyncio.gather(*(stream(site, turn) for site in sites))
        back = asyncio.gather(*map(come_back, sites, held))
        crowded.kill()
        restarted.append(await asyncio.to_thread(crowded.restart))
        begun = time.monotonic()
        return await back, time.monotonic() - begun

    restarted: list[RunningService] = []
    try:
        answers, took = asyncio.run(all_come(restarted))
        assert {answer.split()[1] for answer in answers} == {b"200"}
        assert restarted[0].log.count("Traceback") == 0
    finally:
        for service in restarted:
            service.stop()
    figure(f"{AGENTS} agents back {took:.1f} s after the service was, which had been killed")
