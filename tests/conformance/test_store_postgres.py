"""The store in PostgreSQL passes the suite of every store, and plays the same histories as the model."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from balsam.server.database_address import DatabaseAddress
from balsam.server.store.postgres.store import PostgresStore
from balsam.server.store.protocol import Store
from balsam.testing.store_conformance import StoreConformance
from balsam.testing.store_machine import StoreMachine
from tests.testbed.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)  # hundreds of statements that the server has never seen


@pytest.fixture(scope="module")
def address(postgres: PostgresServer) -> Iterator[DatabaseAddress]:
    with postgres.migrated() as address:
        yield address


@pytest.fixture(scope="module")
def debian_address(debian_postgres: PostgresServer) -> Iterator[DatabaseAddress]:
    with debian_postgres.migrated() as address:
        yield address


class TestPostgresStore(StoreConformance):
    @pytest.fixture
    def store(self, postgres: PostgresServer, address: DatabaseAddress) -> Iterator[PostgresStore]:
        postgres.empty(address)
        with closing(PostgresStore(address)) as store:
            yield store


@pytest.mark.slow
class TestPostgresStoreOfDebian(StoreConformance):
    @pytest.fixture
    def store(self, debian_postgres: PostgresServer, debian_address: DatabaseAddress) -> Iterator[PostgresStore]:
        debian_postgres.empty(debian_address)
        with closing(PostgresStore(debian_address)) as store:
            yield store


@pytest.mark.slow
def test_the_store_answers_every_history_as_the_model_does(postgres: PostgresServer, address: DatabaseAddress) -> None:
    with closing(PostgresStore(address)) as store:

        class Machine(StoreMachine):
            def make_store(self) -> Store:
                postgres.empty(address)
                return store

            def teardown(self) -> None:
                """The store is used again."""

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
