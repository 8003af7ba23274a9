"""The adapters for PALS, Flux and jsrun: their words, and that fakes of those programs start the ranks so asked for.

No real one was ever at hand. The fakes are strict: a word that public documentation doesn't have ends them.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from balsam.domain.job import Resources
from balsam.domain.packing import Node, NodePool
from balsam.platform.mpirun.base import LaunchParamRefused, MpiRun, NodeRanks, RankPlacement, without_rank_variables
from balsam.platform.mpirun.detect import detect
from balsam.platform.mpirun.flux import FluxRun
from balsam.platform.mpirun.jsrun import Jsrun, resource_file
from balsam.platform.mpirun.pals import Pals
from tests.platform.fake_commands import write_program

FAKE = Path(__file__).parent / "fakes" / "rank_starters.py"
PROGRAMS = {"pals": "pals/bin/mpiexec", "flux": "bin/flux", "jsrun": "bin/jsrun"}
ADAPTERS: list[Callable[[], MpiRun]] = [Pals, FluxRun, Jsrun]

TWO_NODES = RankPlacement(
    (NodeRanks("a", 2, (4, 5, 6, 7), ("0", "1")), NodeRanks("b", 2, (4, 5, 6, 7), ("0", "1"))), is_local=False
)
OTHER_CORES = RankPlacement((NodeRanks("a", 2, (0, 1)), NodeRanks("b", 2, (2, 3))), is_local=False)
CROWDED = RankPlacement((NodeRanks("a", 4, (0, 1)),), oversubscribed=True)
ONE_RANK = RankPlacement((NodeRanks("a", 1, (0,)),))
UNEVEN = RankPlacement((NodeRanks("a", 2), NodeRanks("b", 1)), is_local=False)


def with_gpus(*gpu_ids: str) -> RankPlacement:
    return RankPlacement((NodeRanks("a", 2, (0, 1), gpu_ids),))


def words(mpirun: MpiRun, placement: RankPlacement, env: Mapping[str, str] | None = None) -> str:
    return " ".join(mpirun.command(placement, ["app", "x"], env or {}).argv)


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        (TWO_NODES, "--hosts a,b -n 4 --ppn 2 --cpu-bind list:4,5:6,7 app x"),
        (OTHER_CORES, "--hosts a,b -n 4 --ppn 2 --cpu-bind none app x"),
        (CROWDED, "--hosts a -n 4 --ppn 4 --cpu-bind none app x"),
        (with_gpus("1.0", "1.1"), "--hosts a -n 2 --ppn 2 --cpu-bind list:0:1 --gpu-bind list:1.0:1.1 app x"),
        (with_gpus("1.0", "1.0"), "--hosts a -n 2 --ppn 2 --cpu-bind list:0:1 --gpu-bind list:1.0:1.0 app x"),
        (with_gpus("0.0", "0.1", "1.0", "1.1"), "--hosts a -n 2 --ppn 2 --cpu-bind list:0:1 app x"),
    ],
)
def test_pals_words(placement: RankPlacement, expected: str) -> None:
    """Whole GPUs, or several tiles, are none that PALS binds: the Aurora guide shows its refusal."""
    assert words(Pals("/p/mpiexec"), placement) == f"/p/mpiexec --envall {expected}"


@pytest.mark.parametrize(
    ("placement", "env", "expected"),
    [
        (TWO_NODES, {}, "--requires=host:a,b -oexit-on-error -ocpu-affinity=map:4,5;6,7 -ogpu-affinity=map:0;1"),
        (OTHER_CORES, {}, "--requires=host:a,b -oexit-on-error -ocpu-affinity=off -ogpu-affinity=off"),
        (with_gpus("2", "3"), {}, "--requires=host:a -oexit-on-error -ocpu-affinity=map:0;1 -ogpu-affinity=map:2;3"),
        (with_gpus("GPU-ab", "GPU-cd"), {}, "-ocpu-affinity=map:0;1 -ogpu-affinity=off"),
        (with_gpus("2", "3"), {"ROCR_VISIBLE_DEVICES": "2,3"}, "-ocpu-affinity=map:0;1 -ogpu-affinity=off"),
        (CROWDED, {}, "--tasks-per-node=4 --requires=host:a -oexit-on-error -ocpu-affinity=off -ogpu-affinity=off"),
    ],
)
def test_flux_words(placement: RankPlacement, env: dict[str, str], expected: str) -> None:
    said = words(FluxRun(), placement, env)
    count = len(placement.nodes)
    assert said.startswith(f"flux run --nodes={count} --cores={count} --tasks-per-node={placement.nodes[0].ranks} ")
    assert said.endswith(f"{expected} app x")


def test_jsrun_words_and_resource_file() -> None:
    command = Jsrun("/j/jsrun").command(TWO_NODES, ["app", "x"], {}).argv
    assert command[-5:] == ["--", "/j/jsrun", "--exit_on_error=1", "app", "x"]
    text = resource_file(TWO_NODES)
    assert text in command
    assert [line for line in text.splitlines() if line.startswith("rank")] == [
        "rank: 0: { hostname: a; cpu: {16-19,20-23} ; gpu: {0} ; mem: * }",
        "rank: 1: { hostname: a; cpu: {24-27,28-31} ; gpu: {1} ; mem: * }",
        "rank: 2: { hostname: b; cpu: {16-19,20-23} ; gpu: {0} ; mem: * }",
        "rank: 3: { hostname: b; cpu: {24-27,28-31} ; gpu: {1} ; mem: * }",
    ]
    assert "rank: 3: { hostname: b; cpu: {12-15} ; mem: * }\n" in resource_file(OTHER_CORES)
    assert resource_file(CROWDED).count("cpu: {0-3,4-7} ; mem") == 4


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_one_rank_here_runs_directly_and_elsewhere_does_not(adapter: Callable[[], MpiRun]) -> None:
    assert adapter().command(ONE_RANK, ["app", "x"], {}).argv == ["app", "x"]
    elsewhere = RankPlacement(ONE_RANK.nodes, is_local=False)
    assert len(adapter().command(elsewhere, ["app", "x"], {}).argv) > 4


@pytest.mark.parametrize(
    ("adapter", "taken", "shown"),
    [
        (Pals, {"cpu_bind": "depth", "depth": "8"}, "--cpu-bind depth --depth 8 app"),
        (FluxRun, {"cpu-affinity": "per-task", "mpi": "spectrum"}, "-ocpu-affinity=per-task"),
        (Jsrun, {"smpiargs": "off"}, "--exit_on_error=1 --smpiargs off app"),
    ],
)
def test_launch_params_are_a_closed_list_s15(adapter: Callable[[], MpiRun], taken: dict[str, str], shown: str) -> None:
    said = words(adapter(), RankPlacement(TWO_NODES.nodes, False, launch_params=taken))
    assert shown in said
    assert "list:" not in said and "cpu-affinity=map" not in said
    for bad in ({"hostfile": "x"}, {"taskmap": "x"}, {"pre_post_exec": "/bin/evil"}, {"rank-cpu": "x"}):
        with pytest.raises(LaunchParamRefused, match="it takes: "):
            words(adapter(), RankPlacement(TWO_NODES.nodes, False, launch_params=bad))


@pytest.mark.parametrize("adapter", [Pals, FluxRun])
def test_one_number_of_ranks_for_all_nodes(adapter: Callable[[], MpiRun]) -> None:
    with pytest.raises(LaunchParamRefused, match="as many ranks on each node, not 2, 1"):
        words(adapter(), UNEVEN)


def test_ranks_of_an_outer_run_are_not_passed_on() -> None:
    kept = {"PALS_PMI": "pmix", "FLUX_URI": "local:///x", "LSB_JOBID": "7"}
    ranks = dict.fromkeys(("PALS_RANKID", "PALS_LOCAL_SIZE", "FLUX_TASK_RANK", "JSM_NAMESPACE_RANK"), "1")
    assert without_rank_variables({**kept, **ranks}) == kept


@pytest.fixture
def search_path(tmp_path: Path) -> str:
    """PATH with the three fakes first."""
    for name in PROGRAMS.values():
        start = shlex.join([sys.executable, "-S", "-E", str(FAKE), Path(name).name])
        write_program((tmp_path / name).parent, Path(name).name, f'exec {start} "$@"')
    return f"{tmp_path}/pals/bin:{tmp_path}/bin:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("inside", "name"),
    [
        ({"PBS_JOBID": "1.pbs"}, "pals"),
        ({"FLUX_URI": "local:///x"}, "flux"),
        ({"LSB_JOBID": "7"}, "jsrun"),
        ({}, "plain"),
    ],
)
def test_auto_takes_each_inside_its_own_kind_of_allocation(
    inside: dict[str, str], name: str, search_path: str, tmp_path: Path
) -> None:
    found = detect("auto", {"PATH": search_path, **inside})
    assert found.mpirun.name == name
    assert str(tmp_path) in found.reason


@pytest.mark.parametrize("name", PROGRAMS)
def test_by_name_outside_of_an_allocation_too(name: str, search_path: str, tmp_path: Path) -> None:
    made = detect(name, {"PATH": search_path}).mpirun
    assert made.name == name
    assert str(tmp_path / PROGRAMS[name]) in vars(made).values()


def test_balsam_07_class_paths_are_names(search_path: str) -> None:
    assert detect("balsam.platform.app_run.PolarisRun", {"PATH": search_path}).mpirun.name == "pals"


def show(directory: Path, code: int = 0) -> list[str]:
    """A rank that writes down its environment and arguments."""
    body = f"""import json, os, sys
