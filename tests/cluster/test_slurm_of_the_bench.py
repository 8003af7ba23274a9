"""The Slurm part of `make bench` runs to its end; how fast anything was decides nothing here."""

from __future__ import annotations

import pytest

from bench import sizes
from bench.slurm import measure_on
from tests.testbed.slurm_bed import SlurmBed


def test_slurm_tells_of_all_its_goals(slurm: SlurmBed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "_divisor", sizes.QUICK)
    assert [(goal.name, goal.what) for goal in measure_on(slurm)] == [
        ("scale", "allocation starts -> first rank runs"),
        ("scale", "mpi mode on 4 nodes / bare srun loop"),
        ("scale", "serial mode on 4 nodes, engine alone / bare loop"),
        ("scale", "the same with service and events"),
    ]
