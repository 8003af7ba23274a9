"""Engines: what becomes of launch_params where no mpirun starts the Job."""

import logging
from collections.abc import Callable, Mapping, Sequence

import pytest

from balsam.domain.job import Resources
from balsam.domain.packing import Node, NodePool, NodeShare, Placement
from balsam.domain.template import CommandTemplate
from balsam.launcher.config import LauncherConfig
from balsam.launcher.engines.base import Engine, NotLaunchable, Words
from balsam.launcher.engines.choice import engine_for
from balsam.launcher.engines.local import LocalEngine
from balsam.launcher.engines.mpirun import MpirunEngine
from balsam.launcher.machine_messages import LaunchJob
from balsam.launcher.partition import Partition, PartitionNode
from balsam.platform.mpirun.base import RankCommand, RankPlacement
from balsam.platform.mpirun.mpich import Mpich
from balsam.platform.mpirun.openmpi import OpenMpi
from balsam.platform.mpirun.plain import Plain
from balsam.platform.mpirun.srun import Srun

NODE = Node("n", (0, 1))
HERE = PartitionNode("n", (0, 1))
ENGINES: list[Callable[[], Engine]] = [
    LocalEngine,
    lambda: MpirunEngine(Mpich(), [HERE]),
    lambda: MpirunEngine(OpenMpi(), [HERE]),
]


MARKS = {"BALSAM_JOB_ID": "1", "BALSAM_ATTEMPT": "1"}


def words(engine: Engine, number: int, app_id: int, params: dict[str, str], ranks: int = 1) -> Words:
    wanted = Resources(ranks_per_node=ranks)
    job = LaunchJob(number, app_id, 1, 1, f"job{number}", wanted, launch_params=params)
    placement = NodePool.of([NODE]).place(wanted)
    assert placement is not None
    return engine.words(CommandTemplate.parse("/bin/true").render({}), job, placement, MARKS, True)


@pytest.mark.parametrize("make", ENGINES)
def test_params_that_go_to_no_mpirun_are_ignored_and_logged_once_for_each_app(
    make: Callable[[], Engine], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "balsam.launcher")
    engine = make()
    for number, app_id, params in ((1, 8, dict[str, str]()), (2, 8, {"bind-to": "core"}), (3, 8, {"bind-to": "core"})):
        assert words(engine, number, app_id, params).argv == ("/bin/true",)
    (line,) = caplog.messages
    assert line.startswith("App 8: launch_params 'bind-to' are ignored, as of Job 2: ")
    words(engine, 4, 9, {"bind-to": "core"})
    assert caplog.messages[1].startswith("App 9: ")


class Asked(Plain):
    """What it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.placements: list[RankPlacement] = []

    def command(self, placement: RankPlacement, argv: Sequence[str], env: Mapping[str, str]) -> RankCommand:
        self.placements.append(placement)
        return super().command(placement, argv, env)


def test_a_lone_rank_that_is_executed_directly_is_asked_about_once_for_each_place() -> None:
    mpirun = Asked()
    engine = MpirunEngine(mpirun, [PartitionNode("n", tuple(range(4)), ("0", "1"))])
    alone = {"BALSAM_RANK": "0", "BALSAM_SIZE": "1", "BALSAM_LOCAL_RANK": "0", "BALSAM_LOCAL_SIZE": "1"}
    places = [
        (Resources(node_packing_count=4), NodeShare(0, (0,), ())),
        (Resources(node_packing_count=4), NodeShare(0, (1,), ())),
        (Resources(node_packing_count=4, threads_per_rank=2), NodeShare(0, (1,), ())),
        (Resources(node_packing_count=4, gpus_per_rank=1), NodeShare(0, (1,), ("1",))),
    ]
    for number, (wanted, share) in enumerate(places * 3):
        job = LaunchJob(number, 1, 1, 1, f"job{number}", wanted)
        command = CommandTemplate.parse("/bin/echo {{ x }}").render({"x": number})
        said = engine.words(command, job, Placement((share,), wanted), MARKS, True)
        assert said == Words(("/bin/echo", str(number)), alone)
    assert [placement.nodes[0].cpu_ids for placement in mpirun.placements] == [(0,), (1,), (1,), (1,)]


def test_a_rank_that_is_not_executed_directly_is_asked_about_for_each_job() -> None:
    """Its command line is its Job's own: also of a lone rank elsewhere."""
    engine = MpirunEngine(Srun(), [PartitionNode("n", (0, 1), is_here=False)])
    said = [words(engine, number, 1, {}) for number in (1, 2)]
    assert all(each.argv[0] == "srun" and each.spreads and each.reach == "step" for each in said)
    with pytest.raises(NotLaunchable, match="no mpiexec was found"):
        words(MpirunEngine(Plain(), [PartitionNode("n", (0, 1), is_here=False)]), 1, 1, {})


