"""Which mpirun is chosen, and that the reason says why."""

import os
from pathlib import Path

import pytest

from balsam.platform.mpirun.detect import MpiRunMissing, as_in_allocation, detect
from balsam.platform.registry import UnknownBackEnd
from tests.platform.fake_commands import program_of, write_program

HYDRA = "echo 'HYDRA build details:'; echo '    Version:   4.0.2'"
OPENMPI4 = "echo 'mpiexec (OpenRTE) 4.1.4'"
INTEL = "echo 'Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230307'; echo HYDRA"


def path(directory: Path, **programs: str) -> dict[str, str]:
    for name, body in programs.items():
        write_program(directory, name.replace("__", "."), body)
    directory.mkdir(exist_ok=True)
    return {"PATH": str(directory)}


@pytest.mark.parametrize(
    ("says", "name"), [(HYDRA, "mpich"), (OPENMPI4, "openmpi"), ("echo 'mpiexec (Open MPI) 5.0.11'", "openmpi")]
)
def test_auto_recognises_what_is_on_path(tmp_path: Path, says: str, name: str) -> None:
    found = detect("auto", path(tmp_path, mpiexec=says))
    assert found.mpirun.name == name
    assert str(tmp_path / "mpiexec") in found.reason
    assert program_of(found.mpirun) == tmp_path / "mpiexec"


def test_auto_takes_srun_in_an_allocation_of_slurm_only(tmp_path: Path) -> None:
    both = path(tmp_path, mpiexec=HYDRA, srun="echo 'slurm 22.05.8'")
    assert detect("auto", both).mpirun.name == "mpich"
    found = detect("auto", {**both, "SLURM_JOB_ID": "7"})
    assert (found.mpirun.name, vars(found.mpirun)["srun"]) == ("srun", str(tmp_path / "srun"))
    assert detect(str(tmp_path / "srun"), both).mpirun.name == "srun"


@pytest.mark.parametrize("name", ["srun", "flux", "jsrun"])
def test_who_asks_outside_of_an_allocation_hears_what_is_taken_within(tmp_path: Path, name: str) -> None:
    """`balsam doctor` on the login node."""
    scheduler = {"srun": "slurm", "flux": "flux", "jsrun": "lsf"}[name]
    both = path(tmp_path, mpiexec=HYDRA, **{name: "exit 1"})
    assert detect("auto", as_in_allocation(scheduler, both)).mpirun.name == name
    assert detect("auto", as_in_allocation("gridengine", both)).mpirun.name == "mpich"


def test_intel_is_not_taken_for_mpich(tmp_path: Path) -> None:
    assert detect("auto", path(tmp_path, mpiexec=INTEL)).mpirun.name == "intelmpi"


def test_real_ones_are_recognised(mpich: Path, openmpi: Path, tmp_path: Path) -> None:
    for name, real in (("mpich", mpich), ("openmpi", openmpi)):
        assert detect(str(real)).mpirun.name == name


def test_nothing_on_path_means_plain_processes(tmp_path: Path) -> None:
    found = detect("auto", path(tmp_path))
    assert found.mpirun.name == "plain"
    assert found.reason == "no mpiexec on PATH: ranks are started as plain processes"


@pytest.mark.parametrize("body", ["echo 'Some vendor MPI 1.0'", "exit 1"])
def test_unknown_mpiexec_means_plain_processes_and_says_so(tmp_path: Path, body: str) -> None:
    found = detect("auto", path(tmp_path, mpiexec=body))
    assert found.mpirun.name == "plain"
    assert "is not known" in found.reason


def test_hanging_mpiexec_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balsam.platform.mpirun.detect._TIMEOUT_SEC", 0.3)
    found = detect("auto", path(tmp_path, mpiexec="exec /bin/sleep 600"))
    assert "no answer to --version in 0.3 s" in found.reason


def test_name_prefers_the_program_of_that_name(tmp_path: Path) -> None:
    """Debian: `mpiexec` belongs to whoever was installed last, mpiexec.mpich to MPICH."""
    both = path(tmp_path, mpiexec=OPENMPI4, mpiexec__mpich=HYDRA)
    assert program_of(detect("mpich", both).mpirun) == tmp_path / "mpiexec.mpich"
    assert program_of(detect("openmpi", both).mpirun) == tmp_path / "mpiexec"


def test_balsam_07_class_path_is_a_name(tmp_path: Path) -> None:
    assert detect("balsam.platform.app_run.MPICHRun", path(tmp_path, mpiexec=HYDRA)).mpirun.name == "mpich"


def test_named_but_absent_is_an_error_that_helps(tmp_path: Path) -> None:
    with pytest.raises(MpiRunMissing, match=r"there is no mpiexec\.mpich .* on PATH; load its module, or set `mpirun"):
        detect("mpich", path(tmp_path))
    with pytest.raises(MpiRunMissing, match=r"asks for mpich, but .*/mpiexec is openmpi \('OpenRTE 4\.1\.4'\)"):
        detect("mpich", path(tmp_path, mpiexec=OPENMPI4))
    with pytest.raises(UnknownBackEnd, match="did you mean 'openmpi'"):
        detect("openmp", path(tmp_path))


def test_path_and_name_with_path(tmp_path: Path) -> None:
    program = write_program(tmp_path, "my-mpi", "echo 'Site MPI'")
    named = detect(f"mpich:{program}", {"PATH": ""})
    assert (named.mpirun.name, program_of(named.mpirun)) == ("mpich", program)
    with pytest.raises(MpiRunMissing, match=f"write it as NAME:{program}"):
        detect(str(program), {"PATH": ""})
    with pytest.raises(MpiRunMissing, match="no program that can be executed"):
        detect(str(tmp_path / "absent"), {"PATH": ""})


def test_environment_overrides_the_setting(tmp_path: Path) -> None:
    found = detect("mpich", {**path(tmp_path, mpiexec=HYDRA), "BALSAM_MPIRUN": "plain"})
    assert (found.mpirun.name, found.reason) == ("plain", "plain by BALSAM_MPIRUN=plain")


def test_answer_is_asked_for_once(tmp_path: Path) -> None:
    counting = path(tmp_path, mpiexec=f"echo x >> {tmp_path}/asked; {HYDRA}")
    for _ in range(3):
        assert detect("auto", {**counting, "LANG": os.environ.get("LANG", "")}).mpirun.name == "mpich"
    assert (tmp_path / "asked").read_text() == "x\n"
