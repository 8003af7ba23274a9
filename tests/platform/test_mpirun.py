"""Command lines for mpiexec: what they say, and that MPICH's and Open MPI's own mpiexec understand them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from balsam.domain.job import Resources
from balsam.domain.packing import Node, NodePool
from balsam.platform.mpirun import mpich as mpich_module
from balsam.platform.mpirun import openmpi_ranks
from balsam.platform.mpirun.base import (
    LaunchParamRefused,
    MpiRun,
    NodeRanks,
    RankPlacement,
    one_program,
    without_rank_variables,
)
from balsam.platform.mpirun.flux import FluxRun
from balsam.platform.mpirun.jsrun import Jsrun
from balsam.platform.mpirun.mpich import IntelMpi, Mpich
from balsam.platform.mpirun.openmpi import OpenMpi
from balsam.platform.mpirun.pals import Pals
from balsam.platform.mpirun.plain import Plain
from balsam.platform.mpirun.srun import Srun
from balsam.platform.registry import MPIRUNS
from tests.launcher.conftest import wait_until
from tests.platform.fake_commands import program_of

ONE_NODE = RankPlacement((NodeRanks("n1", 4, (0, 1, 2, 3)),))
TWO_NODES = RankPlacement((NodeRanks("n1", 2), NodeRanks("n2", 2)), is_local=False)
UNEVEN = RankPlacement((NodeRanks("n1", 2), NodeRanks("n2", 1)), is_local=False)
ONE_RANK = RankPlacement((NodeRanks("n1", 1),))
RANK_PROGRAM = str(Path(__file__).with_name("rank_program.py"))


MARKS = {"BALSAM_JOB_ID": "7", "BALSAM_ATTEMPT": "2"}
NAMED = " --job-name=balsam-7.2"
HANDED_ON = " -x BALSAM_ATTEMPT -x BALSAM_JOB_ID"


def words(mpirun: MpiRun, placement: RankPlacement, env: Mapping[str, str] | None = None) -> str:
    argv = mpirun.command(placement, ["app", "x"], {**MARKS, **(env or {})}).argv
    return " ".join(argv).replace(NAMED, "").replace(HANDED_ON, "")


def test_mpich_words() -> None:
    assert words(Mpich(), ONE_NODE) == "mpiexec -launcher fork -hosts localhost -n 4 app x"
    assert words(Mpich("/m/mpiexec"), TWO_NODES) == "/m/mpiexec -hosts n1,n2 -ppn 2 -n 4 app x"
    assert words(Mpich(), UNEVEN) == "mpiexec -hosts n1:2,n2:1 -n 3 app x"
    pinned = Mpich(bind="cpus").command(ONE_NODE, ["app"], {}).argv
    assert pinned[-3:] == ["-bind-to", "user:0,1,2,3", "app"]


def test_mpich_pins_ranks_with_threads_to_disjoint_cores() -> None:
    placement = RankPlacement((NodeRanks("n1", 2, (4, 5, 6, 7)),), threads_per_rank=2)
    assert "user:4+5,6+7" in Mpich(bind="cpus").command(placement, ["app"], {}).argv


def test_openmpi_words() -> None:
    plain_user = OpenMpi(is_root=False, in_slurm=True)
    assert words(plain_user, ONE_NODE) == "mpiexec --host localhost:4 -n 4 --bind-to none app x"
    expected = "mpiexec --host n1:2,n2:2 --map-by ppr:2:node -n 4 --bind-to none -x A -x B app x"
    assert words(plain_user, TWO_NODES, {"B": "1", "A": "2", "BASH_FUNC_f%%": "() { :; }"}) == expected
    made = plain_user.command(UNEVEN, ["app"], MARKS)
    assert (made.reach, made.step) == ("step", "balsam-7.2@n1,n2"), "mpiexec passes no SIGTERM on to other nodes"
    made = OpenMpi(in_slurm=False).command(UNEVEN, ["app"], MARKS)
    assert (made.reach, made.step) == ("mpirun", ""), "nobody else gets there"
    made = OpenMpi(in_slurm=False).command(ONE_NODE, ["app"], MARKS)
    assert (made.reach, made.step) == ("step", "balsam-7.2@")
    assert words(plain_user, UNEVEN) == "mpiexec --host n1:2,n2:1 --map-by slot -n 3 --bind-to none app x"
    assert "--allow-run-as-root" in words(OpenMpi(is_root=True), ONE_NODE)
    crowded = RankPlacement((NodeRanks("n1", 4, (0,)),), oversubscribed=True)
    command = plain_user.command(crowded, ["app"], MARKS)
    assert "--oversubscribe" in command.argv
    assert command.env == {"OMPI_MCA_mpi_yield_when_idle": "1"}


def test_srun_words() -> None:
    always = "--overlap --mem=0 --kill-on-bad-exit=1 --input=none --export=ALL"
    where = "srun --nodes=2 --ntasks=4 --nodelist=n1,n2 --ntasks-per-node=2"
    assert words(Srun(), TWO_NODES) == f"{where} {always} --distribution=block -- app x"
    assert f"{always} --mpi=pmix --distribution" in words(Srun(pmi="pmix"), TWO_NODES)
    assert words(Srun(), UNEVEN).startswith(f"srun --nodes=2 --ntasks=3 --nodelist=n1,n2 {always}")
    assert "--overcommit" in words(Srun(), RankPlacement((NodeRanks("n1", 4, (0,)),), oversubscribed=True))
    own = RankPlacement(TWO_NODES.nodes, False, launch_params={"mpi": "pmi2", "cpu_bind": "cores"})
    command = words(Srun(pmi="pmix", binds=True), own)
    assert "--mpi pmi2 --cpu-bind cores -- app x" in command and "pmix" not in command and "mask" not in command


def test_srun_binds_ranks_to_the_cores_of_the_placement() -> None:
    same = RankPlacement((NodeRanks("n1", 2, (4, 5, 6, 7)), NodeRanks("n2", 2, (4, 5, 6, 7))), is_local=False)
    assert "--cpu-bind=mask_cpu:0x30,0xc0" in words(Srun(binds=True), same)
    other = RankPlacement((NodeRanks("n1", 2, (0, 1)), NodeRanks("n2", 2, (2, 3))), is_local=False)
    assert "--cpu-bind=none" in words(Srun(binds=True), other)
    crowded = RankPlacement((NodeRanks("n1", 2, (0,)),), oversubscribed=True)
    assert "--cpu-bind=none" in words(Srun(binds=True), crowded)
    assert "--cpu-bind" not in words(Srun(), same)


def test_srun_names_the_step_and_says_its_cores_and_gpus_behind_slurms_own_words() -> None:
    placement = RankPlacement(
        (NodeRanks("n1", 2, (0, 1, 2, 3, 4, 5)), NodeRanks("n2", 2, (0, 1, 2, 3))), is_local=False
    )
    env = {**MARKS, "ZE_AFFINITY_MASK": "0", "CUDA_VISIBLE_DEVICES": "1", "OTHER": "x"}
    made = Srun().command(placement, ["app", "x"], env)
    assert (made.reach, made.step) == ("step", "balsam-7.2")
    assert NAMED.strip() in made.argv
    assert "--cpus-per-task=2" in made.argv
    assert made.argv[-6:] == ["--", "/usr/bin/env", "CUDA_VISIBLE_DEVICES=1", "ZE_AFFINITY_MASK=0", "app", "x"]
    own = RankPlacement(placement.nodes, False, launch_params={"cpus-per-task": "1"})
    assert "--cpus-per-task=2" not in Srun().command(own, ["app"], env).argv


@pytest.mark.parametrize(
    ("srun", "ranks", "cores", "fields", "said"),
    [
        (Srun(), 2, 4, {}, "--cpus-per-task=2"),
        (Srun(), 4, 4, {}, ""),
        (Srun(cpus_per_core=2), 2, 4, {}, "--cpus-per-task=4"),
        (Srun(cpus_per_core=2), 4, 4, {}, "--cpus-per-task=2"),
        (Srun(cpus_per_core=2), 4, 1, {"oversubscribed": True}, ""),
        # On a shared node a step of part of it would be given the first part, whoever has it.
        (Srun(), 2, 4, {"is_shared": True}, ""),
        (Srun(cpus_per_core=2), 1, 1, {"is_shared": True}, ""),
        (Srun(binds=True), 2, 4, {"is_shared": True}, "--cpu-bind=mask_cpu:0x3,0xc"),
        # Slurm obeys masks in steps of whole nodes only.
        (Srun(binds=True, cpus_per_core=2), 2, 4, {}, "--cpu-bind=mask_cpu:0x3,0xc"),
        (Srun(binds=True), 2, 1, {"oversubscribed": True}, "--cpu-bind=none"),
        # What the user says.
        (Srun(binds=True), 2, 4, {"launch_params": {"cpu_bind": "cores"}}, "--cpus-per-task=2 --cpu-bind cores"),
        (Srun(), 2, 4, {"is_shared": True, "launch_params": {"hint": "nomultithread"}}, "--hint nomultithread"),
        (
            Srun(),
            2,
            4,
            {"is_shared": True, "launch_params": {"cpus-per-task": "2"}},
            "--cpus-per-task 2",
        ),
    ],
)
def test_srun_says_what_slurm_may_give_and_bind(
    srun: Srun, ranks: int, cores: int, fields: dict[str, Any], said: str
) -> None:
    placement = RankPlacement((NodeRanks("n1", ranks, tuple(range(cores))),), is_local=False, **fields)
    argv = srun.command(placement, ["app"], MARKS).argv
    after = argv[argv.index(NAMED.strip()) + 1 : argv.index("--")]
    assert " ".join(word for word in after if word != "--distribution=block") == said


@pytest.mark.parametrize("adapter", [Mpich, IntelMpi, OpenMpi])
def test_steps_of_mpiexec_do_not_wait_for_those_of_other_jobs(adapter: type[Mpich] | type[OpenMpi]) -> None:
    """It reaches the nodes of a Slurm by srun, whose steps otherwise want all of a node for themselves."""
    assert adapter().command(TWO_NODES, ["app"], MARKS).env["SLURM_OVERLAP"] == "1"
    assert "SLURM_OVERLAP" not in adapter().command(ONE_NODE, ["app"], MARKS).env


def test_intelmpi_is_told_to_follow_the_placement() -> None:
    command = IntelMpi().command(TWO_NODES, ["app"], {})
    assert command.argv == ["mpiexec", "-hosts", "n1,n2", "-ppn", "2", "-n", "4", "app"]
    assert command.env["I_MPI_JOB_RESPECT_PROCESS_PLACEMENT"] == "0"
    assert words(IntelMpi(), ONE_NODE).startswith("mpiexec -bootstrap fork")


@pytest.mark.parametrize("adapter", [Mpich, OpenMpi, Srun])
def test_one_rank_runs_directly_where_the_launcher_is(adapter: type[Mpich] | type[OpenMpi] | type[Srun]) -> None:
    assert adapter().command(ONE_RANK, ["app", "x"], {}).argv == ["app", "x"]
    elsewhere = RankPlacement((NodeRanks("n2", 1),), is_local=False)
    assert adapter().command(elsewhere, ["app"], MARKS).argv[0] in ("mpiexec", "srun")


@pytest.mark.parametrize(
    "mpirun",
    [Mpich(bind="cpus"), IntelMpi(), OpenMpi(), Srun(pmi="pmix", binds=True), Pals(), FluxRun(), Jsrun()],
    ids=lambda mpirun: str(mpirun.name),
)
def test_each_launch_param_arrives_once_and_in_place_of_our_own_word(
    mpirun: Mpich | OpenMpi | Srun | Pals | FluxRun | Jsrun,
) -> None:
    nodes = (NodeRanks("n1", 2, (0, 1, 2, 3)), NodeRanks("n2", 2, (0, 1, 2, 3)))
    for name, flag in mpirun.params.items():
        for written in (name, f"--{name}", name.replace("-", "_")):
            said = words(mpirun, RankPlacement(nodes, False, launch_params={written: "value"}))
            assert f"{flag}value" in said or f"{flag} value" in said
            assert said.count(flag) == 1, said


# Options by which an mpiexec runs other programs, elsewhere, as somebody else, or writes files.
NEVER = (
    *("hosts", "host", "hostfile", "machinefile", "nodelist", "requires", "erf_input", "multi-prog", "configfile"),
    *("launcher", "launcher-exec", "bootstrap-exec", "mca", "prolog", "epilog", "task-prolog", "task-epilog"),
    *("pre_post_exec", "wdir", "chdir", "export", "x", "genv", "env", "output", "error", "bcast", "uid", "jobid"),
    *("userrc", "initrc", "rank-cpu", "taskmap", "tasks-per-node", "n", "", ":", "-"),
)


@pytest.mark.parametrize("name", MPIRUNS.names())
def test_no_mpirun_takes_what_could_run_something_else_s15(name: str) -> None:
    """Also where the Job is started without it: the same App may have more ranks the next time."""
    mpirun = MPIRUNS.load(name)()
    for placement in (ONE_RANK, RankPlacement((NodeRanks("n1", 2, (0, 1)),))):
        for key in NEVER:
            with pytest.raises(LaunchParamRefused, match="it takes: "):
                mpirun.command(replace(placement, launch_params={key: "value"}), ["app"], MARKS)


@pytest.mark.parametrize("adapter", [Mpich, OpenMpi])
def test_launch_params_are_a_closed_list_s15(adapter: type[Mpich] | type[OpenMpi]) -> None:
    def command(params: dict[str, str]) -> list[str]:
        placement = RankPlacement((NodeRanks("n1", 2),), launch_params=params)
        return adapter().command(placement, ["app"], MARKS).argv

    assert "core" in command({"cpu_bind": "core"})
    assert "core" in command({"--bind-to": "core"})
    for bad in ({"launcher-exec": "/bin/evil"}, {"mca": "plm_rsh_agent=/bin/evil"}, {":": "x"}, {"": ""}):
        with pytest.raises(LaunchParamRefused, match="it takes: bind-to"):
            command(bad)
    for value in ("", "-n", "a b", "$(id)", "x\n", "é"):
        with pytest.raises(LaunchParamRefused, match="has the value"):
            command({"bind-to": value})


def test_placement_of_the_launcher_becomes_ranks_on_hosts() -> None:
    nodes = [Node("a", (0, 1)), Node("b", (0, 1))]
    place = NodePool.of(nodes).place(Resources(num_nodes=2, ranks_per_node=3))
    assert place is not None
    ranks = RankPlacement.of(place, nodes, {"cpu_bind": "core"}, is_local=False)
    assert [(node.host, node.ranks) for node in ranks.nodes] == [("a", 3), ("b", 3)]
    assert (ranks.num_ranks, ranks.oversubscribed) == (6, True)


def test_environment_of_an_outer_run_is_not_passed_on() -> None:
    outer = {
        "PATH": "/bin",
        "OMPI_MCA_btl": "self,tcp",
        "I_MPI_FABRICS": "shm",
        "SLURM_JOB_ID": "7",
        "SLURM_NODELIST": "n[1-2]",
    }
    ranks = {
        "PMI_RANK": "3",
        "PMI_FD": "9",
        "PMIX_NAMESPACE": "x",
        "OMPI_COMM_WORLD_RANK": "3",
        "OMPI_MCA_orte_hnp_uri": "y",
        "OMPI_MCA_ess_base_jobid": "1",
        "HYDI_CONTROL_FD": "8",
        "SLURM_PROCID": "0",
        "SLURM_STEP_ID": "1",
        "SLURM_CPUS_PER_TASK": "4",
        "SRUN_CPUS_PER_TASK": "4",
        "SLURM_TRES_PER_TASK": "cpu=4",
        "MPI_LOCALRANKID": "3",
        "BALSAM_RANK": "3",
    }
    assert without_rank_variables({**outer, **ranks}) == outer


def libmpi(mpiexec: Path) -> str:
    beside = sorted(mpiexec.resolve().parents[1].glob("lib/libmpi.so.*"))
    if beside:
        return str(beside[0])
    return (
        "libmpi.so.40" if "openmpi" in str(mpiexec.resolve()) or "orte" in str(mpiexec.resolve()) else "libmpich.so.12"
    )


@pytest.fixture(params=["mpich", "openmpi"])
def real(request: pytest.FixtureRequest) -> MpiRun:
    mpirun: MpiRun = MPIRUNS.load(request.param)(str(request.getfixturevalue(request.param)))
    return mpirun


def run(
    mpirun: MpiRun, placement: RankPlacement, argv: Sequence[str], env: Mapping[str, str], outer: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    command = mpirun.command(placement, argv, {**MARKS, **env})
    environment = {**without_rank_variables(outer), **MARKS, **env, **command.env}
    return subprocess.run(command.argv, env=environment, capture_output=True, text=True, timeout=60, check=False)


def answers(directory: Path) -> dict[int, dict[str, object]]:
    return {int(path.stem): json.loads(path.read_text()) for path in directory.glob("*.json")}


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_real_ranks_communicate(real: MpiRun, ranks: int, tmp_path: Path) -> None:
    """Five ranks are more than most test machines have cores; one rank is a singleton without mpiexec."""
    placement = RankPlacement((NodeRanks("here", ranks, (0,)),), oversubscribed=ranks > 1)
    argv = [sys.executable, RANK_PROGRAM, libmpi(program_of(real)), str(tmp_path)]
    done = run(real, placement, argv, {"EXTRA": "a b=c"}, os.environ)
    assert done.returncode == 0, done.stderr
    total = ranks * (ranks + 1) // 2
    found = answers(tmp_path)
    assert sorted(found) == list(range(ranks))
    assert all((one["size"], one["sum"], one["extra"]) == (ranks, total, "a b=c") for one in found.values())


def test_real_run_inside_a_rank_of_another_run(real: MpiRun, tmp_path: Path) -> None:
    """The agent or launcher may itself have been started by mpiexec (scenario: libEnsemble under MPI)."""
    probe = f"import os, json; json.dump(dict(os.environ), open({str(tmp_path / 'env')!r}, 'w'))"
    placement = RankPlacement((NodeRanks("here", 2),))
    assert run(real, placement, [sys.executable, "-c", probe], {}, os.environ).returncode == 0
    outer = json.loads((tmp_path / "env").read_text())
    assert any(name.startswith(("PMI_", "PMIX_")) for name in outer)
    for ranks in (1, 2):
        directory = tmp_path / str(ranks)
        directory.mkdir()
        argv = [sys.executable, RANK_PROGRAM, libmpi(program_of(real)), str(directory)]
        done = run(real, RankPlacement((NodeRanks("here", ranks),)), argv, {}, outer)
        assert done.returncode == 0, done.stderr
        assert {one["size"] for one in answers(directory).values()} == {ranks}


def test_real_mpich_binds_ranks_to_the_cores_of_the_job(mpich: Path, tmp_path: Path) -> None:
    cpus = tuple(sorted(os.sched_getaffinity(0))[:2])
    if len(cpus) < 2:
        pytest.skip("needs two cores")
    argv = [sys.executable, RANK_PROGRAM, libmpi(mpich), str(tmp_path)]
    placement = RankPlacement((NodeRanks("here", 2, cpus),))
    assert run(Mpich(str(mpich), bind="cpus"), placement, argv, {}, os.environ).returncode == 0
    assert [one["cpus"] for _, one in sorted(answers(tmp_path).items())] == [[cpus[0]], [cpus[1]]]


# Tells its pid, and stays until the test has looked at all of them.
SIDE_BY_SIDE = """
import os, sys, time
open(os.path.join(sys.argv[1], f"{os.getpid()}.pid"), "w").close()
deadline = time.monotonic() + 60
while not os.path.exists(os.path.join(sys.argv[1], "seen")) and time.monotonic() < deadline:
    time.sleep(0.02)
