"""The calling script: an ensemble of forces simulations at a Site, their energies here as forcesNNN.stat.

python run_libe_forces.py --site my-site --comms local --nworkers 4      (scenario A; after define_apps.py)

It requests an allocation, runs the ensemble and ends the allocation. With --no-allocation it uses those that are there:
so it runs within one, as submit_libe_forces_remotely.py has it (scenario B). H is saved beside the energies.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from forces_simf import run_forces
from libensemble import Ensemble
from libensemble.executors.balsam_executors import BalsamExecutor
from libensemble.gen_funcs.sampling import uniform_random_sample
from libensemble.specs import ExitCriteria, GenSpecs, SimSpecs

from balsam.api import ApplicationDefinition, Site


def options() -> argparse.Namespace:
    """Ours; --comms and --nworkers are libEnsemble's, which parses them itself."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--site", default="local", help="name of the Site (default: local)")
    parser.add_argument("--home", type=Path, default=Path("forces_results"), help="directory for the energies")
    parser.add_argument("--run", default=time.strftime("forces-%Y%m%d-%H%M%S"), help="name of the run at the Site")
    parser.add_argument("--sims", type=int, default=16, help="simulations (default: 16)")
    parser.add_argument("--particles", type=int, default=2000, help="about so many particles each (default: 2000)")
    parser.add_argument("--timesteps", type=int, default=10, help="steps of each (default: 10)")
    parser.add_argument("--kill-rate", type=float, default=0.0, help="share of bad runs (default: 0)")
    parser.add_argument("--ranks", type=int, default=4, help="MPI ranks of each (default: 4)")
    parser.add_argument("--nodes-each", type=int, default=1, help="nodes of each (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default: 1)")
    parser.add_argument("--timeout-sec", type=float, default=300, help="a simulation that takes longer is killed")
    parser.add_argument("--no-allocation", action="store_true", help="use the allocations that are there")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of the allocation (default: 1)")
    parser.add_argument("--wall-time-min", type=int, default=30, help="minutes of the allocation (default: 30)")
    parser.add_argument("--queue", default="local")
    parser.add_argument("--project", default="local")
    return parser.parse_known_args()[0]


def ensemble_of(args: argparse.Namespace, executor: BalsamExecutor) -> Ensemble:
    """As many simulations as were asked for, each with a number of particles that is drawn at random."""
    user = {
        "home": str(args.home), "run": args.run, "timesteps": args.timesteps, "kill_rate": args.kill_rate,
        "ranks": args.ranks, "nodes_each": args.nodes_each, "seed": args.seed, "timeout_sec": args.timeout_sec,
    }  # fmt: skip
    bounds = {"lb": np.array([args.particles // 2]), "ub": np.array([args.particles * 3 // 2])}
    ensemble = Ensemble(
        parse_args=True,
        executor=executor,
        sim_specs=SimSpecs(sim_f=run_forces, inputs=["x"], outputs=[("energy", float), ("job_id", int)], user=user),
        gen_specs=GenSpecs(
            gen_f=uniform_random_sample,
            outputs=[("x", float, (1,))],
            user={"gen_batch_size": args.sims, **bounds},
        ),
        exit_criteria=ExitCriteria(sim_max=args.sims),
    )
    ensemble.add_random_streams()
    return ensemble


def main() -> None:
    args = options()
    args.home = args.home.absolute()
    args.home.mkdir(parents=True, exist_ok=True)
    apps = ApplicationDefinition.load_by_site(args.site)
    with BalsamExecutor() as executor:  # leaves no task and no allocation behind
        executor.register_app(apps["RemoteForces"], app_name="forces")
        ensemble = ensemble_of(args, executor)
        if ensemble.is_manager and not args.no_allocation:
            executor.submit_allocation(
                site_id=Site.objects.get(name=args.site).id,
                num_nodes=args.nodes,
                wall_time_min=args.wall_time_min,
                queue=args.queue,
                project=args.project,
            )
        H, _, flag = ensemble.run()
    if ensemble.is_manager:
        finish(args, H, flag)


def finish(args: argparse.Namespace, H: np.ndarray, flag: int) -> None:
    """Save what the ensemble found; SystemExit when it did not come to its end."""
    done = H[H["sim_ended"]]
    np.save(args.home / "H.npy", done)
    good = done[np.isfinite(done["energy"])]
    print(f"{len(good)} of {args.sims} simulations gave an energy, {len(done) - len(good)} were killed or failed")
    if flag or len(done) < args.sims:
        raise SystemExit(f"the ensemble did not come to its end: {len(done)} of {args.sims}, flag {flag}")


if __name__ == "__main__":
    main()
