"""A service for the tests of this directory, and the objects they need in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.services import RunningService, running_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A real service over HTTP on a free loopback port, shared by the tests of one module."""
    with running_service(tmp_path_factory.mktemp("home") / "balsam") as started:
        yield started


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[RunningService]:
    """A real service of this test alone: it may be killed, filled, stopped."""
    with running_service(tmp_path / "balsam") as started:
        yield started


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx2.Client]:
    """The local user (administrator) at `service`."""
    with service.client() as found:
        yield found
