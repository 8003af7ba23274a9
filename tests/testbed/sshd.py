"""A real sshd of the tests' own on loopback: its own host key, one user key, nothing of the machine's configuration."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.testbed.ports import free_port

WAIT_SEC = 30.0


@dataclass(frozen=True)
class Sshd:
    port: int
    identity_file: Path
    known_hosts: Path

    def url(self, scheme: str, root: Path) -> str:
        files = f"identity_file={self.identity_file}&known_hosts={self.known_hosts}"
        return f"{scheme}://{getpass.getuser()}@127.0.0.1:{self.port}{root}?{files}"


@contextmanager
def running_sshd(home: Path) -> Iterator[Sshd]:
    """Skips where there is none; CI installs it (tests/testbed/install-transfers)."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None or shutil.which("rsync") is None:
        pytest.skip("needs sshd and rsync: tests/testbed/install-transfers")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / name], check=True)
    if os.getuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    port = free_port()
    (home / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {home}/host\nPidFile {home}/pid\nStrictModes no\nUsePAM no\n"
        f"AuthorizedKeysFile {home}/user.pub\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        "Subsystem sftp internal-sftp\nMaxStartups 100\n"
    )
    kind, key = (home / "host.pub").read_text().split()[:2]
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    server = subprocess.Popen([program, "-D", "-f", home / "config", "-E", home / "log"])
    try:
        _wait(server, port, home / "log")
        yield Sshd(port, home / "user", home / "known_hosts")
    finally:
        server.terminate()
        server.wait()


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + WAIT_SEC
    while True:
        assert server.poll() is None and time.monotonic() < deadline, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
