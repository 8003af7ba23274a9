"""Which --mpi is chosen for srun: a fake srun says what its ranks saw, or starts real singletons of a real MPICH."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from balsam.platform.mpirun import pmi
from balsam.platform.mpirun.base import NodeRanks, RankPlacement
from balsam.platform.mpirun.linked_mpi import linked_mpi
from balsam.platform.mpirun.pmi import Singletons, choose_pmi
from balsam.platform.mpirun.srun import Srun
from tests.platform.fake_commands import write_program

HYDRA = "echo 'HYDRA build details:'"
OPENMPI = "echo 'mpiexec (Open MPI) 5.0.11'"
LIST = 'case "$*" in *--mpi=list*) echo "MPI plugin types are... pmix none cray_shasta pmi2"; exit;; esac\n'
SEES = "echo balsam-mpi-size 2; echo balsam-mpi-size 2"
ALONE = "echo balsam-mpi-size 1; echo balsam-mpi-size 1"
REAL_SINGLETONS = (
    'while [ "$1" != -I ]; do last=$1; shift; [ "${last#*python}" = "$last" ] || break; done; "$last" "$@"'
)


def environ(directory: Path, mpiexec: str, srun: str) -> dict[str, str]:
    write_program(directory / "bin", "mpiexec", mpiexec)
    write_program(directory / "bin", "srun", LIST + srun)
    return {"PATH": f"{directory / 'bin'}:{os.defpath}"}


@pytest.mark.parametrize(("mpiexec", "wanted"), [(HYDRA, "pmi2"), (OPENMPI, "pmix")])
def test_what_works_for_the_mpi_on_path_is_taken(tmp_path: Path, mpiexec: str, wanted: str) -> None:
    srun = f'case "$*" in *--mpi={wanted}*) {SEES};; *) {ALONE};; esac'
    found = choose_pmi("srun", ["n1", "n2", "n3"], environ(tmp_path, mpiexec, srun))
    assert found.name == wanted
    assert "see each other" in found.reason


def test_another_one_is_tried_when_ranks_are_alone(tmp_path: Path) -> None:
    srun = f'case "$*" in *--mpi=cray_shasta*) {SEES};; *) {ALONE};; esac'
    assert choose_pmi("srun", ["n1"], environ(tmp_path, HYDRA, srun)).name == "cray_shasta"


def test_a_world_of_one_rank_is_not_accepted(tmp_path: Path) -> None:
    with pytest.raises(Singletons, match=r"--mpi=pmi2: world sizes 1, 1 instead of 2, 2; .*set `mpirun: mpich`"):
        choose_pmi("srun", ["n1", "n2"], environ(tmp_path, HYDRA, ALONE))


def test_what_can_not_be_tried_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = choose_pmi("srun", ["n1"], environ(tmp_path, HYDRA, "exit 3"))
    assert found.name == "pmi2" and "not verified: --mpi=pmi2: its library is not found" in found.reason
    monkeypatch.setattr(pmi, "_TIMEOUT_SEC", 0.2)
    found = choose_pmi("srun", ["n1"], environ(tmp_path, OPENMPI, "exec sleep 600"))
    assert found.name == "pmix" and "the trial ended with 124" in found.reason
    found = choose_pmi("srun", ["n1"], environ(tmp_path, "echo who", SEES))
    assert found.name is None and "is not known" in found.reason


def test_it_can_be_forced(tmp_path: Path) -> None:
    given = environ(tmp_path, HYDRA, ALONE)
    assert choose_pmi("srun", ["n1"], {**given, "BALSAM_PMI": "pmix_v4"}).name == "pmix_v4"
    assert choose_pmi("srun", ["n1"], {**given, "SLURM_MPI_TYPE": "pmix"}).name == "pmix"
    with pytest.raises(Singletons, match="is no name of a plug-in"):
        choose_pmi("srun", ["n1"], {**given, "BALSAM_PMI": "--prolog=/bin/evil"})


def test_the_program_that_asks_the_library_finds_itself_alone(tmp_path: Path, mpich: Path) -> None:
    """A real MPICH without srun's help: what the wrong plug-in does."""
    given = environ(tmp_path, HYDRA, f"({REAL_SINGLETONS})\n")
    (tmp_path / "lib").symlink_to(mpich.resolve().parent.parent / "lib")
    with pytest.raises(Singletons, match="world sizes 1 instead of 2, 2"):
        choose_pmi("srun", ["n1"], given)


def test_programs_of_another_mpi_get_what_that_one_needs(tmp_path: Path) -> None:
    """Of the MPI on PATH two ranks are tried out; with its plug-in the other's would each be alone."""
    assert choose_pmi("srun", ["n1"], environ(tmp_path, HYDRA, SEES)).of_others == {"openmpi": "pmix"}
    assert choose_pmi("srun", ["n1"], environ(tmp_path, OPENMPI, SEES)).of_others == {"mpich": "pmi2"}
    unknown = choose_pmi("srun", ["n1"], environ(tmp_path, "echo who", SEES))
    assert unknown.of_others == {"mpich": "pmi2", "openmpi": "pmix"}
    assert choose_pmi("srun", ["n1"], {**environ(tmp_path, HYDRA, ALONE), "BALSAM_PMI": "pmix"}).of_others == {}


@pytest.mark.parametrize(
    ("content", "family"),
    [
        (b"\x7fELF..\0libc.so.6\0libmpich.so.12\0", "mpich"),
        (b"\x7fELF..\0libmpi.so.12\0libc.so.6\0", "mpich"),
        (b"\x7fELF..\0libc.so.6\0libmpi.so.40\0", "openmpi"),
        (b"\x7fELF..\0libmpi.so.12\0libmpi.so.40\0", None),
        (b"\x7fELF..\0libmpi.so.401\0", None),
        (b"#!/bin/sh\n: \0libmpi.so.40\0", None),
        (b"", None),
    ],
)
def test_the_mpi_of_a_program_is_told_by_its_library(tmp_path: Path, content: bytes, family: str | None) -> None:
    (tmp_path / "program").write_bytes(content)
    (tmp_path / "program").chmod(0o755)
    assert linked_mpi(str(tmp_path / "program"), "") == linked_mpi("program", str(tmp_path)) == family
    assert linked_mpi("./program", str(tmp_path)) is None
    assert linked_mpi(str(tmp_path / "no-program"), "") is None


def test_srun_is_told_what_the_program_needs(tmp_path: Path) -> None:
    for name, library in (("other", b"libmpi.so.40"), ("own", b"libmpich.so.12")):
        (tmp_path / name).write_bytes(b"\x7fELF\0" + library + b"\0")
        (tmp_path / name).chmod(0o755)
    srun = Srun(pmi="pmi2", pmi_of_others={"openmpi": "pmix"})
    env = {"PATH": str(tmp_path), "BALSAM_JOB_ID": "7", "BALSAM_ATTEMPT": "1"}

    def said(*argv: str, **params: str) -> list[str]:
        placement = RankPlacement((NodeRanks("n1", 2, (0, 1)),), launch_params=params)
        words = srun.command(placement, argv, env).argv
        return [word for at, word in enumerate(words) if word.startswith("--mpi") or words[at - 1] == "--mpi"]

    assert said("own") == ["--mpi=pmi2"] and said("sh", "-c", "own") == ["--mpi=pmi2"]
    assert said("other", "x") == said(str(tmp_path / "other")) == ["--mpi=pmix"]
    assert said("other", mpi="none") == ["--mpi", "none"]
