"""The forces workflow on a real Slurm: libEnsemble where the user is, or as a Job on a node of the allocation."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.live_cluster import TEMPLATE, LiveCluster, live_cluster
from tests.testbed.slurm_bed import SlurmBed

pytestmark = pytest.mark.timeout(500)

EXAMPLE = Path(__file__).parents[2] / "examples" / "forces"
SMALL = ("--site", "cluster", "--queue", "batch", "--project", "proj1", "--particles", "60")
# As the user: what came home is what the program gives for the arguments of each simulation.
CHECK = """
import numpy as np
sys.path.insert(0, "{example}")
import forces
history = np.load("{home}/H.npy")
assert sorted(history["sim_id"]) == list(range({sims})), history
for row in history:
    lines = Path("{home}", f"forces{{row['sim_id']:03d}}.stat").read_text().split()
    random = forces.Random(1 + int(row["sim_id"]))
    random.unit()
    assert lines == [f"{{energy:.17g}}" for energy in forces.energies(int(row["x"][0]), 10, random)], row
    assert row["energy"] == float(lines[-1])
jobs = [Job.objects.get(id=int(number)) for number in history["job_id"]]
for batch in BatchJob.objects.all():
    reach(batch, "finished")
print(json.dumps(sorted({{job.read_text("job.out").split(" on ")[1] for job in jobs}})))
"""


HAS_MPI = shutil.which("mpiexec.openmpi") is not None


def with_srun(settings: dict[str, Any]) -> None:
    settings["mpirun"] = "auto"
    settings["node"] = {"cpus": None}


@pytest.fixture(scope="module")
def cluster(slurm: SlurmBed) -> Iterator[LiveCluster]:
    """Real ranks where Debian's Open MPI is; as that brings no compiler's headers, the program is the one in Python."""
    template = TEMPLATE.replace("\nexec ", "\nexport SLURM_MPI_TYPE=pmix\nexec ") if HAS_MPI else TEMPLATE
    with live_cluster(slurm, with_srun, template) as running:
        example = running.root / "forces"
        shutil.copytree(EXAMPLE, example, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (example, *example.iterdir()):
            os.chown(path, running.user.entry.pw_uid, running.user.entry.pw_gid)
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
    code = CHECK.format(example=cluster.root / "forces", home=cluster.root / home, sims=sims)
    said: list[str] = json.loads(cluster.run(code))
    return said


def test_sixteen_results_come_home(cluster: LiveCluster) -> None:
    """Scenario A, each simulation with a rank on each of two nodes."""
    words = ("--sims", "16", "--ranks", "2", "--nodes-each", "2", "--nodes", "4", "--comms", "local", "--nworkers", "4")
    said = run(cluster, "run_libe_forces.py", *SMALL, *words, "--home", "from_laptop")
    assert "16 of 16 simulations gave an energy" in said
    assert checked(cluster, "from_laptop", 16) == ["2 ranks\n" if HAS_MPI else "1 ranks\n"]


def test_libensemble_itself_is_a_job_of_the_allocation(cluster: LiveCluster) -> None:
    """Scenario B: libEnsemble on one node, its simulations on two others."""
    words = ("--sims", "4", "--ranks", "2", "--nodes", "3", "--workers", "2")
    said = run(cluster, "submit_libe_forces_remotely.py", *SMALL, *words, "--home", "from_node")
    assert "4 of 4 energy files are in" in said
    assert checked(cluster, "from_node", 4) == ["2 ranks\n" if HAS_MPI else "1 ranks\n"]