"""


@pytest.mark.parametrize("bind", ["cpus", "none"])
def test_real_mpich_jobs_side_by_side_have_cores_of_their_own(
    mpich: Path, bind: Literal["none", "cpus"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S9, by the kernel's word for each living rank; not bound, each may use all."""
    monkeypatch.setattr(mpich_module, "is_direct", lambda placement: False)  # on few cores each has one rank only
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two cores")
    each = min(4, len(cpus) // 2)
    node = Node("here", tuple(cpus))
    pool = NodePool.of([node])
    mpirun = Mpich(str(mpich), bind=bind)
    jobs: list[subprocess.Popen[bytes]] = []
    given: list[set[int]] = []
    try:
        for number in range(2):
            place = pool.place(Resources(ranks_per_node=each, node_packing_count=2))
            assert place is not None
            given.append(set(place.shares[0].cpu_ids))
            directory = tmp_path / str(number)
            directory.mkdir()
            argv = [sys.executable, "-c", SIDE_BY_SIDE, str(directory)]
            command = mpirun.command(RankPlacement.of(place, [node], {}, True), argv, {})
            environment = {**without_rank_variables(os.environ), **command.env}
            jobs.append(subprocess.Popen(command.argv, env=environment, start_new_session=True))
        wait_until(lambda: len(list(tmp_path.glob("*/*.pid"))) == 2 * each, 60)
        allowed = [
            [os.sched_getaffinity(int(path.stem)) for path in (tmp_path / str(number)).glob("*.pid")]
            for number in range(2)
        ]
        for number in range(2):
            (tmp_path / str(number) / "seen").touch()
        assert [job.wait(60) for job in jobs] == [0, 0]
    finally:
        for job in jobs:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
                job.wait(30)
    if bind == "none":
        assert all(mine == set(cpus) for ranks in allowed for mine in ranks)
    else:
        assert not given[0] & given[1]
        assert [set().union(*ranks) for ranks in allowed] == given
        assert all(len(mine) == 1 for ranks in allowed for mine in ranks), "ranks of a Job share a core"


def test_real_pretended_nodes_are_this_machine(real: MpiRun, tmp_path: Path) -> None:
    placement = RankPlacement((NodeRanks("here-1", 2), NodeRanks("here-2", 2)), is_local=True)
    argv = [sys.executable, RANK_PROGRAM, libmpi(program_of(real)), str(tmp_path)]
    done = run(real, placement, argv, {}, os.environ)
    assert (done.returncode, len(answers(tmp_path))) == (0, 4), done.stderr


def test_real_exit_code_comes_through(real: MpiRun, tmp_path: Path) -> None:
    placement = RankPlacement((NodeRanks("here", 2),))
    argv = [sys.executable, RANK_PROGRAM, libmpi(program_of(real)), str(tmp_path)]
    assert run(real, placement, argv, {"EXIT_CODE": "3"}, os.environ).returncode == 3


@pytest.mark.parametrize(
    "arguments", [[":"], ["a", ":", "touch", "evil"], ["", "a b", "$(id)", "é\n'\"", "-x", "--mca", "-n"], ["\\", "%p"]]
)
def test_real_arguments_arrive_unchanged(real: MpiRun, arguments: list[str], tmp_path: Path) -> None:
    """A lone colon would start a second program, `--mca` load a component, of the parameter's choice (S15)."""
    show = f"import sys, os; os.chdir({str(tmp_path)!r}); print(ascii(sys.argv[1:]), end='')"
    argv = [sys.executable, "-c", show, *arguments]
    done = run(real, RankPlacement((NodeRanks("here", 2),)), argv, {}, os.environ)
    assert (done.returncode, done.stdout.replace("\n", "")) == (0, ascii(arguments) * 2), done.stderr
    assert not list(tmp_path.iterdir())


def test_without_colon_no_shell_is_in_between() -> None:
    assert one_program(["a", "b:c", "::"]) == ["a", "b:c", "::"]


def test_plain_has_no_launch_params_and_no_other_node() -> None:
    with pytest.raises(LaunchParamRefused, match="it takes: none"):
        Plain().command(RankPlacement((NodeRanks("n", 2),), launch_params={"x": "y"}), ["app"], {})
    with pytest.raises(LaunchParamRefused, match="n1, n2"):
        Plain().command(TWO_NODES, ["app"], {})


# Each takes its time after SIGTERM, and ends well only when the other has been told, too.
TAKES_TIME = """\
trap 'echo saved' USR1
trap 'touch told.$$; until [ $(ls told.* | wc -l) = 2 ]; do sleep 0.1; done; sleep 2; echo ended; exit 0' TERM
echo up
while :; do sleep 0.05; done
"""


def test_ranks_get_the_signal_for_a_checkpoint_and_time_to_end(real: MpiRun, tmp_path: Path) -> None:
    """As the launcher sends them: by a program of its own where there is one, else by mpiexec, which passes them on."""
    command = real.command(RankPlacement((NodeRanks("here", 2),)), ["/bin/sh", "-c", TAKES_TIME], MARKS)
    assert command.reach == ("step" if real.name == "openmpi" else "mpirun")
    output = tmp_path / "out"
    environment = {**without_rank_variables(os.environ), **command.env, **MARKS, "BALSAM_ALLOCATION": "ours"}

    def both(word: str) -> bool:
        return output.read_text().split().count(word) == 2

    def send(number: signal.Signals) -> None:
        if command.reach == "step":
            words = [sys.executable, "-I", "-S", openmpi_ranks.__file__, "-", number.name, command.step]
            assert subprocess.check_output(words, env=environment, text=True, timeout=60) == ""
        elif number is signal.SIGTERM:
            os.killpg(mpiexec.pid, number)
        else:
            mpiexec.send_signal(number)

    with output.open("wb") as out:
        mpiexec = subprocess.Popen(
            command.argv, stdout=out, stderr=out, env=environment, cwd=tmp_path, start_new_session=True
        )
    try:
        wait_until(lambda: both("up"), 30)
        send(signal.SIGUSR1)
        wait_until(lambda: both("saved"), 30)
        assert mpiexec.poll() is None
        send(signal.SIGTERM)
        wait_until(lambda: both("ended"), 30)
        mpiexec.wait(30)
    finally:
        if mpiexec.poll() is None:
            mpiexec.kill()
            mpiexec.wait(30)
