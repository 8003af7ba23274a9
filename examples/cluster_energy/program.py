"""The simulation program as an App: compiled from cluster.c where there is a C compiler, else cluster.py.

Used by run_ensemble.py. The program reads its parameters from an input file that its first step writes in the Job's
work directory, and writes cluster.out, which `parse_output` reads.
"""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
OUTPUT = "cluster.out"
PARAMETERS = ("atoms", "seed", "hop_size", "temperature", "hops")


@dataclass(frozen=True)
class Result:
    """What one run found: lowest energy, the hop that found it, energies by hop, coordinates of the best cluster."""

    energy: float
    best_hop: int
    best_by_hop: np.ndarray
    geometry: np.ndarray


def build(directory: Path) -> list[str]:
    """The command of the program, compiled into ``directory`` if it is not there already and a compiler is."""
    source, target = HERE / "cluster.c", directory / "cluster"
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return [sys.executable, str(HERE / "cluster.py")]
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        directory.mkdir(parents=True, exist_ok=True)
        fresh = directory / f"cluster.{os.getpid()}"
        subprocess.run([compiler, "-O2", "-o", str(fresh), str(source), "-lm"], check=True)
        fresh.replace(target)
    return [str(target)]


def command_template(command: list[str]) -> str:
    """Two steps in one line of shell: write the input file, then run on it."""
    program = shlex.join(command)
    options = " ".join(f"--{name.replace('_', '-')} {{{{ {name} }}}}" for name in PARAMETERS)
    return f"{program} --write-input cluster.in {options} && {program} cluster.in {OUTPUT}"


def parse_output(text: str) -> Result:
    """Read cluster.out; raises ValueError when the run did not come to its end."""
    head, found, tail = text.partition("# geometry\n")
    lines = [line.split() for line in head.splitlines() if line and not line.startswith("#")]
    named = {words[0]: words[1] for words in lines if len(words) == 2}
    if not found or "energy" not in named:
        raise ValueError(f"{OUTPUT} is not complete; its end: {text[-200:]!r}")
    return Result(
        energy=float(named["energy"]),
        best_hop=int(named["best_hop"]),
        best_by_hop=np.array([float(words[2]) for words in lines if len(words) == 3]),
        geometry=np.array([[float(word) for word in line.split()] for line in tail.splitlines()]),
    )
