"""A machine of a test's own (tests/testbed/machine/up): an administrator's commands change nothing of the real one.

with fresh_machine(directory) as machine:
    machine.run("useradd", "--system", "balsam")
    with machine.network():
        ...                      # sockets that this thread opens are on the machine's loopback

`directory` (below /tmp) is the same inside and outside. Needs root on Debian, and a container that lets namespaces and
overlays be made; elsewhere the test is skipped.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.testbed.own_network import entered
from tests.testbed.three_hosts import stdout_of, why_not

UP = Path(__file__).parent / "machine" / "up"
REPOSITORY = Path(__file__).parents[2]
NAME = "balsam.example.org"


@dataclass(frozen=True)
class FreshMachine:
    pid: int  # of its first process

    @property
    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "--mount", "--net", "--pid", "--uts", f"--wd={REPOSITORY}"]

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
    layers = directory / "layers"
    layers.mkdir()
    namespaces = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*namespaces, UP, layers, sys.prefix, REPOSITORY / "src"]
    with (directory / "machine.log").open("w") as log:
        outer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert outer.stdout is not None
    try:
        if outer.stdout.readline() != "ready\n":
            pytest.skip(f"this container lets no machine be made: {(directory / 'machine.log').read_text()[-500:]}")
        (first,) = psutil.Process(outer.pid).children()
        yield FreshMachine(first.pid)
    finally:
        outer.kill()
        outer.wait()
        outer.stdout.close()
