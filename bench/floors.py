"""What this machine can do without any of our code: the floors that goals are ratios to."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import CHECKOUT
from bench.bare_rows import open_rows
from bench.machine import timed_ms
from bench.sizes import sized, sized_sec

# Parsl 2026.10, HTEX, 2 workers, no-op python_app: 900 per second, on a machine where F was 1,732 per second. It keeps
# nothing on disk, and starts nothing for a task.
PARSL_OF_F = 900 / 1732
_ONE = [{"workdir": "x", "parameters": {}}]


def pilot_rate(root: Path, jobs: int = 1500) -> float:
    """F: processes per second of a pilot-shaped spawn loop, two in flight.

    Each with its own directory, output file, session and environment, started with subprocess.Popen.
    """
    base = Path(tempfile.mkdtemp(dir=root))
    env = {**os.environ, "BALSAM_JOB_ID": "0"}
    jobs = sized(jobs)
    running: list[subprocess.Popen[bytes]] = []
    begin = time.perf_counter()
    for number in range(jobs):
        workdir = base / str(number)
        workdir.mkdir()
        with (workdir / "job.out").open("wb") as output:
            running.append(
                subprocess.Popen(
                    ["/bin/true"], cwd=workdir, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    start_new_session=True, env=env,
                )
            )  # fmt: skip
        if len(running) == 2:
            running.pop(0).wait()
    for process in running:
        process.wait()
    return jobs / (time.perf_counter() - begin)


def commit_rate(root: Path, database: str = "", seconds: float = 2.0) -> float:
    """Durable commits per second, each of one row of `bench.bare_rows` with its events, over one connection."""
    with tempfile.TemporaryDirectory(dir=root) as directory, open_rows(Path(directory), database) as rows:
        count, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < sized_sec(seconds):
            count += 1
            rows.insert(_ONE)
        return count / (time.perf_counter() - begin)


class BareService:
    """`bench.bare_service` in a process of its own, with SQLite or the PostgreSQL database at an address."""

    def __init__(self, root: Path, database: str = "") -> None:
        self._place = [tempfile.mkdtemp(dir=root), *([database] if database else [])]
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "BareService":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.bare_service", *self._place],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = json.loads(self._process.stdout.readline())["url"]
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()


def bulk_rate(service: BareService, body: bytes, jobs: int) -> float:
    """Rows per second of a raw bulk POST through the bare service, best of five."""
    import httpx2

    with httpx2.Client(timeout=60, trust_env=False) as client:
        best = min(
            timed_ms(lambda: client.post(f"{service.url}/bulk", content=body).raise_for_status()) for _ in range(5)
        )
    return jobs / best * 1000


def post_ms(service: BareService, times: int = 300) -> float:
    """One small POST with a durable commit over keep-alive, with the HTTP library that the SDK uses; median."""
    import httpx2

    body = json.dumps(_ONE).encode()
    with httpx2.Client(timeout=60, trust_env=False) as client:
        values = sorted(
            timed_ms(lambda: client.post(f"{service.url}/bulk", content=body).raise_for_status())
            for _ in range(sized(times))
        )
    return values[len(values) // 2]


def wake_ms(times: int = 300) -> float:
    """One message between two processes over a TCP connection, there and back, halved; median."""
    script = "import socket,sys\ns=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\n" + (
        "while d:=s.recv(64):\n s.sendall(d)\n"
    )

    async def measure() -> float:
        connected: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.get_running_loop().create_future()
        )
        server = await asyncio.start_server(
            lambda reader, writer: connected.set_result((reader, writer)), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        peer = subprocess.Popen([sys.executable, "-c", script, str(port)])
        reader, writer = await connected
        values = []
        for _ in range(sized(times)):
            begin = time.perf_counter()
            writer.write(b"ping\n")
            await reader.readline()
            values.append((time.perf_counter() - begin) * 500)
        writer.close()
        await writer.wait_closed()
        server.close()
        peer.wait()
        return sorted(values)[len(values) // 2]

    return asyncio.run(measure())
