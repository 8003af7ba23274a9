"""The forces program of this machine: forces.c where there is an mpicc, else forces.py. Run it where the Site is.

python build.py [DIRECTORY]

prints the command for `define_apps.py --forces`. What is compiled must be of the same MPI as the mpiexec that the Site
starts ranks with; both are the first on PATH unless settings.yml (`mpirun`) or the variable MPICC say otherwise.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def build(directory: Path) -> str:
    """The command of the program, which is compiled into `directory` if it is not there already."""
    source, target = HERE / "forces.c", directory.resolve() / "forces.x"
    in_python = shlex.join([sys.executable, str(HERE / "forces.py")])
    compiler = shutil.which(os.environ.get("MPICC", "mpicc"))
    if compiler is None or shutil.which("mpiexec") is None:
        return in_python
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        directory.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f"forces.{os.getpid()}")
        # Without fused operations the numbers are the same on every machine.
        options = ["-O2", "-ffp-contract=off"]
        done = subprocess.run([compiler, *options, "-o", str(fresh), str(source), "-lm"], check=False)
        if done.returncode:
            print(f"{compiler} can't compile {source.name}; the Python program is used instead", file=sys.stderr)
            return in_python
        fresh.replace(target)
    return shlex.quote(str(target))


if __name__ == "__main__":
    print(build(Path(sys.argv[1] if len(sys.argv) > 1 else "forces_program")))
