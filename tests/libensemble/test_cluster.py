"""The example's program: C and Python give the same numbers, and both find the lowest energies that are known."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "cluster_energy"
sys.path.insert(0, str(EXAMPLE))
import program  # noqa: E402

LOWEST_KNOWN = {7: -16.505384, 13: -44.326801}
IN_PYTHON = [sys.executable, str(EXAMPLE / "cluster.py")]


@pytest.fixture(scope="session")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler on this machine")
    return program.build(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(params=["c", "python"])
def either(request: pytest.FixtureRequest) -> list[str]:
    return IN_PYTHON if request.param == "python" else request.getfixturevalue("in_c")


def run(command: list[str], directory: Path, **settings: object) -> program.Result:
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    subprocess.run([*command, "--write-input", "cluster.in", *words], cwd=directory, check=True)
    subprocess.run([*command, "cluster.in", program.OUTPUT], cwd=directory, check=True, stdout=subprocess.DEVNULL)
    return program.parse_output((directory / program.OUTPUT).read_text())


@pytest.mark.slow
@pytest.mark.parametrize("atoms", sorted(LOWEST_KNOWN))
def test_finds_the_lowest_energy_known(either: list[str], atoms: int, tmp_path: Path) -> None:
    result = run(either, tmp_path, atoms=atoms, seed=3, hops=12)
    assert result.energy == pytest.approx(LOWEST_KNOWN[atoms], abs=2e-6)
    assert result.geometry.shape == (atoms, 3)
    assert len(result.best_by_hop) == 13


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_both_programs_give_the_same_numbers(in_c: list[str], seed: int, tmp_path: Path) -> None:
    settings = {"atoms": 11, "seed": seed, "hops": 6, "hop_size": 0.35, "temperature": 0.7}
    ours = run(in_c, tmp_path, **settings)
    theirs = run(IN_PYTHON, tmp_path, **settings)
    assert ours.best_by_hop == pytest.approx(theirs.best_by_hop, abs=1e-6)
    assert (ours.energy, ours.best_hop) == (pytest.approx(theirs.energy, abs=1e-6), theirs.best_hop)


@pytest.mark.slow
def test_the_result_depends_on_the_input_alone(either: list[str], tmp_path: Path) -> None:
    first = run(either, tmp_path, atoms=12, seed=5, hops=0)
    again = run(either, tmp_path, atoms=12, seed=5, hops=0)
    other = run(either, tmp_path, atoms=12, seed=6, hops=0)
    assert list(first.best_by_hop) == list(again.best_by_hop)
    assert list(first.best_by_hop) != list(other.best_by_hop)


@pytest.mark.parametrize(
    "wrong", [["--atoms", "1"], ["--hop-size", "0"], ["--temperature", "-1"], ["--size", "3"], ["--atoms", "many"]]
)
def test_wrong_settings_are_refused(either: list[str], wrong: list[str], tmp_path: Path) -> None:
    done = subprocess.run([*either, "--write-input", "cluster.in", *wrong], cwd=tmp_path, capture_output=True)
    assert done.returncode != 0
    assert done.stderr
    assert not (tmp_path / "cluster.in").exists()


def test_an_output_that_was_cut_off_is_not_a_result(in_c: list[str], tmp_path: Path) -> None:
    run(in_c, tmp_path, atoms=5, seed=1, hops=3)
    whole = (tmp_path / program.OUTPUT).read_text()
    with pytest.raises(ValueError, match="not complete"):
        program.parse_output(whole[: whole.index("energy ")])


def test_without_a_compiler_the_program_is_the_python_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program.build(tmp_path / "program") == IN_PYTHON
