"""Jobs over several nodes of a real Slurm, started by srun in job mode mpi."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.live_cluster import TEMPLATE, LiveCluster, answers, finished, live_cluster, next_line, with_srun
from tests.launcher.conftest import ZOO
from tests.testbed.slurm_bed import SlurmBed

pytestmark = pytest.mark.timeout(300)
WITH_GPUS = TEMPLATE.replace("#SBATCH --exclusive", "#SBATCH --exclusive\n#SBATCH --gres=gpu:2")
# A minute is Slurm's shortest; the launcher of such an allocation is told that it has 36 s.
SHORT = WITH_GPUS.replace("-t {{ wall_time_min }}", "-t {{ wall_time_min if wall_time_min > 1 else 0.6 }}")
# Says what it is told: the signal for a checkpoint, then SIGTERM, upon which it takes a moment and ends.
RANK = """\
import os, pathlib, signal, sys, time
rank = os.environ.get("SLURM_PROCID", "0")
saved = pathlib.Path("saved." + rank)
if saved.exists():
    sys.exit(0)
def end(*_):
    time.sleep(0.5)
    pathlib.Path("term." + rank).touch()
    sys.exit(3)
signal.signal(signal.SIGUSR1, lambda *_: saved.touch())
signal.signal(signal.SIGTERM, end)
pathlib.Path("up." + rank).touch()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def cluster(slurm: SlurmBed) -> Iterator[LiveCluster]:
    with live_cluster(slurm, with_srun, SHORT) as running:
        yield running


