"""Which nodes an allocation has, as each batch system says it; `scontrol` and `flux` are fakes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from balsam.platform.node.allocated import NodesUnknown
from balsam.platform.node.base import NodeInfo, NodeOptions
from balsam.platform.registry import NODES
from tests.platform.fake_commands import write_program

HERE = os.uname().nodename
HOSTNAMES = 'printf "%s\\n" node1 node2 node3'


def found(system: str, environ: dict[str, str], cpus: int | None = None) -> list[NodeInfo]:
    nodes: list[NodeInfo] = NODES.load(system)().nodes(NodeOptions(cpus, 0), environ)
    return nodes


def path(directory: Path, **programs: str) -> str:
    for name, body in programs.items():
        write_program(directory, name, body)
    return str(directory)


def test_slurm_nodes_and_their_cores(tmp_path: Path) -> None:
    environ = {
        "PATH": path(tmp_path, scontrol=HOSTNAMES),
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_JOB_CPUS_PER_NODE": "64(x2),1",
        "SLURMD_NODENAME": "node2",
    }
    nodes = found("slurm", environ)
    assert [(node.name, len(node.cpu_ids), node.is_here) for node in nodes] == [
        ("node2", 64, True),
        ("node1", 64, False),
        ("node3", 1, False),
    ]
    assert any("node1, node2, node3" in note for note in nodes[0].notes)
    assert {len(node.cpu_ids) for node in found("slurm", environ, cpus=3)} == {3}
    odd = {**environ, "SLURM_JOB_CPUS_PER_NODE": "what"}
    assert {node.cpu_ids for node in found("slurm", odd)} == {tuple(sorted(os.sched_getaffinity(0)))}


def test_what_slurm_does_not_tell_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NodesUnknown, match="SLURM_JOB_NODELIST is not set"):
        found("slurm", {})
    environ = {"PATH": path(tmp_path, scontrol="echo no controller >&2; exit 1"), "SLURM_JOB_NODELIST": "n1"}
    with pytest.raises(NodesUnknown, match="scontrol show hostnames n1 ended with 1: no controller"):
        found("slurm", environ)
    with pytest.raises(NodesUnknown, match="does not tell the nodes"):
        found("slurm", {"PATH": str(tmp_path / "empty"), "SLURM_JOB_NODELIST": "n1"})
    with pytest.raises(NodesUnknown, match="names no node"):
        found("slurm", {**environ, "PATH": path(tmp_path, scontrol="true")})


def test_pbs_names_a_node_for_each_rank(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text(f"x2.domain\nx2.domain\n{HERE}\n")
    nodes = found("pbs", {"PBS_NODEFILE": str(tmp_path / "nodes")}, cpus=4)
    assert [(node.name, node.is_here) for node in nodes] == [(HERE, True), ("x2.domain", False)]
    with pytest.raises(NodesUnknown, match="can't be read"):
        found("pbs", {"PBS_NODEFILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("hosts", "names"),
    [("batch5 1 a01 42 a02 42", ["a01", "a02"]), ("a01 4 a02 4", ["a01", "a02"]), ("a01 1 a02 1", ["a01", "a02"])],
)
def test_lsf_has_launch_nodes_on_some_machines(tmp_path: Path, hosts: str, names: list[str]) -> None:
    assert [node.name for node in found("lsf", {"LSB_MCPU_HOSTS": hosts})] == names
    words = hosts.split()
    lines = [name for name, count in zip(words[::2], words[1::2], strict=True) for _ in range(int(count))]
    (tmp_path / "hosts").write_text("\n".join(lines))
    assert [node.name for node in found("lsf", {"LSB_DJOB_HOSTFILE": str(tmp_path / "hosts")})] == names


def test_flux_says_cores_and_hosts(tmp_path: Path) -> None:
    flux = 'case "$1" in resource) echo "8 f[1-2]";; hostlist) printf "f1\\nf2";; esac'
    environ = {"PATH": path(tmp_path, flux=flux), "FLUX_URI": "local:///x"}
    assert [(node.name, len(node.cpu_ids)) for node in found("flux", environ)] == [("f1", 4), ("f2", 4)]
    write_program(tmp_path, "flux", "echo what")
    with pytest.raises(NodesUnknown, match="says 'what', not cores and hosts"):
        found("flux", environ)


def test_grid_engine_gives_slots_or_this_machine(tmp_path: Path) -> None:
    (tmp_path / "pe").write_text(f"{HERE} 2 all.q@x UNDEFINED\nother 3 all.q@y UNDEFINED\n")
    nodes = found("gridengine", {"PE_HOSTFILE": str(tmp_path / "pe")})
    assert [(node.name, len(node.cpu_ids), node.is_here) for node in nodes] == [(HERE, 2, True), ("other", 3, False)]
    (alone,) = found("gridengine", {})
    assert alone.is_here
    (tmp_path / "pe").write_text("odd\n")
    with pytest.raises(NodesUnknown, match="begins with host and slots"):
        found("gridengine", {"PE_HOSTFILE": str(tmp_path / "pe")})


SRUN = """
echo "$*" >> "$(dirname "$0")/tried"
for word; do case "$word" in --nodelist=*) nodes=${word#--nodelist=} ;; esac; done
for node in %s; do case ",$nodes," in *",$node,"*) exit 1 ;; esac; done
"""


@pytest.mark.parametrize(
    ("doubtful", "dead", "said", "steps"),
    [
        ((), "node2", "node1 node2 node3", 0),
        (("node2", "node3"), "none", "node1 node2 node3", 1),
        (("node2", "node3"), "node3", "node1 node2 node3 -node3", 4),
        (("node4",), "node4", "node1 node2 node3", 0),
        (("node2",), "node1 node2", "", 2),
    ],
)
def test_slurms_nodes_in_doubt_are_tried(
    tmp_path: Path, doubtful: tuple[str, ...], dead: str, said: str, steps: int
) -> None:
    """The last: where no step runs on the own node either, nothing is learnt."""
    (tmp_path / "tried").touch()
    programs = {"squeue": '[ "$2" = --jobs=17 ] && echo "node[1-3]"', "scontrol": HOSTNAMES, "srun": SRUN % dead}
    environ = {"PATH": f"{path(tmp_path, **programs)}:/usr/bin:/bin", "SLURM_JOB_ID": "17", "SLURMD_NODENAME": "node1"}
    command = NODES.load("slurm")().nodes_left(environ)
    answer = subprocess.run([*command, *doubtful], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (answer.returncode, answer.stdout.split()) == (int(not said), said.split())
    assert said or "no step runs on our own node, either" in answer.stderr
    assert len((tmp_path / "tried").read_text().splitlines()) == steps


def test_an_allocation_that_slurm_does_not_know_has_no_answer(tmp_path: Path) -> None:
    environ = {"PATH": f"{path(tmp_path, squeue='exit 0')}:/usr/bin:/bin", "SLURM_JOB_ID": "17"}
    command = NODES.load("slurm")().nodes_left(environ)
    answer = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "knows of no allocation 17 that runs" in answer.stderr
