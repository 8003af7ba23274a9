"""The hosts of tests/testbed/hosts, for tests: a laptop, a service and a cluster that only the service's 443 connects.

They are there for root with iproute2 and nftables; elsewhere tests that ask for them are skipped, with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

SCRIPT = Path(__file__).parent / "hosts"
SERVICE_ADDRESS = "10.77.0.1"
ENDING_SEC = 30.0  # what an agent started ends by itself, soon
PROGRAMS = ("ip", "bridge", "nft", "openssl")


@dataclass(frozen=True)
class Host:
    """One of them. Its files are in `directory`; of the other hosts' directories its processes see nothing."""

    net: str
    name: str
    root: Path

    @property
    def directory(self) -> Path:
        return self.root / self.name

    @property
    def certificate(self) -> Path:
        """The service's, which this host trusts."""
        return self.directory / "certificate.pem"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
            "BALSAM_HOME": str(self.directory / "home"),
            "SSL_CERT_FILE": str(self.certificate),
        }

    def start(self, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
        """A process there, with its stdout and stderr piped unless `options` say otherwise; ended by its pid."""
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": self.environment, "cwd": self.directory}
        return subprocess.Popen(
            [SCRIPT, "as", self.net, self.name, self.root, *words],
            text=True,
            start_new_session=True,
            **{**piped, **options},
        )

    def run(self, *words: str | Path, timeout: float = 60, **environment: str) -> str:
        """The stdout of a command that ends well there."""
        process = self.start(*words, env={**self.environment, **environment})
        return stdout_of(process, timeout, f"{words} at the {self.name}")

    def dropped(self, way: str) -> int:
        """Packets that its firewall dropped so far on their way "in" or "out"."""
        words = _script("dropped", self.net, self.name).split()
        return int(words[words.index(way) + 1])

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Its link stays up, takes packets and delivers none."""
        _script("cut", self.net, self.name)
        try:
            yield
        finally:
            _script("mend", self.net, self.name)


@dataclass(frozen=True)
class ThreeHosts:
    net: str
    laptop: Host
    service: Host
    cluster: Host

    def processes(self) -> list[str]:
        """The command lines of what runs on any of them."""
        found = []
        for name in self.namespaces():
            for pid in output("ip", "netns", "pids", name).split():
                with suppress(psutil.NoSuchProcess):
                    found.append(f"{name}: {pid} {' '.join(psutil.Process(int(pid)).cmdline())}")
        return found

    def namespaces(self) -> list[str]:
        names = [line.split()[0] for line in output("ip", "netns", "list").splitlines()]
        return [name for name in names if name.startswith(f"{self.net}-")]


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _script(*words: str) -> str:
    return output(str(SCRIPT), *words)


def output(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PATH": _path()}, check=False)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stderr}"
    return done.stdout


def stdout_of(process: subprocess.Popen[str], timeout: float, name: str) -> str:
    """What a process printed that ends well; it does not outlive this."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, f"{name}: {process.returncode}\n{out}\n{err}"
    return out


def why_not() -> str | None:
    if os.getuid() != 0:
        return "network namespaces need root"
    if missing := [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]:
        return f"no {', '.join(missing)}: apt-get install iproute2 nftables openssl"
    try:
        output("unshare", "--net", "--mount", "nft", "add table inet probe")  # is gone with its namespace
    except AssertionError as error:
        return f"this container can't make network namespaces with firewalls: {error}"
    return None


def _certify(hosts: ThreeHosts) -> None:
    """A certificate of the service's own; each host has a copy, the service alone has the key."""
    made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=balsam"]
    names = ["-addext", f"subjectAltName=IP:{SERVICE_ADDRESS}"]
    files = ["-keyout", str(hosts.service.directory / "key.pem"), "-out", str(hosts.service.certificate)]
    output("openssl", "req", *made, *names, *files)
    for host in (hosts.laptop, hosts.cluster):
        shutil.copy(hosts.service.certificate, host.certificate)


@contextmanager
def three_hosts(root: Path) -> Iterator[ThreeHosts]:
    """Up for a block. After it nothing of them is left, whatever happened; who left a process there is told."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    net = f"balsam{uuid.uuid4().hex[:8]}"
    hosts = ThreeHosts(net, *(Host(net, name, root) for name in ("laptop", "service", "cluster")))
    for host in (hosts.laptop, hosts.service, hosts.cluster):
        host.directory.mkdir()
    _certify(hosts)
    _script("up", net)
    try:
        yield hosts
        deadline = time.monotonic() + ENDING_SEC
        while (left := hosts.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == [], "still running when the test was over"
    finally:
        _script("down", net)
        assert hosts.namespaces() == []
