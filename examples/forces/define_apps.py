"""The two Apps of the forces workflow. Run it once, and again after each change: python define_apps.py --site my-site

`--forces` is the command of the forces program at the Site, as `build.py` prints it there; by default it is built here,
for a Site on this machine. `--libe` is how the Site runs the calling script (scenario B); by default as it is here.
"""

import argparse
import shlex
import sys
from pathlib import Path

from build import build

from balsam.api import ApplicationDefinition

HERE = Path(__file__).resolve().parent


class RemoteForces(ApplicationDefinition):
    """The forces program; its energies, one a line, go wherever the Job says."""

    site = "local"
    command_template = "forces.x {{ sim_particles }} {{ sim_timesteps }} {{ seed }} {{ kill_rate }}"
    parameters = {"kill_rate": {"required": False, "default": "0"}}
    transfers = {
        "result": {
            "required": True,
            "direction": "out",
            "local_path": "forces.stat",
            "description": "energy of each step",
            "recursive": False,
        }
    }


class RemoteLibensemble(ApplicationDefinition):
    """The calling script itself, as a Job of the allocation in which its simulations run."""

    site = "local"
    command_template = (
        "run_libe_forces.py --site {{ site }} --no-allocation --run {{ run }} --home results --sims {{ sims }} "
        "--particles {{ particles }} --ranks {{ ranks }} --comms local --nworkers {{ workers }}"
    )
    transfers = {
        "results": {
            "required": True,
            "direction": "out",
            "local_path": "results",
            "description": "energies of all simulations",
            "recursive": True,
        }
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", default="local", help="name of the Site (default: local)")
    parser.add_argument("--forces", help="command of the forces program at the Site")
    parser.add_argument("--libe", help="command of run_libe_forces.py at the Site")
    args = parser.parse_args()
    forces = args.forces or build(Path("forces_program"))
    libe = args.libe or shlex.join([sys.executable, str(HERE / "run_libe_forces.py")])
    for app, program, command in ((RemoteForces, "forces.x", forces), (RemoteLibensemble, "run_libe_forces.py", libe)):
        app.site = args.site
        app.command_template = app.command_template.replace(program, command, 1)
        app.sync()
        print(f"{app.__name__} at {args.site}: {app.command_template}")


if __name__ == "__main__":
    main()
