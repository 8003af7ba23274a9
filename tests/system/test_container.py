"""The image's own command as a container runtime runs it: process 1 of its process ids, ended by the STOPSIGNAL.

Process 1 is special: a signal that it does not handle is thrown away. It has a network, process ids and a /proc of its
own; program and Python are those of this environment: there is no image here to take files and user from.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.server.world import PASSWORD, ok
from tests.system.live_site import eventually
from tests.testbed.own_network import own_network
from tests.testbed.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FILE = (Path(__file__).parents[2] / "packaging" / "container" / "Containerfile").read_text().replace("\\\n", "")
GRACE_SEC = 10.0  # what docker and podman give a container before they kill it
URL = "http://127.0.0.1:8124"
PYTHON_DIR = Path(sys.executable).parent


def said(instruction: str) -> str:
    """The image's last word on something."""
    return str(re.findall(rf"^{instruction} (.*)$", FILE, re.MULTILINE)[-1])


def words(instruction: str) -> list[str]:
    found: list[str] = json.loads(said(instruction)[said(instruction).index("[") :])
    return found


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of the image, with its directories in their places here."""
    given = dict(word.split("=", 1) for word in shlex.split(said("ENV")))
    given |= {"BALSAM_HOME": str(home), "PATH": f"{PYTHON_DIR}:/usr/sbin:/usr/bin:/sbin:/bin"}
    mine = {name: value for name, value in os.environ.items() if name.startswith("BALSAM_TEST")}
    return {**mine, **given, **more}


@contextmanager
def container(home: Path, options: list[str], env: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`podman run IMAGE OPTIONS`: whoever waits for it, and its process 1 as it is known outside."""
    home.mkdir(mode=0o700)
    unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    with (home.parent / "log").open("w") as log:
        process = subprocess.Popen([*unshare, *words("ENTRYPOINT"), *options], stderr=log, text=True, env=dict(env))
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        yield process, int(eventually(lambda: children.read_text().split(), "no process 1", 10)[0])
    finally:
        process.kill()
        process.wait()


def readiness(env: Mapping[str, str]) -> int:
    """What the image's own check finds."""
    return subprocess.run(words("HEALTHCHECK"), env=dict(env), capture_output=True, timeout=20).returncode


def hear(lines: Iterator[str]) -> None:
    """Read a stream up to its first event."""
    assert any(line == "event: hello" for line in lines)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_container_ends_in_time_when_its_runtime_says_so(
    workers: int, tmp_path: Path, postgres: PostgresServer, figure: Callable[[str], None]
) -> None:
    with own_network(), postgres.database() as name:
        several = {"BALSAM_DATABASE": postgres.url(name)} if workers > 1 else {}
        env, log = environment(tmp_path / "home", **several), tmp_path / "log"
        assert readiness(env) == 1, "nothing runs, and the check is content"
        options = ["--workers", str(workers)] if workers > 1 else []
        with container(tmp_path / "home", options, env) as (process, first):
            assert Path(f"/proc/{first}/status").read_text().count("NSpid:\t") == 1
            eventually(lambda: process.poll() is not None or readiness(env) == 0, "not ready", 60)
            assert process.poll() is None, log.read_text()
            (code,) = set(re.findall(r"--code (\S+)", log.read_text()))
            headers = {"Balsam-Wire": "1"}
            with httpx2.Client(base_url=URL, headers=headers, timeout=30, trust_env=False) as client:
                ok(client.post("/api/users/first", json={"code": code, "username": "root", "password": PASSWORD}))
                login = ok(client.post("/api/auth/login", json={"username": "root", "password": PASSWORD}))
                client.headers["Authorization"] = f"Bearer {login['token']}"
                with client.stream("GET", "/api/jobs/stream") as reply:
                    lines = reply.iter_lines()
                    hear(lines)
                    ok(client.get("/api/sites"))  # and a connection that idles
                    begun = time.monotonic()
                    os.kill(first, getattr(signal, said("STOPSIGNAL")))
                    for _ in lines:  # its end is a clean one
                        assert time.monotonic() - begun < GRACE_SEC, log.read_text()
                assert process.wait(GRACE_SEC) == 0, log.read_text()
            figure(f"a container of {workers} ended {time.monotonic() - begun:.1f} s after its signal")
        assert "Traceback" not in log.read_text()