def test_jobs_over_two_and_four_nodes(cluster: LiveCluster) -> None:
    """One over all nodes, then two at a time on two nodes each, then single ranks packed on all of them."""
    said = cluster.run(
        """
        batch = allocation(num_nodes=4)
        code = "echo $(uname -n) $SLURM_NTASKS; sleep 1"
        def over(name, nodes, ranks=1, packing=1):
            job = Job(app_id=Sh, workdir=name, parameters={"code": code}, num_nodes=nodes, ranks_per_node=ranks,
                      node_packing_count=packing)
            job.save()
            return job
        jobs = [over("four", 4, 2), over("two-a", 2), over("two-b", 2)]
        jobs += [over(f"small{n}", 1, 2, 4) for n in range(8)]
        for job in jobs:
            assert job.wait(90), job.explain()
        print(json.dumps([[job.state.value, sorted(job.read_text("job.out").split("\\n"))] for job in jobs]))
        starts = [[event.timestamp.timestamp() for event in EventLog.objects.filter(job_id=job.id)
                   if event.to_state.value in ("RUNNING", "RUN_DONE")] for job in jobs[1:3]]
        print(json.dumps(sorted(sorted(times) for times in starts)))
        batch.cancel()
        reach(batch, "finished")
        """
    )
    jobs, (first, second) = answers(said)
    assert {state for state, _ in jobs} == {"JOB_FINISHED"}
    lines = [out[1:] for _, out in jobs]
    assert lines[0] == [f"node{number} 8" for number in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert second[0] < first[1], "the two did not run at the same time"
    assert sorted(line.split()[0] for out in lines[1:3] for line in out) == ["node1", "node2", "node3", "node4"]
    assert len({line.split()[0] for out in lines[3:] for line in out}) == 2, "four of them share a node"


def test_gpus_cores_signals_and_the_wall_time(cluster: LiveCluster) -> None:
    """Ranks see the GPUs and cores of their Job; are asked for a checkpoint, told to end, and go on from there."""
    (cluster.site / "data").mkdir(exist_ok=True)
    (cluster.site / "rank.py").write_text(RANK)
    (cluster.site / "rank.py").chmod(0o644)
    said = cluster.run(
        """
        class Saves(ApplicationDefinition):
            site = "cluster"
            command_template = f"exec {sys.executable} -S -E {ROOT}/rank.py"
            environment_variables = {"BALSAM_CHECKPOINT_SIGNAL": "SIGUSR1"}

        def made(app, name, code=None, **fields):
            job = Job(app_id=app, workdir=name, parameters={} if code is None else {"code": code}, **fields)
            job.save()
            return job
        def there(name, kind, ranks):
            return lambda: len(list((ROOT / "data" / name).glob(kind + ".*"))) == ranks

        slices = [{"job_mode": mode, "num_nodes": 2, "filter_tags": {"mode": mode}} for mode in ("mpi", "serial")]
        batch = allocation(num_nodes=4, wall_time_min=1, partitions=slices)
        saves = made(Saves, "saves", num_nodes=2, tags={"mode": "mpi"})
        alone = made(Saves, "alone", tags={"mode": "serial"})
        both = (("saves", 2), ("alone", 1))
        for name, ranks in both:
            until(there(name, "up", ranks), f"{name} does not run")
        for name, ranks in both:
            until(there(name, "saved", ranks), f"{name} is not asked for a checkpoint")
        assert not there("saves", "term", 2)(), "that is not its end"
        for name, ranks in both:
            until(there(name, "term", ranks), f"SIGTERM does not reach {name}")
        for job in (saves, alone):
            until(lambda: states_of(job)[-1] == "RESTART_READY", str(states_of(job)))
        events = EventLog.objects.filter(job_id=[saves.id, alone.id])
        told = max(event.timestamp for event in events if event.to_state.value == "RUN_TIMEOUT")
        reach(batch, "finished")
        assert (told - batch.start_time).total_seconds() < 36, (told, batch.start_time)

        second = allocation(num_nodes=3)
        assert saves.wait(60) and alone.wait(60), (saves.explain(), alone.explain())
        gpus = "$CUDA_VISIBLE_DEVICES$ROCR_VISIBLE_DEVICES$ZE_AFFINITY_MASK$GPU_DEVICE_ORDINAL"
        show = f"echo $(uname -n) {gpus} $OMP_NUM_THREADS $SLURM_CPUS_PER_TASK; sleep 1"
        wide = made(Sh, "wide", show, num_nodes=3, gpus_per_rank=1, threads_per_rank=4)
        assert wide.wait(30), wide.explain()
        other = made(Sh, "other", "exec sleep 60", num_nodes=2)
        until(lambda: states_of(other)[-1] == "RUNNING", str(states_of(other)))
        halves = [made(Sh, f"half{n}", show, ranks_per_node=2, gpus_per_rank=0.5, node_packing_count=4) for n in "ab"]
        cut = made(Saves, "cut", ranks_per_node=2, node_packing_count=4)
        for job in halves:
            assert job.wait(30), job.explain()
        until(there("cut", "up", 2), "cut does not run")
        cut.cancel()
        until(there("cut", "term", 2), "SIGTERM does not reach the ranks")
        for job in [wide, *halves]:
            print(json.dumps(sorted(job.read_text("job.out").splitlines())))
        for job in (saves, alone):
            print(json.dumps([state for state in states_of(job) if state.startswith("RUN")]))
        other.cancel()  # or it would run again in the allocation of another test
        second.cancel()
        reach(second, "finished")
        """,
        timeout=200,
    )
    wide, *halves, saves, alone = answers(said)
    assert wide == [f"node{number} 0000 4 4" for number in (1, 2, 3)], "in the variables of all vendors"
    assert sorted(halves) == [["node3 0000 1"] * 2, ["node3 1111 1"] * 2], "node3 is the only one with room"
    assert saves == alone == ["RUNNING", "RUN_TIMEOUT", "RUNNING", "RUN_DONE"]


def test_a_node_that_crashes_takes_only_its_own_jobs(cluster: LiveCluster) -> None:
    """srun says 0 of the struck Job, as its rank on the node that lives ended well: that is no proof."""
    script = cluster.begin(
        """
        batch = allocation(num_nodes=4)
        def over(name, nodes, code):
            job = Job(app_id=Sh, workdir=name, parameters={"code": code}, num_nodes=nodes)
            job.save()
            return job
        again = "[ $BALSAM_ATTEMPT = 2 ] && exec touch ../again"
        struck = over("struck", 2, again + "; echo $(uname -n) $$; [ $SLURM_PROCID = 0 ] || exec sleep 600")
        out = ROOT / "data" / "struck" / "job.out"
        until(lambda: out.exists() and len(out.read_text().splitlines()) == 2, "it does not run")
        spared = over("spared", 1, "until [ -e ../again ]; do sleep 0.1; done")
        until(lambda: states_of(spared)[-1] == "RUNNING", "it does not run")
        print(json.dumps(out.read_text().split()[::2]), flush=True)
        assert struck.wait(80) and spared.wait(20), (struck.explain(), spared.explain())
        batch.refresh_from_db()
        print(json.dumps([states_of(struck), states_of(spared), str(batch.state.value),
                          [event.data.get("failure") for event in EventLog.objects.filter(job_id=struck.id)
                           if event.to_state.value == "RUN_ERROR"]]))
        batch.cancel()
        reach(batch, "finished")
        """
    )
    _, lost = sorted(next_line(script))  # the launcher is on node1
    cluster.bed.node(lost, "crash")
    try:
        ((struck, spared, batch_state, failures),) = answers(finished(script, 120))
    finally:
        cluster.bed.node(lost, "start")
    ran = [state for state in struck if state.startswith("RUN") or state == "RESTART_READY"]
    assert ran == ["RUNNING", "RUN_ERROR", "RESTART_READY", "RUNNING", "RUN_DONE"]
    assert struck[-1] == spared[-1] == "JOB_FINISHED" and spared.count("RUNNING") == 1
    assert batch_state == "running"
    assert failures == ["lost_node"]


def test_nothing_of_the_zoo_survives_its_job(cluster: LiveCluster) -> None:
    """S9: ranks fork, ignore SIGTERM, are stopped, leave zombies or a daemon with the pipe; no node is used early."""
    cluster.copy(ZOO)
    said = cluster.run(
        """
        zoo, python = ROOT.parent / "zoo", f"{sys.executable} -S -E"
        animals = {
            "ignores": f"bash {zoo}/ignores_term.sh 48171",
            "stopped": f"bash {zoo}/stopped.sh 48171",
            "setsid": f"{python} {zoo}/daemon.py 48171 stay",
            "zombies": f"{python} {zoo}/zombies.py 48171",
        }
        forks = f"{python} {zoo}/bomb.py 48171"
        def made(name, code, **fields):
            job = Job(app_id=Sh, workdir=f"zoo/{name}", parameters={"code": code}, **fields)
            job.save()
            return job
        def ready(job, count):
            out = ROOT / "data" / job.workdir / "job.out"
            return lambda: out.exists() and out.read_text().split().count("ready") == count

        batch = allocation(num_nodes=4)
        wide = made("wide", " & ".join(animals.values()) + " & wait", num_nodes=2)
        packed = [made(name, f"exec {code}", ranks_per_node=2, node_packing_count=4) for name, code in animals.items()]
        packed.append(made("forks", f"exec {forks}", node_packing_count=4))
        until(ready(wide, 8), wide.explain())
        for job in packed:
            until(ready(job, job.ranks_per_node), job.explain())
        after = made("after", "ps -eo stat,args | grep -v ^Z | grep -c '4817[1]'; true", num_nodes=4)
        jobs = [wide, *packed]
        for job in jobs:
            job.cancel()
        for job in jobs:
            assert job.wait(60), job.explain()
        assert after.wait(60), after.explain()
        print(json.dumps([sorted(job.state.value for job in jobs), after.read_text("job.out").split()]))
        batch.cancel()
        reach(batch, "finished")
        """
    )
    ((states, left),) = answers(said)
    assert states == ["CANCELLED"] * 6
    assert left == ["0"] * 4, "processes of Jobs that are over"


def test_monitors_watch_what_ranks_on_another_node_write_in_each_attempt(cluster: LiveCluster) -> None:
    """A rule acts once in each attempt; its first one ends with the allocation, and so does its launcher."""
    said = cluster.run(
        """
        class Watched(ApplicationDefinition):
            site = "cluster"
            command_template = "sh -c {{ code }}"
            monitors = {
                "bad": {"action": "kill", "file": "energy", "not_finite": True},
                "begun": {"action": "notify", "pattern": "^begin"},
                "odd": {"action": "tag", "file": "energy", "pattern": "0[.]5", "tags": {"quality": "odd"}},
            }

        code = ("[ $SLURM_PROCID = 1 ] || exec sleep 600; echo begin $(uname -n); echo 0.5 >> energy; "
                "until [ -e go ]; do sleep 0.1; done; echo nan >> energy; exec sleep 600")
        job = Job(app_id=Watched, workdir="watched", parameters={"code": code}, num_nodes=2, max_attempts=3)
        job.save()
        def notes(name):
            found = EventLog.objects.filter(job_id=job.id, from_state="RUNNING", to_state="RUNNING")
            return [event.data["text"] for event in found if event.data["monitor"] == name]
        for attempt in (1, 2):
            batch = allocation(num_nodes=2)
            until(lambda: len(notes("begun")) == len(notes("odd")) == attempt, "no note of it")
            if attempt == 1:
                batch.cancel()
                until(lambda: states_of(job)[-1] == "RESTART_READY", str(states_of(job)))
                reach(batch, "finished")
        (ROOT / "data" / "watched" / "go").touch()
        assert job.wait(60), job.explain()
        job.refresh_from_db()
        print(json.dumps([notes("begun"), job.tags, job.state.value, job.failure, job.explain().reasons]))
        batch.cancel()
        reach(batch, "finished")
        """
    )
    ((begun, tags, state, failure, reasons),) = answers(said)
    assert len(begun) == 2 and all(line.startswith("begin node") for line in begun)  # which node is Slurm's choice
    assert tags == {"quality": "odd"}
    assert (state, failure) == ("FAILED", "monitor")
    assert "monitor bad: energy has a number that is none: nan" in str(reasons)
