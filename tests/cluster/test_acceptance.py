"""From a laptop to another Unix user's Site on a real Slurm: the page's code, ensembles of MPI programs over nodes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.forces_example import EXAMPLE, FORCES_TEMPLATE, RANKS, check
from tests.cluster.laptop import Laptop, laptop_of
from tests.cluster.live_cluster import LiveCluster, eventually, finished, live_cluster, with_srun
from tests.system.test_page import BLOCK_1, BLOCK_2, BLOCK_3
from tests.testbed.slurm_bed import SlurmBed

pytestmark = pytest.mark.timeout(400)

# What else is known of an ensemble's Jobs.
FACTS = """
sites = {site.id: site.name for site in Site.objects.all()}
batches = {batch.id: batch for batch in BatchJob.objects.all()}
events = list(EventLog.objects.filter(job_id=[job.id for job in jobs]))
print(json.dumps({
    "ranks": sorted((sites[batches[job.batch_job_id].site_id], job.read_text("job.out").split(" on ")[1])
                    for job in jobs),
    "states": sorted({batch.state.value for batch in batches.values()}),
    "failures": [event.data["failure"] for event in events if "failure" in event.data],
    "results": sum(event.to_state.value == "RUN_DONE" for event in events),
}))
"""
# One ensemble whose simulations run in turn at two Sites, each with an allocation that the executor asks for and ends.
TWO_SITES = """
import numpy as np
from pathlib import Path
from libensemble import Ensemble
from libensemble.executors.balsam_executors import BalsamExecutor
from libensemble.gen_funcs.sampling import uniform_random_sample
from libensemble.specs import ExitCriteria, GenSpecs, LibeSpecs, SimSpecs
from balsam.api import ApplicationDefinition, Site

HOME = Path("two_sites").absolute()
SITES = ("laptop", "cluster")

def simulate(H, persis_info, sim_specs, libE_info):
    row, executor = int(libE_info["H_rows"][0]), libE_info["executor"]
    site = SITES[row % 2]
    task = executor.submit(
        app_name=site, num_procs=2, num_nodes=1 + row % 2,
        app_args={"sim_particles": str(int(H["x"][0][0])), "sim_timesteps": "10", "seed": str(1 + row)},
        transfers={"result": f"client:{HOME}/forces{row:03d}.stat"},
    )
    task.wait(timeout=100)
    out = np.zeros(1, dtype=sim_specs["out"])
    out["energy"], out["job_id"] = np.loadtxt(HOME / f"forces{row:03d}.stat")[-1], task.process.id
    return out, persis_info

def main():
    HOME.mkdir()
    executor = BalsamExecutor()
    for site in SITES:
        executor.register_app(ApplicationDefinition.load_by_site(site)["RemoteForces"], app_name=site)
    ensemble = Ensemble(
        executor=executor,
        libE_specs=LibeSpecs(comms="local", nworkers=4),
        sim_specs=SimSpecs(sim_f=simulate, inputs=["x"], outputs=[("energy", float), ("job_id", int)]),
        gen_specs=GenSpecs(gen_f=uniform_random_sample, outputs=[("x", float, (1,))],
                           user={"gen_batch_size": 8, "lb": np.array([30]), "ub": np.array([90])}),
        exit_criteria=ExitCriteria(sim_max=8),
    )
    ensemble.add_random_streams()
    for site, nodes, queue, project in (("laptop", 1, "local", "local"), ("cluster", 2, "batch", "proj1")):
        number = Site.objects.get(name=site).id
        executor.submit_allocation(number, num_nodes=nodes, wall_time_min=10, queue=queue, project=project)
    H, _, flag = ensemble.run()
    assert flag == 0, flag
    assert all(executor.revoke_allocation(allocation) for allocation in executor.allocations)
    np.save(HOME / "H.npy", H[H["sim_ended"]])

if __name__ == "__main__":
    main()
"""


@dataclass(frozen=True)
class World:
    cluster: LiveCluster
    laptop: Laptop
    example: Path

    def checked(self, home: str, sims: int, steps: int = 10) -> dict[str, Any]:
        """What is known of an ensemble's Jobs, once all that came home is seen to be right."""
        found: dict[str, Any] = json.loads(self.laptop.run(check(self.example, home, sims, steps) + FACTS))
        return found


