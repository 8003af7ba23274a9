"""`python -m bench [PART ...]`: measure, print a table, exit 1 when a goal's must is missed.

Floor and product run back to back in one run, because this kind of machine changes its speed from minute to minute.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from bench import fairness, holding, machine, moving, mpi, running, scheduling, starting, storing, waiting, workflows
from bench.product import Product
from bench.result import Goal, report
from bench.sizes import QUICK, make_quick, sized

ASKED_FOR = ("crowd", "postgres", "slurm")  # these need what the tests need
OF_POSTGRES = ("several", "crowd", "fairness", "running", "storing")
PARTS = ("starting", "running", "mpi", "scheduling", "waiting", "moving", "workflows", "fairness", "storing")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, *ASKED_FOR, []], default=[], help="all but the last three")
    parser.add_argument("--of", nargs="+", choices=OF_POSTGRES, default=OF_POSTGRES, help="parts of postgres")
    parser.add_argument("--jobs", type=int, default=5_000, help="no-op Jobs of G1")
    parser.add_argument("--rows", type=int, default=1_000_000, help="Jobs in the service when it is read")
    quick = f"1/{QUICK} of all sizes, to see that each part runs: its numbers mean nothing, and no goal is missed"
    parser.add_argument("--quick", action="store_true", help=quick)
    chosen = parser.parse_args()
    if chosen.quick:
        make_quick()
    jobs, rows = sized(chosen.jobs), sized(chosen.rows)
    # A `timeout` around the run must not leave the product behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parts = chosen.parts or list(PARTS)
    print(f"load of others: {machine.wait_for_quiet():.2f} cores", flush=True)
    goals: list[Goal] = []
    with tempfile.TemporaryDirectory(prefix="balsam-bench-", ignore_cleanup_errors=True) as directory:
        root = Path(directory)
        os.chdir(root)  # libEnsemble's own executor leaves its tasks' output where it stands
        if "starting" in parts:
            goals += starting.measure()
        if "running" in parts:
            with Product(root / "running") as product:
                goals += running.measure(product, root, jobs)
        if "mpi" in parts:
            goals += mpi.measure(root)
        if "scheduling" in parts:
            goals += [*scheduling.measure(), *holding.measure()]
        if "waiting" in parts:
            with Product(root / "waiting"):
                goals += waiting.measure()
        if "moving" in parts:
            with Product(root / "moving") as product:
                goals += moving.measure(product, root)
        if "workflows" in parts:
            with Product(root / "workflows"):
                goals += workflows.measure()
        if "fairness" in parts:
            goals += fairness.measure(root)
        if "storing" in parts:
            with Product(root / "storing") as product:
                goals += storing.measure(product, root, rows)
        if "crowd" in parts:
            from bench import crowd

            goals += crowd.measure(root, rows, {})
        if "postgres" in parts:
            from bench import postgres

            goals += postgres.measure(root, jobs, rows, chosen.of)
        if "slurm" in parts:
            from bench import slurm

            goals += slurm.measure()
    print(report(goals))
    return 0 if chosen.quick or all(goal.reaches(goal.must) for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
