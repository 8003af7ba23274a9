"""Programs for a PATH of the test's own."""

import stat
from pathlib import Path

from balsam.platform.mpirun.base import MpiRun


def write_program(directory: Path, name: str, body: str) -> Path:
    """An executable shell script."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def program_of(mpirun: MpiRun) -> Path:
    """The mpiexec that an adapter calls; the protocol does not ask for one."""
    return Path(vars(mpirun)["mpiexec"])
