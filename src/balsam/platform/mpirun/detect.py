"""Which mpirun this machine has: asks the `mpiexec` on PATH what it is, once.

Called by the launcher at start and by `balsam doctor`; the sentence says what was found and why, for the log.
"""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from balsam.platform.mpirun.base import MpiRun
from balsam.platform.registry import MPIRUNS

VARIABLE = "BALSAM_MPIRUN"
AUTO = "auto"
_TIMEOUT_SEC = 20.0
# Order matters: Intel's text also speaks of hydra.
_SIGNATURES = (
    ("Intel(R) MPI", "intelmpi"),
    ("Open MPI", "openmpi"),
    ("OpenRTE", "openmpi"),
    ("HYDRA", "mpich"),
    ("slurm ", "srun"),
)
# What starts ranks in an allocation or instance of its own kind, by the variable that tells one.
_IN_ALLOCATION = (
    ("SLURM_JOB_ID", "srun", "in an allocation of Slurm"),
    ("FLUX_URI", "flux", "in an instance of Flux"),
    ("LSB_JOBID", "jsrun", "in an allocation of LSF"),
)
# By which these programs know that they run in one, by the batch system's name.
_MARK_OF = {"slurm": "SLURM_JOB_ID", "flux": "FLUX_URI", "lsf": "LSB_JOBID", "pbs": "PBS_JOBID"}
_VERSION = re.compile(r"\d+\.\d+(\.\d+)?")


class MpiRunMissing(LookupError):
    """The mpirun that was asked for by name is not on this machine; the text says what is."""


@dataclass(frozen=True, slots=True)
class Detected:
    """The adapter to use and the reason, one sentence."""

    mpirun: MpiRun
    reason: str


def detect(setting: str = AUTO, environ: Mapping[str, str] | None = None) -> Detected:
    """Choose the mpirun.

    `setting` (overridden by BALSAM_MPIRUN) is `auto`, a registered name (`srun`, `flux`, `jsrun`, `pals`, `mpich`,
    `openmpi`, `intelmpi`, `plain`), the path of an mpiexec, or `name:path`. `auto` takes srun in an allocation of
    Slurm, flux in an instance of Flux, jsrun in an allocation of LSF, else the mpiexec on PATH (that of PALS in an
    allocation of PBS only), and plain processes when there is none that answers. Raises MpiRunMissing for a name or
    path that is not there, UnknownBackEnd for a name nobody knows.

    >>> detect("plain").mpirun.name
    'plain'
    """
    environ = os.environ if environ is None else environ
    search = environ.get("PATH", os.defpath)
    wanted = environ.get(VARIABLE) or setting
    why = f"{VARIABLE}={wanted}" if environ.get(VARIABLE) else f"setting {wanted!r}"
    if wanted == AUTO:
        return _automatic(search, environ)
    name, _, program = ("", "", wanted) if wanted.startswith("/") else wanted.partition(":")
    if not program:
        return _named(name, search, why)
    if not os.access(program, os.X_OK) or Path(program).is_dir():
        raise MpiRunMissing(f"{why} names {program}, which is no program that can be executed")
    name = name or _recognise(program, why)
    return Detected(MPIRUNS.load(name)(program), f"{name}: {program}, by {why}")


def as_in_allocation(scheduler: str, environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which `detect` chooses as it will in an allocation of this batch system.

    >>> as_in_allocation("slurm", {"PATH": "/bin"})
    {'PATH': '/bin', 'SLURM_JOB_ID': '0'}
    """
    mark = _MARK_OF.get(scheduler)
    return {**environ} if mark is None else {**environ, mark: "0"}


def recognise_on_path(environ: Mapping[str, str]) -> tuple[str | None, str]:
    """The adapter's name for the `mpiexec` on PATH, and its path; None, and why, when there is none that is known."""
    path = shutil.which("mpiexec", path=environ.get("PATH", os.defpath))
    if path is None:
        return None, "no mpiexec on PATH"
    found, said = _ask(path)
    return (None, f"{path} is not known ({said})") if found is None else (found, path)


def _automatic(search: str, environ: Mapping[str, str]) -> Detected:
    for variable, name, where in _IN_ALLOCATION:
        program = shutil.which(name, path=search) if environ.get(variable) else None
        if program is not None:
            return Detected(MPIRUNS.load(name)(program), f"{name}: {program}, {where}")
    path = shutil.which("mpiexec", path=search)
    if path is None:
        return Detected(MPIRUNS.load("plain")(), "no mpiexec on PATH: ranks are started as plain processes")
    found, said = _ask(path)
    if found == "pals" and not environ.get("PBS_JOBID"):
        reason = f"{path} is {said}, and this is no allocation of PBS: ranks are started as plain processes"
        return Detected(MPIRUNS.load("plain")(), reason)
    if found is None:
        reason = f"{path} is not known ({said}): ranks are started as plain processes; set `mpirun` to override"
        return Detected(MPIRUNS.load("plain")(), reason)
    return Detected(MPIRUNS.load(found)(path), f"{found}: {path} is {said}")


def _named(wanted: str, search: str, why: str) -> Detected:
    adapter = MPIRUNS.load(wanted)
    if not adapter.programs:
        return Detected(adapter(), f"{adapter.name} by {why}")
    others: list[str] = []
    for program in adapter.programs:
        path = shutil.which(program, path=search)
        if path is None:
            continue
        found, said = _ask(path)
        if found in (None, adapter.name):
            return Detected(adapter(path), f"{adapter.name}: {path}, by {why}")
        others.append(f"{path} is {found} ({said!r})")
    there = "; ".join(others) or f"there is no {' or '.join(adapter.programs)} on PATH"
    raise MpiRunMissing(f"{why} asks for {adapter.name}, but {there}; load its module, or set `mpirun: auto`")


def _recognise(program: str, why: str) -> str:
    found, said = _ask(program)
    if found is None:
        raise MpiRunMissing(f"{why}: {program} is none that is known ({said}); write it as NAME:{program}")
    return found


def _ask(program: str) -> tuple[str | None, str]:
    """The adapter's name and what the program says of itself; None with the reason when it is not to be understood."""
    # The mpiexec of PALS is told by its directory: what its --version prints is not in public documentation.
    if "pals" in Path(program).resolve().parts:
        return "pals", "that of PALS by its directory"
    return _ask_once(program, Path(program).stat().st_mtime_ns)


@functools.cache
def _ask_once(program: str, _mtime_ns: int) -> tuple[str | None, str]:
    try:
        answer = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_SEC, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer to --version in {_TIMEOUT_SEC:g} s"
    except OSError as error:
        return None, f"can't be executed: {error.strerror}"
    text = (answer.stdout + answer.stderr).decode(errors="replace")
    version = _VERSION.search(text)
    for signature, name in _SIGNATURES:
        if signature in text:
            return name, f"{signature} {version[0] if version else 'of unknown version'}"
    first = next((line.strip() for line in text.splitlines() if line.strip()), "no output")
    return None, f"it says {first[:80]!r}"
