"""Every transfer back end passes the same suite."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from balsam.testing.transfer_conformance import Far, TransferConformance, contents
from balsam.transfer.base import Order, Outcome, TransferBackend
from balsam.transfer.locations import open_location
from tests.testbed.sshd import Sshd, running_sshd
from tests.transfer.memory_blobs import ClientFar


class TestServiceBackend(TransferConformance):
    @pytest.fixture
    def far(self) -> Far:
        return ClientFar()


class Directory:
    """A directory that the Site can see."""

    def __init__(self, root: Path, url: str) -> None:
        self._root = root
        self._url = url
        self._given = 0

    def backend(self, data: Path) -> TransferBackend:
        return open_location(self._url, data, data.parent / "spool")

    def give(self, files: Mapping[str, bytes], *, is_tree: bool) -> dict[str, Any]:
        self._given += 1
        place = self._root / f"given {self._given}"
        for path, content in files.items():
            target = os.path.join(place, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            Path(target).write_bytes(content)
        return {"remote_path": f"/given {self._given}" + ("" if is_tree else f"/{next(iter(files))}")}

    def take(self, name: str) -> dict[str, Any]:
        return {"remote_path": f"/results/{name}"}

    def taken(self, order: Order, outcome: Outcome) -> dict[str, bytes]:
        assert not outcome.error, outcome.error
        place = self._root / order.remote_path.lstrip("/")
        return contents(place) if place.is_dir() else {Path(order.local_path).name: place.read_bytes()}


class TestLocalBackend(TransferConformance):
    @pytest.fixture
    def far(self, tmp_path: Path) -> Far:
        (tmp_path / "scratch").mkdir()
        return Directory(tmp_path / "scratch", f"file://{tmp_path}/scratch")


class TestLocalBackendWithLinks(TransferConformance):
    @pytest.fixture
    def far(self, tmp_path: Path) -> Far:
        (tmp_path / "scratch").mkdir()
        return Directory(tmp_path / "scratch", f"file://{tmp_path}/scratch?link=hard")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


class TestRsyncBackend(TransferConformance):
    @pytest.fixture
    def far(self, tmp_path: Path, sshd: Sshd) -> Far:
        (tmp_path / "far end").mkdir()
        return Directory(tmp_path / "far end", sshd.url("rsync", Path(f"{tmp_path}/far%20end")))
