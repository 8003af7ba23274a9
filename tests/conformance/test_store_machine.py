"""A random history of users, launchers and time on SQLite and on the model."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from balsam.server.store.protocol import Store
from balsam.server.store.sqlite import SqliteStore
from balsam.testing.store_machine import StoreMachine


class SqliteMachine(StoreMachine):
    def make_store(self) -> Store:
        self._directory = tempfile.TemporaryDirectory()
        return SqliteStore(Path(self._directory.name) / "balsam.sqlite", durable=False)

    def teardown(self) -> None:
        super().teardown()
        self._directory.cleanup()


TestSqliteAgainstTheModel = SqliteMachine.TestCase
TestSqliteAgainstTheModel.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSqliteAgainstTheModel.pytestmark = pytest.mark.timeout(300)
