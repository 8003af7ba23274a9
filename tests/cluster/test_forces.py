"""The forces workflow on a real Slurm: libEnsemble where the user is, or as a Job on a node of the allocation."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster.forces_example import EXAMPLE, FORCES_TEMPLATE, RANKS, check
from tests.cluster.live_cluster import LiveCluster, live_cluster, with_srun
from tests.testbed.slurm_bed import SlurmBed

pytestmark = pytest.mark.timeout(500)

SMALL = ("--site", "cluster", "--queue", "batch", "--project", "proj1", "--particles", "60")
# What the Jobs said of their ranks, once all allocations are over.
RANKS_SAID = """
for batch in BatchJob.objects.all():
    reach(batch, "finished")
print(json.dumps(sorted({job.read_text("job.out").split(" on ")[1] for job in jobs})))
"""


@pytest.fixture(scope="module")
def cluster(slurm: SlurmBed) -> Iterator[LiveCluster]:
    """Real ranks where Debian's Open MPI is; as that brings no compiler's headers, the program is the one in Python."""
    with live_cluster(slurm, with_srun, FORCES_TEMPLATE) as running:
        example = running.copy(EXAMPLE)
        libe, program = (f"{running.python} {example}/{name}" for name in ("run_libe_forces.py", "forces.py"))
        running.run("pass")  # returns once the agent has said what its Site allows
        run(running, "define_apps.py", "--site", "cluster", "--forces", program, "--libe", libe)
        yield running


def run(cluster: LiveCluster, script: str, *words: str) -> str:
    """One of the example's scripts, as the user on the login node."""
    command = [cluster.python, str(cluster.root / "forces" / script), *words]
    return cluster.user.run(*command, cwd=cluster.root, env=cluster.environment, timeout=400)


def checked(cluster: LiveCluster, home: str, sims: int) -> list[str]:
    """What the simulations said of their ranks, once all that came home is seen to be right and allocations over."""
    code = check(cluster.root / "forces", cluster.root / home, sims) + RANKS_SAID
    said: list[str] = json.loads(cluster.run(code))
    return said


def test_sixteen_results_come_home(cluster: LiveCluster) -> None:
    """Scenario A, each simulation with a rank on each of two nodes."""
    words = ("--sims", "16", "--ranks", "2", "--nodes-each", "2", "--nodes", "4", "--comms", "local", "--nworkers", "4")
    said = run(cluster, "run_libe_forces.py", *SMALL, *words, "--home", "from_laptop")
    assert "16 of 16 simulations gave an energy" in said
    assert checked(cluster, "from_laptop", 16) == [RANKS]


def test_libensemble_itself_is_a_job_of_the_allocation(cluster: LiveCluster) -> None:
    """Scenario B: libEnsemble on one node, its simulations on two others."""
    words = ("--sims", "4", "--ranks", "2", "--nodes", "3", "--workers", "2")
    said = run(cluster, "submit_libe_forces_remotely.py", *SMALL, *words, "--home", "from_node")
    assert "4 of 4 energy files are in" in said
    assert checked(cluster, "from_node", 4) == [RANKS]
