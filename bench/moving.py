"""Files through `client:`: a large one each way beside curl from a static file, memory meanwhile, many small ones.

The floor of the large file is curl reading a file of the same size from Starlette under uvicorn, as the service itself
could serve it. Of the small ones it is the same Jobs without transfers.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench.product import Product
from bench.result import Goal
from bench.sizes import sized

LARGE_BYTES = 10**9
SMALL_BYTES = 2000
SMALL_JOBS = 1000
MAX_MEMORY_MB = 64
_STATIC = """
import socket, sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route

async def content(request):
    return FileResponse(sys.argv[1])

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
server = uvicorn.Server(uvicorn.Config(Starlette(routes=[Route("/", content)]), log_level="error"))
server.run([listener])
"""


def measure(product: Product, root: Path) -> list[Goal]:
    """Files are made where the benchmark stands."""
    return [*_large(product, root), _small(product, root)]


def _large(product: Product, root: Path) -> list[Goal]:
    given, taken, size = root / "given", root / "taken", sized(LARGE_BYTES)
    _fill(given, size)
    floor = _curl_rate(given)
    app = _app(product, "ln in.dat out.dat", input="in.dat", result="out.dat")
    with _growth(product, "balsam.server") as service, _growth(product, "balsam.site") as agent:
        own_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.perf_counter()
        job = app.submit("moving/large", transfers={"input": f"client:{given}", "result": f"client:{taken}"})
        sent_sec = time.perf_counter() - begin
        product.allocation()  # not before: a launcher without work ends after a minute
        _until(lambda: job.poll_state() == "JOB_FINISHED")
        begin = time.perf_counter()
        job.result(timeout=600)
        taken_sec = time.perf_counter() - begin
        own = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - own_before) / 1024
    assert taken.stat().st_size == size
    up, down = size / sent_sec, size / taken_sec
    memory = max(own, service[0], agent[0])
    told = f"client {own:.0f}, service {service[0]:.0f}, agent {agent[0]:.0f}"
    return [
        Goal("G-files", f"{size / 1e9:g} GB to the service", up / floor, "x curl", 0.5, 0.8, False, _rates(up, floor)),
        Goal("G-files", f"{size / 1e9:g} GB home", down / floor, "x curl", 0.5, 0.8, False, _rates(down, floor)),
        Goal("G-files", "memory grown by it, at most", memory, "MB", MAX_MEMORY_MB, MAX_MEMORY_MB / 2, True, told),
    ]


def _small(product: Product, root: Path) -> Goal:
    """The same Jobs twice, with and without a result that comes home."""
    from balsam.api import Job

    command = f"head -c {SMALL_BYTES} /dev/zero > out.dat"
    plain, sending = _app(product, command), _app(product, command, result="out.dat")
    elapsed, count = [], sized(SMALL_JOBS)
    product.allocation()
    for name, app in (("plain", plain), ("sending", sending)):
        jobs = [
            app.submit(
                f"moving/{name}/{n}", node_packing_count=16, save=False, transfers=_home(root, n, app is sending)
            )
            for n in range(count)
        ]
        begin = time.perf_counter()
        Job.objects.wait(Job.objects.bulk_create(jobs), timeout=600)
        elapsed.append(time.perf_counter() - begin)
    assert sum(path.stat().st_size for path in (root / "small").iterdir()) == count * SMALL_BYTES
    added = (elapsed[1] - elapsed[0]) / count * 1000
    note = f"{elapsed[1]:.1f} s, without transfers {elapsed[0]:.1f} s"
    return Goal("G-files", f"2 kB home from {count:,} Jobs, each", added, "ms", 5, 2, True, note)


def _home(root: Path, number: int, is_sending: bool) -> dict[str, str]:
    return {"result": f"client:{root}/small/{number}"} if is_sending else {}


def _app(product: Product, command: str, **slots: str) -> Any:
    from balsam.api import ApplicationDefinition

    directions = {"input": "in", "result": "out"}
    transfers = {
        slot: {"required": True, "direction": directions[slot], "local_path": path} for slot, path in slots.items()
    }
    attributes = {"site": product.site["name"], "command_template": command, "transfers": transfers}
    return type(f"Moving{len(slots)}", (ApplicationDefinition,), attributes)


def _fill(path: Path, size: int) -> None:
    block = os.urandom(1_000_000)
    with path.open("wb") as file:
        for number in range(size // len(block)):
            file.write(number.to_bytes(8, "big") + block[8:])


def _curl_rate(path: Path) -> float:
    """Bytes per second of curl to a file, the better of two."""
    serving = subprocess.Popen([sys.executable, "-c", _STATIC, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert serving.stdout is not None
        url = f"http://127.0.0.1:{int(serving.stdout.readline())}/"
        best = 0.0
        for _ in range(2):
            target = path.with_name("curl")
            begin = time.perf_counter()
            subprocess.run(["curl", "-sf", "--retry", "20", "--retry-connrefused", "-o", target, url], check=True)
            best = max(best, path.stat().st_size / (time.perf_counter() - begin))
            target.unlink()
        return best
    finally:
        serving.terminate()
        serving.wait()


def _rates(value: float, floor: float) -> str:
    return f"{value / 1e6:,.0f} MB/s; curl {floor / 1e6:,.0f} MB/s"


@contextmanager
def _growth(product: Product, module: str) -> Iterator[list[float]]:
    """By how many MB the highest memory of a process of the product grew during the block."""
    (process,) = [
        one
        for one in psutil.process_iter(["cmdline"])
        if module in (one.info["cmdline"] or []) and product.marker in _environment(one)
    ]
    before, found = _peak_kb(process.pid), [0.0]
    yield found
    found[0] = (_peak_kb(process.pid) - before) / 1024


def _environment(process: psutil.Process) -> str:
    return f"BALSAM_BENCH_RUN={process.environ().get('BALSAM_BENCH_RUN', '')}"


def _peak_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def _until(look: Any) -> None:
    deadline = time.monotonic() + 600
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)
