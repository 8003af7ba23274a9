"""Every store passes the same suite."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from balsam.server.store.memory import MemoryStore
from balsam.server.store.protocol import Store
from balsam.server.store.sqlite import SqliteStore
from balsam.testing.store_conformance import StoreConformance


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        store = MemoryStore()
        yield store
        store.close()


class TestSqliteStore(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = SqliteStore(tmp_path / "balsam.sqlite")
        yield store
        store.close()
