"""examples/forces on the real Slurm: what it needs of the Site, and what is asked of an ensemble's files and rows."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.cluster.live_cluster import TEMPLATE

EXAMPLE = Path(__file__).parents[2] / "examples" / "forces"
HAS_MPI = shutil.which("mpiexec.openmpi") is not None
RANKS = "2 ranks\n" if HAS_MPI else "1 ranks\n"  # without MPI the first rank does the work alone
FORCES_TEMPLATE = TEMPLATE.replace("\nexec ", "\nexport SLURM_MPI_TYPE=pmix\nexec ") if HAS_MPI else TEMPLATE
_CHECK = """
import json, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, "{example}")
import forces
from balsam.api import BatchJob, EventLog, Job, Site

history = np.load("{home}/H.npy")
assert sorted(history["sim_id"]) == list(range({sims})), history
for row in history:
    lines = Path("{home}", f"forces{{row['sim_id']:03d}}.stat").read_text().split()
    random = forces.Random(1 + int(row["sim_id"]))
    random.unit()
    assert lines == [f"{{energy:.17g}}" for energy in forces.energies(int(row["x"][0]), {steps}, random)], row
    assert row["energy"] == float(lines[-1])
jobs = [Job.objects.get(id=int(number)) for number in history["job_id"]]
"""


def check(example: Path, home: str | Path, sims: int, steps: int = 10) -> str:
    """Code for the user that ends well if what came home is what the program gives for the same arguments.

    It leaves the ensemble's Jobs in `jobs`.
    """
    return _CHECK.format(example=example, home=home, sims=sims, steps=steps)
