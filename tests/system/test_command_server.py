"""`balsam server deploy`, `up --background` and `down`: a service without a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from balsam.platform.processes import look
from tests.system.live_site import BALSAM

pytestmark = pytest.mark.slow


@dataclass
class Machine:
    """A home of its own."""

    home: Path

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "BALSAM_HOME": str(self.home), "BALSAM_RETRY_FOR_SEC": "0"}
        command = [str(BALSAM), *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)

    def __call__(self, *words: object, code: int = 0) -> Any:
        """The JSON value of a command that must end with this exit code."""
        done = self.run(*words, "--json")
        assert done.returncode == code, f"{words} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "home")
    yield made
    for path in (tmp_path / "service", made.home / "service"):
        if path.is_dir():
            made("server", "down", "-p", path)


def test_a_service_is_deployed_used_stopped_and_started_again(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "service"
    made = machine("server", "deploy", "-p", path, "--port", 0)
    assert path.stat().st_mode & 0o777 == 0o700
    assert os.getsid(made["pid"]) == made["pid"]
    assert machine("app", "ls") == []
    assert "already" in machine("server", "up", "--background", "-p", path, code=1)["error"]["message"]
    assert machine("server", "restart", "-p", path) == made
    assert machine("server", "down", "-p", path) == {"stopped": True, "data_dir": str(path)}
    assert look(made["pid"]) is None
    assert machine("server", "down", "-p", path)["stopped"] is False
    assert "is not empty" in machine("server", "deploy", "-p", path, code=1)["error"]["message"]

    port = made["url"].rpartition(":")[2]
    again = machine("server", "up", "--background", "--path", path, "--port", port, "--no-log")
    assert again["url"] == made["url"] and again["pid"] != made["pid"]
    assert f"listening on {again['url']}" in (path / "service.log").read_text()


def test_what_can_not_start_leaves_nothing(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "service"
    refused = machine("server", "deploy", "-p", path, "--host", "0.0.0.0", code=1)
    assert "refusing to send tokens in clear" in refused["error"]["message"] and not path.exists()
    path.mkdir(mode=0o700)
    machine("server", "deploy", "-p", path, "--tls-cert", "none.pem", code=1)
    assert list(path.iterdir()) == []
    machine.home.mkdir(mode=0o755)
    (machine.home / "service").mkdir(mode=0o755)
    (machine.home / "service").chmod(0o755)
    assert "chmod 700" in machine("server", "up", "--background", code=1)["error"]["message"]
    (machine.home / "service").chmod(0o700)
    assert "no service runs" in machine("server", "restart", "-p", path, code=1)["error"]["message"]
    assert "no service in" in machine("server", "down", "-p", tmp_path / "nowhere", code=1)["error"]["message"]


def test_a_later_process_with_its_number_is_not_stopped(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "service"
    made = machine("server", "deploy", "-p", path, "--port", 0)
    os.kill(made["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while look(made["pid"]) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    record = json.loads((path / "background.json").read_text())
    with subprocess.Popen(["sleep", "60"]) as innocent:
        (path / "background.json").write_text(json.dumps({**record, "pid": innocent.pid}))
        assert machine("server", "down", "-p", path)["stopped"] is False
        assert innocent.poll() is None
        innocent.kill()
    for text in ("[]", '{"url": 3}', "{"):
        (path / "background.json").write_text(text)
        assert "can't be understood" in machine("server", "down", "-p", path, code=1)["error"]["message"]
    (path / "background.json").unlink()
