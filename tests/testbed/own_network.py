"""A network of a test's own, whose packets to one port can be thrown away: no refusal, no reset, nothing.

with own_network() as network:
    ...                                  # processes and sockets that are made here are on its loopback
    with network.dropping(5432):
        ...

A thread that is started in the block is in it, too; the block's own thread is back in the machine's network afterwards.
"""

from __future__ import annotations

import ctypes
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.testbed.three_hosts import output, why_not

_CLONE_NEWNET = 0x40000000
_RULES = """table inet silence {{
    chain in {{
        type filter hook input priority 0;
        tcp dport {port} drop
        tcp sport {port} drop
    }}
}}"""


@dataclass(frozen=True)
class OwnNetwork:
    name: str

    @contextmanager
    def dropping(self, port: int) -> Iterator[None]:
        """For the length of a block no packet to or from this port arrives, whoever is connected already."""
        nft = ("ip", "netns", "exec", self.name, "nft")
        output(*nft, _RULES.format(port=port))
        try:
            yield
        finally:
            output(*nft, "delete table inet silence")


def _enter(path: str) -> None:
    """This thread, and what it starts from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(descriptor)


@contextmanager
def entered(path: str | Path) -> Iterator[None]:
    """This thread, and what it starts in the block, is in another network namespace."""
    before = os.open(f"/proc/self/task/{ctypes.CDLL(None).gettid()}/ns/net", os.O_RDONLY)
    try:
        _enter(str(path))
        try:
            yield
        finally:
            _enter(f"/proc/self/fd/{before}")
    finally:
        os.close(before)


@contextmanager
def own_network() -> Iterator[OwnNetwork]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    network = OwnNetwork(f"balsam{uuid.uuid4().hex[:8]}")
    output("ip", "netns", "add", network.name)
    try:
        output("ip", "-n", network.name, "link", "set", "lo", "up")
        with entered(f"/run/netns/{network.name}"):
            yield network
    finally:
        output("ip", "netns", "delete", network.name)
