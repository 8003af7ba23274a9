"""A real service in a process of its own, for any test: on a free loopback port, killed, started again, stopped.

service = start_service(home)
with service.client() as client:
    client.get("/api/sites")
service.stop()
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

STOP_SEC = 10.0
SERVICE = ("-m", "balsam.server")


@dataclass
class RunningService:
    """One service process. `token` is the local user's (single-user mode), else empty."""

    home: Path
    url: str
    instance: str
    data_dir: Path
    token: str
    process: subprocess.Popen[str]
    options: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    program: Sequence[str] = SERVICE

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def log(self) -> str:
        """What the service wrote to stderr so far."""
        return (self.home / "service.err").read_text()

    def headers(self, token: str | None = None) -> dict[str, str]:
        found = {"Balsam-Wire": "1"}
        if token or (token is None and self.token):
            found["Authorization"] = f"Bearer {token or self.token}"
        return found

    def client(self, token: str | None = None) -> httpx2.Client:
        """A plain HTTP client with this token (default: the local user's; "" for none)."""
        return httpx2.Client(base_url=self.url, headers=self.headers(token), timeout=30, trust_env=False)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(STOP_SEC)

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Stop in order; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(STOP_SEC)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"the service was still there {STOP_SEC} s after {sig.name}; its log:\n{self.log}"
            ) from None

    def restart(self) -> RunningService:
        """The same service again, on the same port, after `kill` or `stop`."""
        return start_service(self.home, port=self.port, options=self.options, env=self.env, program=self.program)


def start_service(
    home: Path,
    *,
    port: int = 0,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = SERVICE,
) -> RunningService:
    """Start `python -m balsam.server`, or another program that runs one, with its state in `home`; it answers then."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [sys.executable, *program, "--json", "--port", str(port), *options]
    environment = {**os.environ, "BALSAM_HOME": str(home), **(env or {})}
    with (home / "service.err").open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    try:
        ready = _ready_line(process, home)
        service_file = home / "service.json"
        token = json.loads(service_file.read_text())["token"] if service_file.exists() else ""
    except BaseException:
        process.kill()
        process.wait()
        raise
    return RunningService(
        home=home,
        url=ready["url"],
        instance=ready["instance"],
        data_dir=Path(ready["data_dir"]),
        token=token,
        process=process,
        options=options,
        env=env or {},
        program=program,
    )


def _ready_line(process: subprocess.Popen[str], home: Path) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()  # pytest-timeout ends a start that hangs
    process.stdout.close()
    if not line:
        status = process.wait(STOP_SEC)
        raise RuntimeError(f"the service did not start (status {status}):\n{(home / 'service.err').read_text()}")
    found: dict[str, Any] = json.loads(line)
    return found


@contextmanager
def running_service(
    home: Path,
    *,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = SERVICE,
) -> Iterator[RunningService]:
    """A service for the length of a block; stopped in order, or killed when it does not stop."""
    service = start_service(home, options=options, env=env, program=program)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.stop()
