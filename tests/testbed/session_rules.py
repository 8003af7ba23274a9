"""The rules a test session must keep; `tests/conftest.py` applies them when the session ends.

Each rule returns one text per fault; `report_fault` makes it an error of the session, counted in pytest's last line.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

import psutil
import pytest

MARKER = "BALSAM_TEST_RUN"
GRACE_SEC = 5.0
# Python keeps these for as long as the process that asked for them lives; they end with pytest itself.
PYTHONS_OWN = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def processes_left(run_id: str, *, grace_sec: float = GRACE_SEC) -> list[str]:
    """Name, then kill, the processes that tests of this session started and that are still there after `grace_sec`."""
    deadline = time.monotonic() + grace_sec
    while (left := _started_here(run_id)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if not left:
        return []
    lines = "\n".join(f"  pid {pid}: {command}" for pid, command in sorted(left.items()))
    for pid in left:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
    return [
        f"{len(left)} process(es) that tests started were still running; the test that starts one ends it:\n{lines}"
    ]


def _started_here(run_id: str) -> dict[int, str]:
    """Pids of living processes that carry the marker, or descend from pytest (a fork without exec has no marker)."""
    marker = f"{MARKER}={run_id}".encode()
    me = psutil.Process()
    own = {me.pid, *(parent.pid for parent in me.parents())}
    candidates = {child.pid for child in me.children(recursive=True)}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker in (entry / "environ").read_bytes().split(b"\0"):
                    candidates.add(int(entry.name))
            except OSError:  # gone meanwhile, or another user's
                continue
    found = {}
    for pid in candidates - own:
        try:
            process = psutil.Process(pid)
            command = " ".join(process.cmdline()) or process.name()
            if process.status() != psutil.STATUS_ZOMBIE and not any(name in command for name in PYTHONS_OWN):
                found[pid] = command
        except psutil.NoSuchProcess:
            continue
    return found


def skips_without_reason(skipped: Sequence[pytest.TestReport | pytest.CollectReport], allowed_file: Path) -> list[str]:
    """Name the skipped tests that no line of `allowed_file` allows. A line is `NODE-ID-PATTERN: reason`."""
    allowed = _read_allowed(allowed_file)
    names = sorted({report.nodeid for report in skipped if not any(fnmatchcase(report.nodeid, p) for p in allowed)})
    if not names:
        return []
    listing = "\n".join(f"  {name}" for name in names)
    return [f"CI=true, and these tests were skipped without a line in tests/{allowed_file.name}:\n{listing}"]


def _read_allowed(file: Path) -> list[str]:
    patterns = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            pattern, separator, reason = line.partition(": ")
            if not separator or not reason.strip():
                raise pytest.UsageError(f"{file.name}:{number}: a skip needs a reason: `tests/x.py::test_y: why`")
            patterns.append(pattern.strip())
    return patterns


def report_fault(session: pytest.Session, text: str) -> None:
    """Count `text` as an error of the session: in the summary, in pytest's closing line and in the exit status."""
    report = pytest.TestReport(
        nodeid="end of session",
        location=(os.fspath(Path(__file__).name), None, "end of session"),
        keywords={},
        outcome="failed",
        longrepr=text,
        when="teardown",
    )
    session.config.hook.pytest_runtest_logreport(report=report)
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