@pytest.mark.parametrize("make", ENGINES[1:])
def test_params_that_an_mpirun_takes_are_given_to_it_in_silence(
    make: Callable[[], Engine], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "balsam.launcher")
    assert "core" in words(make(), 1, 8, {"bind-to": "core"}, ranks=2).argv
    assert caplog.messages == []
    with pytest.raises(NotLaunchable, match="it takes: bind-to"):
        words(make(), 1, 8, {"launcher": "/bin/evil"})


@pytest.mark.parametrize(
    ("mpirun", "bound", "unbound"),
    [
        ("srun", "--cpu-bind=mask_cpu:0x1,0x2", "--cpu-bind"),
        ("mpich", "-bind-to user:0,1", "-bind-to"),
        ("intelmpi", "", "-bind-to"),
        ("openmpi", "--bind-to none", "user:"),
    ],
)
def test_ranks_are_bound_when_the_settings_say_so(
    mpirun: str, bound: str, unbound: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "balsam.launcher")
    said = {}
    for binds in (False, True):
        config = LauncherConfig(1, "/s", "/s/d", "/s/q", "/s/c", mpirun=f"{mpirun}:/bin/true", mpirun_binds_cpus=binds)
        engine = engine_for(Partition(config, 0, False, (HERE,), 600.0, {}), {"BALSAM_PMI": "pmi2"})
        said[binds] = " ".join(words(engine, 1, 1, {}, ranks=2).argv)
    assert bound in said[True]
    assert unbound not in said[False]
    is_asked = mpirun in ("srun", "mpich")
    assert (said[True] != said[False]) is is_asked
    assert ("not for mpirun_binds_cpus" in caplog.text) is not is_asked


@pytest.mark.parametrize(
    ("counts", "each"), [("4(x2)", 2), ("8(x2)", 4), ("8,4", 2), ("2", 2), ("", 2)], ids=lambda value: str(value) or "?"
)
def test_slurms_hyperthreads_are_counted_in(counts: str, each: int) -> None:
    """A rank with two threads on a node of four cores, by settings.yml, of which Slurm gave so many CPUs."""
    config = LauncherConfig(1, "/s", "/s/d", "/s/q", "/s/c", mpirun="srun:/bin/true")
    nodes = (PartitionNode("n", (0, 1, 2, 3), is_here=False), PartitionNode("m", (0, 1, 2, 3), is_here=False))
    environ = {"BALSAM_PMI": "pmi2", "SLURM_JOB_CPUS_PER_NODE": counts}
    engine = engine_for(Partition(config, 0, False, nodes, 600.0, {}), environ)
    wanted = Resources(ranks_per_node=2, threads_per_rank=2)
    placement = NodePool.of([node.as_node() for node in nodes]).place(wanted)
    assert placement is not None
    job = LaunchJob(1, 1, 1, 1, "job", wanted)
    argv = engine.words(CommandTemplate.parse("/bin/true").render({}), job, placement, MARKS, True).argv
    assert f"--cpus-per-task={each}" in argv
