"""Scenario B: libEnsemble itself is a Job of the allocation, and submits its simulations from inside.

python submit_libe_forces_remotely.py --site my-site      (after define_apps.py)

All energies come here when it is done; this machine may sleep meanwhile, `balsam job fetch` collects them later.
"""

import argparse
import time
from pathlib import Path

from balsam.api import ApplicationDefinition, BatchJob


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", default="local", help="name of the Site (default: local)")
    parser.add_argument("--home", type=Path, default=Path("forces_results"), help="directory for the energies")
    parser.add_argument("--sims", type=int, default=16, help="simulations (default: 16)")
    parser.add_argument("--particles", type=int, default=2000, help="about so many particles each (default: 2000)")
    parser.add_argument("--ranks", type=int, default=4, help="MPI ranks of each (default: 4)")
    parser.add_argument("--workers", type=int, default=4, help="libEnsemble's workers (default: 4)")
    parser.add_argument("--nodes", type=int, default=5, help="nodes: one for libEnsemble, the others for simulations")
    parser.add_argument("--wall-time-min", type=int, default=60, help="minutes of the allocation (default: 60)")
    parser.add_argument("--queue", default="local")
    parser.add_argument("--project", default="local")
    parser.add_argument("--timeout-sec", type=float, default=3600, help="how long to wait (default: 3600)")
    return parser.parse_args()


def main() -> None:
    args = options()
    home, run = args.home.absolute(), time.strftime("forces-%Y%m%d-%H%M%S")
    remote_libensemble = ApplicationDefinition.load_by_site(args.site)["RemoteLibensemble"]
    libe = remote_libensemble.submit(
        workdir=f"libe_workflow/{run}/libensemble",
        num_nodes=1,
        site=args.site,
        run=run,
        sims=str(args.sims),
        particles=str(args.particles),
        ranks=str(args.ranks),
        workers=str(args.workers),
        transfers={"results": f"client:{home}/"},
        tags={"example": "forces", "run": run},
    )
    batch = BatchJob.objects.create(
        site_id=libe.site_id,
        num_nodes=args.nodes,
        wall_time_min=args.wall_time_min,
        job_mode="mpi",
        queue=args.queue,
        project=args.project,
    )
    try:
        libe.result(timeout=args.timeout_sec)
    finally:
        batch.cancel()
    found = sorted(home.glob("forces*.stat"))
    print(f"{len(found)} of {args.sims} energy files are in {home}")
    if len(found) < args.sims:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
