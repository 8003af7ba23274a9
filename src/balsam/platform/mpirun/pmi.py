"""Which process management interface (`srun --mpi`) the MPI of this machine needs, tried out once for each allocation.

With the wrong one every rank of an MPI program takes itself for the only one, and srun ends with 0 all the same. So two
ranks of a small program are started with the MPI whose mpiexec is on PATH, and must see each other. Programs that are
linked with another MPI get what that one needs, untried (`linked_mpi`); of those that hide it (scripts, Python) nothing
is known here: their Apps say `launch_params={"mpi": "pmix"}`.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from balsam.platform.mpirun.detect import recognise_on_path
from balsam.platform.mpirun.mpi_probe import EXIT_NO_LIBRARY

VARIABLE = "BALSAM_PMI"
_PROBE = str(Path(__file__).with_name("mpi_probe.py"))
_TIMEOUT_SEC = 20.0
_SIZE = re.compile(r"^balsam-mpi-size (\d+)$", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
_WANTED = {"mpich": ("pmi2", "cray_shasta"), "intelmpi": ("pmi2",), "openmpi": ("pmix",)}
_LINKED = ("mpich", "openmpi")  # what `linked_mpi` tells apart
_LIBRARIES = {
    "mpich": ("libmpi.so.12", "libmpich.so.12", "libmpi_cray.so.12"),
    "intelmpi": ("libmpi.so.12",),
    "openmpi": ("libmpi.so.40",),
}


class Singletons(LookupError):
    """Ranks that srun starts do not see each other; the text says what was tried and what to do."""


@dataclass(frozen=True, slots=True)
class Pmi:
    """What `--mpi` is to say, None for Slurm's own default, and why, one sentence.

    `of_others`: what it is to say for programs that are linked with another MPI, by its family.
    """

    name: str | None
    reason: str
    of_others: Mapping[str, str] = field(default_factory=dict)


def choose_pmi(srun: str, hosts: Sequence[str], environ: Mapping[str, str]) -> Pmi:
    """Try out what the MPI on PATH needs, with two ranks on the first of `hosts`; BALSAM_PMI or Slurm's own
    SLURM_MPI_TYPE says it without a trial.

    Raises Singletons when the ranks saw that they are alone, whatever was tried.
    """
    for variable in (VARIABLE, "SLURM_MPI_TYPE"):
        forced = environ.get(variable)
        if forced and not _WORD.fullmatch(forced):
            raise Singletons(f"{variable}={forced!r} is no name of a plug-in; `srun --mpi=list` lists them")
        if forced:
            return Pmi(forced, f"--mpi={forced} by {variable}, not tried out")
    family, mpiexec = recognise_on_path(environ)
    known = _run([srun, "--mpi=list"], environ)[1]
    like = "mpich" if family == "intelmpi" else family
    others = {other: names[0] for other in _LINKED if other != like and (names := _there(other, known))}
    if family not in _WANTED:
        reason = f"Slurm's own --mpi, not tried out: {mpiexec}; {VARIABLE} chooses another"
        return Pmi(None, reason, others)
    candidates = _there(family, known)
    said = []
    alone = False
    for name in candidates:
        code, text = _run(_probe_words(srun, name, hosts, family, mpiexec), environ)
        sizes = [int(size) for size in _SIZE.findall(text)]
        if code == 0 and sizes == [2, 2]:
            return Pmi(name, f"--mpi={name}: two ranks of {family} ({mpiexec}) see each other", others)
        alone |= 1 in sizes
        said.append(f"--mpi={name}: {_told(code, sizes)}")
    tried = "; ".join(said) or f"this Slurm has none of {', '.join(_WANTED[family])}"
    if alone or not candidates:
        raise Singletons(
            f"ranks of {family} ({mpiexec}) that srun starts do not see each other ({tried}); set `mpirun: {family}` "
            f"in settings.yml to start them with its own mpiexec, or {VARIABLE} in job-template.sh"
        )
    return Pmi(candidates[0], f"--mpi={candidates[0]} as {family} is on PATH; not verified: {tried}", others)


def _there(family: str, known: str) -> list[str]:
    """What the MPI may need, of that which this Slurm has."""
    return [name for name in _WANTED[family] if re.search(rf"\b{name}\b", known)]


def _probe_words(srun: str, pmi: str, hosts: Sequence[str], family: str, mpiexec: str) -> list[str]:
    prefix = Path(mpiexec).parent.parent
    names = _LIBRARIES[family]
    # An MPI outside the system's directories stands beside its mpiexec.
    libraries = [str(prefix / lib / name) for lib in ("lib", "lib64") for name in names] + [*names]
    where = [f"--nodes={len(hosts[:2])}", "--ntasks=2", f"--nodelist={','.join(hosts[:2])}", f"--mpi={pmi}"]
    program = [sys.executable, "-I", "-S", _PROBE, "openmpi" if family == "openmpi" else "mpich", *libraries]
    return [srun, *where, "--overlap", "--overcommit", "--mem=0", "--input=none", "--export=ALL", *program]


def _told(code: int, sizes: list[int]) -> str:
    if sizes:
        return f"world sizes {', '.join(map(str, sizes))} instead of 2, 2"
    return "its library is not found" if code == EXIT_NO_LIBRARY else f"the trial ended with {code}"


def _run(words: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and output; 124 when it took too long."""
    program = shutil.which(words[0], path=environ.get("PATH"))
    try:
        answer = subprocess.run(
            [program or words[0], *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_SEC,
            check=False,
            env=dict(environ),
        )
    except subprocess.TimeoutExpired:
        return 124, ""
    except OSError as error:
        return 127, str(error)
    return answer.returncode, answer.stdout.decode(errors="replace")
