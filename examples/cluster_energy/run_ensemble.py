"""An ensemble with libEnsemble: for which settings does a search find the best cluster of atoms?

Start `balsam up` in another terminal, then:  python examples/cluster_energy/run_ensemble.py
Every simulation is a Job of the site; its energy ends in libEnsemble's history H, which is saved as H.npy next to
the picture. The result depends on --seed alone, whatever restarts on the way.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from ensemble import choose_settings, fresh_progress, run_cluster
from libensemble import Ensemble
from libensemble.alloc_funcs.give_sim_work_first import give_sim_work_first
from libensemble.executors.balsam_executors import BalsamExecutor
from libensemble.specs import AllocSpecs, ExitCriteria, GenSpecs, LibeSpecs, SimSpecs
from picture import draw, table
from program import build, command_template

from balsam.api import ApplicationDefinition, Site

LOWEST_KNOWN = {7: -16.505384, 13: -44.326801, 19: -72.659782, 26: -108.315616, 38: -173.928427}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", help="name of the site (default: the only one)")
    parser.add_argument("--out", type=Path, default=Path("cluster_energy_out"), help="directory for the results")
    parser.add_argument("--sims", type=int, default=12, help="simulations, in two batches (default: 12)")
    parser.add_argument("--workers", type=int, default=2, help="libEnsemble's workers (default: 2)")
    parser.add_argument("--atoms", type=int, default=26, help="atoms of the cluster (default: 26)")
    parser.add_argument("--hops", type=int, default=250, help="hops of each search (default: 250)")
    parser.add_argument("--seed", type=int, default=1, help="seed of everything random (default: 1)")
    return parser.parse_args()


def pick_site(name: str | None) -> Site:
    """The site of that name, or the only one there is."""
    sites = [site for site in Site.objects.all() if name in (None, site.name)]
    if len(sites) != 1:
        known = ", ".join(site.name for site in Site.objects.all()) or "none; start one with: balsam up"
        raise SystemExit(f"Give the name of one site with --site. There are: {known}")
    return sites[0]


def define_app(site: Site, command: list[str]) -> type[ApplicationDefinition]:
    """The program as an App of the site."""

    class ClusterEnergy(ApplicationDefinition):
        """Lowest energy of a Lennard-Jones cluster by basin hopping."""

    ClusterEnergy.site = site.name
    ClusterEnergy.command_template = command_template(command)
    return ClusterEnergy


def ensemble_of(args: argparse.Namespace, run: str, executor: BalsamExecutor) -> Ensemble:
    """Generator, simulator and how many of both."""
    sim_user = {
        "run": run, "out": str(args.out), "sims": args.sims, "atoms": args.atoms, "hops": args.hops, "seed": args.seed,
        "tasks_per_node": args.workers, "timeout_sec": 300,
    }  # fmt: skip
    sim_out = [
        ("energy", float), ("mean_energy", float), ("best_hop", float), ("job_id", float), ("runtime_sec", float),
        ("best_by_hop", float, (args.hops + 1,)), ("geometry", float, (args.atoms, 3)),
    ]  # fmt: skip
    batch = max(1, args.sims // 2)
    return Ensemble(
        libE_specs=LibeSpecs(nworkers=args.workers, comms="local", save_H_on_completion=False),
        sim_specs=SimSpecs(sim_f=run_cluster, inputs=["x"], out=sim_out, user=sim_user),
        gen_specs=GenSpecs(
            gen_f=choose_settings,
            inputs=["x", "mean_energy"],
            outputs=[("x", float, (2,))],
            user={"low": [0.1, 0.1], "high": [0.8, 2.0], "batch": batch, "seed": args.seed},
        ),
        alloc_specs=AllocSpecs(alloc_f=give_sim_work_first, user={"batch_mode": True, "num_active_gens": 1}),
        exit_criteria=ExitCriteria(sim_max=args.sims),
        executor=executor,
    )


def main() -> None:
    args = options()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    os.chdir(args.out)  # libEnsemble writes its logs into the current directory
    fresh_progress(args.out)
    site = pick_site(args.site)
    command = build(args.out / "program")
    run = time.strftime("cluster-%Y%m%d-%H%M%S")
    print(f"{args.sims} searches for the best cluster of {args.atoms} atoms at site {site.name}: {' '.join(command)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the block below is left in order then, too
    with BalsamExecutor() as executor:  # leaves no task and no allocation behind
        executor.register_app(define_app(site, command), app_name="cluster")
        executor.submit_allocation(site_id=site.id, num_nodes=1, wall_time_min=30)
        H, _, flag = ensemble_of(args, run, executor).run()
    finish(args, H[: args.sims], flag, f"{site.path}/data/{executor.workflow_name}/{run}")


def finish(args: argparse.Namespace, H: np.ndarray, flag: int, place: str) -> None:
    """Save and show what the ensemble found; SystemExit when a simulation has no result."""
    np.save(args.out / "H.npy", H)
    bad = H[~np.isfinite(H["energy"])]
    if flag or len(bad) or len(H) < args.sims:
        raise SystemExit(f"no result for simulations {list(bad['sim_id'])} of {len(H)} (flag {flag}); see {args.out}")
    known = LOWEST_KNOWN.get(args.atoms)
    draw(H, known, args.out / "clusters.png")
    print(f"\n{table(H, known)}\n")
    print(f"Picture:       {args.out / 'clusters.png'}\nHistory H:     {args.out / 'H.npy'}")
    print(f"Files of jobs: {place}")


if __name__ == "__main__":
    main()