rank = next(os.environ[name] for name in ("PALS_RANKID", "FLUX_TASK_RANK", "JSM_NAMESPACE_RANK") if name in os.environ)
json.dump(dict(os.environ, ARGV=json.dumps(sys.argv[1:])), open({str(directory)!r} + "/" + rank + ".json", "w"))
sys.exit({code})"""
    return [sys.executable, "-S", "-E", "-c", body]


def run(mpirun: MpiRun, argv: list[str], placement: RankPlacement, env: dict[str, str]) -> int:
    command = mpirun.command(placement, argv, env)
    whole = {**without_rank_variables(os.environ), **env, **command.env}
    return subprocess.run(command.argv, env=whole, timeout=60, check=False).returncode


GPUS = {"pals": "ZE_AFFINITY_MASK", "flux": "CUDA_VISIBLE_DEVICES", "jsrun": "CUDA_VISIBLE_DEVICES"}
CPUS = {"pals": ["0,1", "2,3"], "flux": ["0,1", "2,3"], "jsrun": ["0-3,4-7", "8-11,12-15"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_ranks_start_where_the_launcher_placed_them(name: str, search_path: str, tmp_path: Path) -> None:
    """Hosts, cores, GPUs, threads and the Job's variables, from the resources that a user asks for to each rank."""
    gpus = ("0.0", "0.1") if name == "pals" else ("0", "1")
    nodes = [Node("a", (0, 1, 2, 3), gpus), Node("b", (0, 1, 2, 3), gpus)]
    place = NodePool.of(nodes).place(Resources(num_nodes=2, ranks_per_node=2, threads_per_rank=2, gpus_per_rank=1))
    assert place is not None
    mpirun = detect(name, {"PATH": search_path}).mpirun
    directory = tmp_path / "ranks"
    directory.mkdir()
    env = {"EXTRA": "a b=c", "OMP_NUM_THREADS": "2", "TMPDIR": str(directory)}
    arguments = ["a b", "--hosts", "-n", ":", "$(id)"]
    placement = RankPlacement.of(place, nodes, {}, is_local=False)
    assert run(mpirun, [*show(directory), *arguments], placement, env) == 0
    found = {int(path.stem): json.loads(path.read_text()) for path in directory.iterdir()}
    assert sorted(found) == [0, 1, 2, 3]
    assert [found[rank]["FAKE_HOST"] for rank in range(4)] == ["a", "a", "b", "b"]
    assert [found[rank]["FAKE_CPUS"] for rank in range(4)] == CPUS[name] * 2
    assert [found[rank][GPUS[name]] for rank in range(4)] == [*gpus] * 2
    for one in found.values():
        assert (one["EXTRA"], one["OMP_NUM_THREADS"], json.loads(one["ARGV"])) == ("a b=c", "2", arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_exit_code_comes_through(name: str, search_path: str, tmp_path: Path) -> None:
    assert run(detect(name, {"PATH": search_path}).mpirun, show(tmp_path, code=3), TWO_NODES, {}) == 3


def test_a_jsrun_that_is_ended_leaves_no_file(tmp_path: Path) -> None:
    """The launcher signals the group: jsrun ends by it, and who started it tidies up."""
    jsrun = write_program(tmp_path / "bin", "jsrun", "echo $1\nexec sleep 60")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = Jsrun(str(jsrun)).command(TWO_NODES, ["app"], {})
    env = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(command.argv, env=env, start_new_session=True, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            said = started.stdout.readline()
            (file,) = scratch.iterdir()
            assert said == f"--erf_input={file}\n"
            assert file.read_text() == resource_file(TWO_NODES)
            os.killpg(started.pid, signal.SIGTERM)
            assert started.wait(30) == 128 + signal.SIGTERM
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)
    assert not list(scratch.iterdir())


def test_a_jsrun_that_is_not_there_is_said() -> None:
    command = Jsrun("/nowhere/jsrun").command(TWO_NODES, ["app"], {})
    done = subprocess.run(command.argv, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (127, "/nowhere/jsrun: No such file or directory\n")
