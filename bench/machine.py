"""The machine under the measurement: is anybody else using it, and what do processes cost."""

import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.sizes import sized, sized_sec

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def busy_cores(seconds: float) -> float:
    """Cores that the whole machine used during the next `seconds`."""

    def busy() -> float:
        fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return (sum(fields[:8]) - fields[3] - fields[4]) / _TICKS

    begin, started = busy(), time.monotonic()
    time.sleep(seconds)
    return (busy() - begin) / (time.monotonic() - started)


def wait_for_quiet(limit: float = 0.15, patience_sec: float = 20.0) -> float:
    """Wait until nobody else uses the machine; returns the load that was left, so that a report can say it."""
    deadline = time.monotonic() + sized_sec(patience_sec)
    while (load := busy_cores(sized_sec(0.5))) > limit and time.monotonic() < deadline:
        time.sleep(sized_sec(0.5))
    return load


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(word) for word in fields[11:15]) / _TICKS


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1e6


def processes(marker: str) -> dict[int, str]:
    """Processes with `marker` in their environment, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if marker.encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return found


def median_ms(call: Callable[[], object], times: int) -> float:
    """Median of single calls, in milliseconds."""
    return statistics.median(timed_ms(call) for _ in range(sized(times)))


def timed_ms(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1000


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