@pytest.fixture(scope="module")
def world(slurm: SlurmBed) -> Iterator[World]:
    with live_cluster(slurm, with_srun, FORCES_TEMPLATE, password="correct horse battery") as cluster:
        cluster.run("pass")  # returns once the agent has said what its Site allows
        with laptop_of(cluster) as laptop:
            shutil.copy(EXAMPLE / "forces.py", cluster.site / "forces.py")
            (cluster.site / "forces.py").chmod(0o644)
            example = laptop.copy(EXAMPLE)
            words = ("--site", "cluster", "--forces", f"{cluster.python} {cluster.site}/forces.py", "--libe", "none")
            laptop.run(example / "define_apps.py", *words)
            yield World(cluster, laptop, example)


def test_the_pages_second_block_with_four_nodes(world: World) -> None:
    """As printed but for names; then the third block, over all four nodes."""
    program = world.cluster.site / "hello.app"
    program.write_text('#!/bin/sh\necho "Hello, $1 of $(uname -n)"\n')
    program.chmod(0o755)
    blocks = BLOCK_1 + BLOCK_2 + BLOCK_3.replace("num_nodes=1", "num_nodes=4").replace("num_procs=4", "num_procs=16")
    sites = json.loads(world.laptop.balsam("site", "ls", "--json"))
    number = next(site["id"] for site in sites if site["name"] == "cluster")
    names = {"my-balsam-site": "cluster", "999": str(number), "/path/to/hello.app": str(program)}
    for on_page, here in (names | {"debug-queue": "debug", "my-project": "proj1"}).items():
        blocks = blocks.replace(on_page, here)
    said = world.laptop.run(
        blocks + "import os\nassert not os.access(HelloApp.command_template.split()[0], os.R_OK), 'it sees the files'\n"
        "task.wait(timeout=100)\nprint(task.state, task.errcode)\nprint(task.read_stdout(), end='')\n"
        "assert exctr.revoke_allocation(exctr.allocations[0], timeout=60) is True\n"
        "print(exctr.allocations[0].num_nodes, exctr.allocations[0].state.value)\n"
    ).splitlines()
    assert said[0] == "FINISHED 0" and said[-1] == "4 finished"
    assert sorted(said[1:-1]) == [f"Hello, World of node{node}" for node in (1, 2, 3, 4) for _ in range(4)]


def test_an_ensemble_over_nodes_of_which_one_crashes_in_the_middle(world: World) -> None:
    """Each simulation is an MPI program on two nodes; each result comes home, and counts once."""
    sizes = ("--sims", "8", "--particles", "60", "--timesteps", "400", "--ranks", "2", "--nodes-each", "2")
    where = ("--site", "cluster", "--queue", "batch", "--project", "proj1", "--nodes", "4")
    words = (*where, *sizes, "--comms", "local", "--nworkers", "4", "--home", "crashed")
    ensemble = world.laptop.begin(world.example / "run_libe_forces.py", *words)
    home = world.laptop.root / "crashed"
    eventually(lambda: len(list(home.glob("forces*.stat"))) >= 2 or ensemble.poll() is not None, "nothing comes home")
    world.cluster.bed.node("node4", "crash")
    try:
        said = finished(ensemble, 200)
    finally:
        world.cluster.bed.node("node4", "start")
    assert "8 of 8 simulations gave an energy" in said
    found = world.checked("crashed", 8, 400)
    assert found["ranks"] == [["cluster", RANKS]] * 8
    assert found["states"] == ["finished"]
    assert set(found["failures"]) == {"lost_node"}
    assert found["results"] == 8


def test_one_ensemble_at_two_sites(world: World) -> None:
    """A Site of the laptop without MPI, and the cluster's with MPI over two nodes."""
    laptop = world.laptop
    laptop.start_site()
    words = ("--site", "laptop", "--forces", f"{laptop.python} {world.example}/forces.py", "--libe", "none")
    laptop.run(world.example / "define_apps.py", *words)
    laptop.run(TWO_SITES)
    found = world.checked("two_sites", 8)
    assert found["ranks"] == [["cluster", RANKS]] * 4 + [["laptop", "1 ranks\n"]] * 4
    assert found["states"] == ["finished"]
