"""A machine of a test's own with a real systemd (tests/testbed/machine/up): nothing of the real one is changed.

with fresh_machine(directory) as machine:
    machine.run("useradd", "--system", "balsam")
    with machine.network():
        ...                      # sockets that this thread opens are on the machine's loopback

`directory` (below /tmp) is the same inside and outside. Needs root on Debian, and a container that lets namespaces,
overlays and control groups be made; elsewhere the test is skipped.
"""

from __future__ import annotations

import os
import socket
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

from tests.testbed.own_network import entered
from tests.testbed.three_hosts import stdout_of, why_not

UP = Path(__file__).parent / "machine" / "up"
SYSTEMD = Path("/lib/systemd/systemd")
HIERARCHIES = Path("/sys/fs/cgroup")
UP_AT_LAST = "until [ -S /run/systemd/private ]; do sleep 0.05; done; systemctl is-system-running --wait"
REPOSITORY = Path(__file__).parents[2]
NAME = "balsam.example.org"


@dataclass(frozen=True)
class FreshMachine:
    pid: int  # of its first process

    @property
    def _enter(self) -> list[str]:
        spaces = ("--mount", "--net", "--pid", "--uts", "--cgroup")
        return ["nsenter", "-t", str(self.pid), *spaces, f"--wd={REPOSITORY}"]

    def start(self, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
        """A process there; it ends with the machine at the latest."""
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        return subprocess.Popen([*self._enter, *words], text=True, **{**piped, **options})

    def run(self, *words: str | Path, timeout: float = 120, **environment: str) -> str:
        """The stdout of a command that ends well there."""
        return stdout_of(self.start(*words, env={**os.environ, **environment}), timeout, str(words))

    @contextmanager
    def network(self) -> Iterator[None]:
        """This thread is on the machine's network, and knows its name."""
        real = socket.getaddrinfo

        def known(host: Any, *more: Any, **options: Any) -> Any:
            return real("127.0.0.1" if host in (NAME, NAME.encode()) else host, *more, **options)

        with entered(f"/proc/{self.pid}/ns/net"), pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", known)
            yield


@contextmanager
def fresh_machine(directory: Path) -> Iterator[FreshMachine]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    if not SYSTEMD.exists():
        pytest.skip("no systemd is installed here")
    layers = directory / "layers"
    layers.mkdir()
    with control_groups() as group, (directory / "machine.log").open("w") as log:
        command = [UP, layers, sys.prefix, REPOSITORY / "src", group]
        outer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert outer.stdout is not None
        try:
            if outer.stdout.readline() != "ready\n":
                pytest.skip(f"this container lets no machine be made: {(directory / 'machine.log').read_text()[-500:]}")
            (first,) = psutil.Process(outer.pid).children()
            machine = FreshMachine(first.pid)
            machine.run("bash", "-c", UP_AT_LAST)
            yield machine
        finally:
            outer.kill()
            outer.wait()
            outer.stdout.close()


@contextmanager
def control_groups() -> Iterator[str]:
    """A group of the machine's own in each hierarchy that systemd looks at; its name."""
    name = f"balsam-test-{uuid.uuid4().hex[:8]}"
    unified = (HIERARCHIES / "cgroup.controllers").exists()
    made = [HIERARCHIES / name] if unified else [HIERARCHIES / kind / name for kind in ("systemd", "unified")]
    try:
        for one in made:
            if not os.access(one.parent, os.W_OK):
                pytest.skip(f"this container lets no control group be made in {one.parent}")
            one.mkdir()
        yield name
    finally:
        deadline = time.monotonic() + 30  # the kernel ends the processes of a machine after its first one
        for one in made:
            while one.exists():
                remove_group(one)
                assert time.monotonic() < deadline, f"{one} stays"
                time.sleep(0.05)


def remove_group(group: Path) -> None:
    """With the groups below it, as far as they are empty."""
    for below in sorted(group.rglob("*/"), reverse=True):
        with suppress(OSError):
            below.rmdir()
    with suppress(OSError):
        group.rmdir()
