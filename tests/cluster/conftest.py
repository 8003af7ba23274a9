"""The real batch systems of tests/testbed, one for all tests of a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testbed.grid_engine_bed import GridEngineBed, running_grid_engine
from tests.testbed.slurm_bed import SlurmBed, require, running_slurm


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmBed]:
    """A real Slurm with four nodes. Only root on Debian can have one; there, that it does not start is a failure."""
    require()
    with running_slurm() as bed:
        yield bed


@pytest.fixture
def nothing_left(slurm: SlurmBed) -> Iterator[None]:
    """For tests that end before what they started has."""
    yield
    slurm.end_everything()


@pytest.fixture(scope="session")
def grid_engine() -> Iterator[GridEngineBed]:
    """A real Grid Engine with one node, under the same conditions."""
    require()
    with running_grid_engine() as bed:
        yield bed
