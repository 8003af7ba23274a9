"""rclone's own servers on loopback, over a directory: the far ends of transfers by HTTP and WebDAV."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.testbed.ports import free_port

WAIT_SEC = 30.0


def require_rclone() -> None:
    """Skips where there is none; CI installs it (tests/testbed/install-transfers)."""
    if shutil.which("rclone") is None:
        pytest.skip("needs rclone: tests/testbed/install-transfers")


@contextmanager
def rclone_serving(kind: str, root: Path, *more: str) -> Iterator[str]:
    """HOST:PORT of a server of this kind."""
    require_rclone()
    port = free_port()
    words = ["rclone", "serve", kind, str(root), f"--addr=127.0.0.1:{port}", "--config=/dev/null", "--log-level=ERROR"]
    # what it remembers of directories would hide what a test puts there meanwhile
    server = subprocess.Popen([*words, "--dir-cache-time=0s", *more])
    try:
        _wait(server, port)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + WAIT_SEC
    while True:
        assert server.poll() is None and time.monotonic() < deadline, "rclone does not serve"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
