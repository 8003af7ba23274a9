"""A directory in which files arrive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from balsam.transfer.destination import Destination, open_directory


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "place"


@pytest.fixture
def destination(place: Path) -> Iterator[Destination]:
    with open_directory(place, make=True) as root, Destination(root) as found:
        yield found
