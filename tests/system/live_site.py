"""A running `balsam up` with a home of its own, and scripts run against it as a user would run them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

BALSAM = Path(sys.prefix) / "bin" / "balsam"
READY_SEC = 60.0
STOP_SEC = 60.0
# Where the command lines of the parts differ; a part is a descendant of `balsam up` or runs for its home.
PARTS = {
    "service": "balsam.server",
    "agent": "balsam.site",
    "guardian": "launcher/guardian.py",
    "launcher": "balsam.launcher.entry",
    "courier": "balsam.launcher.courier",
}


@dataclass
class LiveSite:
    """`balsam up` for `home`; start() and stop() may be called in turn."""

    home: Path
    ready: dict[str, Any] = field(default_factory=dict)
    up: subprocess.Popen[str] | None = None

    @property
    def name(self) -> str:
        return str(self.ready["site"]["name"])

    @property
    def id(self) -> int:
        return int(self.ready["site"]["id"])

    @property
    def path(self) -> Path:
        return Path(self.ready["site"]["path"])

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "BALSAM_HOME": str(self.home)}

    def start(self) -> None:
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.home / "up.stderr").open("a") as log:
            self.up = subprocess.Popen(
                [str(BALSAM), "up", "--json", "--port", "0"],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self.up.stdout is not None
        readable, _, _ = select.select([self.up.stdout], [], [], READY_SEC)
        line = self.up.stdout.readline() if readable else ""
        if not line:
            self.stop()
            raise AssertionError(f"balsam up said nothing: {(self.home / 'up.stderr').read_text()[-2000:]}")
        self.ready = json.loads(line)

    def stop(self) -> int:
        """SIGTERM and the exit status; fails when it takes too long."""
        assert self.up is not None
        if self.up.poll() is None:
            self.up.send_signal(signal.SIGTERM)
        try:
            return self.up.wait(STOP_SEC)
        except subprocess.TimeoutExpired:
            self.up.kill()
            self.up.wait()
            raise

    def change_settings(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Edit settings.yml; takes effect when `balsam up` starts again."""
        path = self.path / "settings.yml"
        settings = yaml.safe_load(path.read_text()) or {}
        change(settings)
        path.write_text(yaml.safe_dump(settings))

    def begin(
        self,
        code: str,
        name: str = "script.py",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a Python script of a user; `environment` is added to its own."""
        directory = self.home / "scripts"
        directory.mkdir(exist_ok=True)
        path = directory / name
        path.write_text(textwrap.dedent(code))
        return subprocess.Popen(
            [sys.executable, "-X", "faulthandler", str(path), *arguments],
            env={**self.environment, **(environment or {})},
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, code: str, timeout: float = 90, name: str = "script.py", arguments: Sequence[str] = ()) -> str:
        """Run a script to its end; its stdout. Fails with everything it said unless it exits with 0."""
        return finished(self.begin(code, name, arguments), timeout)

    def pids(self, part: str) -> list[int]:
        """Processes of a part (see PARTS) that belong to this home."""
        mark = f"BALSAM_HOME={self.home}".encode()
        found = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            if PARTS[part] not in " ".join(process.info["cmdline"] or []):
                continue
            try:
                environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if mark in environment or str(self.home) in " ".join(process.info["cmdline"]):
                found.append(process.pid)
        return found

    def kill(self, part: str) -> int:
        """SIGKILL one process of a part; its pid."""
        pid: int = eventually(lambda: self.pids(part), f"no {part} is running")[0]
        os.kill(pid, signal.SIGKILL)
        return pid


def finished(process: subprocess.Popen[str], timeout: float) -> str:
    """The stdout of a script that ends well within `timeout` seconds."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler prints where it hangs
        try:
            out, err = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        raise AssertionError(f"script did not end within {timeout} s\n{out}\n{err}") from None
    assert process.returncode == 0, f"exit status {process.returncode}\n{out}\n{err}"
    return out


def eventually(look: Callable[[], Any], what: str, timeout: float = 30) -> Any:
    """What `look` returns once it is true."""
    deadline = time.monotonic() + timeout
    while not (answer := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} (after {timeout} s)")
        time.sleep(0.02)
    return answer


@contextmanager
def live_site(home: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Iterator[LiveSite]:
    """A running site; with `change`, its settings are edited between two starts."""
    site = LiveSite(home)
    site.start()
    try:
        if change is not None:
            assert site.stop() == 0
            site.change_settings(change)
            site.start()
        yield site
    finally:
        status = site.stop()
    assert status == 0, (home / "up.stderr").read_text()[-2000:]
