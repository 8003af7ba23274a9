"""The launcher on a real Slurm of four nodes, that of the tests, as root: `python -m bench slurm`.

How soon the first rank runs in an allocation that has started; Jobs of two ranks in mpi mode beside a bare loop of
srun, which starts as many at a time with the same options, in an allocation of its own; and no-op Jobs in serial mode
over the nodes beside a bare spawn loop: the engine alone, and with service and events.
"""

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from bench.result import Goal
from bench.sizes import sized
from tests.cluster.live_cluster import TEMPLATE, LiveCluster, live_cluster
from tests.testbed import session_rules
from tests.testbed.slurm_bed import SlurmBed, running_slurm

JOBS, AT_A_TIME = 240, 16
SERIAL_JOBS = 2_000
NODES = ("node1", "node2", "node3", "node4")
TIMED = TEMPLATE.replace("echo started >>", "date +%s.%N >")
BARE = """\
#!/bin/bash
export CHOSEN=$(python3 -c "
import os
from balsam.platform.mpirun.pmi import choose_pmi
print(choose_pmi('srun', ['node1', 'node2'], os.environ).name or '')")
run() { srun ${CHOSEN:+--mpi=$CHOSEN} --nodes=1 --ntasks=2 --ntasks-per-node=2 --nodelist=node$1 --overlap --mem=0 \
    --kill-on-bad-exit=1 --input=none --export=ALL --distribution=block -- /bin/true; }
export -f run
begin=$(date +%s.%N)
for number in $(seq JOBS); do echo $((number % 4 + 1)); done | xargs -P AT_A_TIME -I {} bash -c 'run {}'
python3 -c "import sys; print(JOBS / (float(sys.argv[2]) - float(sys.argv[1])))" "$begin" "$(date +%s.%N)" > "$1"
"""
FIRST = """
rank = Job(app_id=Sh, workdir="first", parameters={"code": "date +%s.%N; sleep 1"}, num_nodes=4)
rank.save()
batch = allocation(num_nodes=4)
assert rank.wait(90), rank.explain()
print(min(map(float, rank.read_text("job.out").split())) - float((ROOT / "starts").read_text()))

def ends(jobs):
    events = EventLog.objects.filter(job_id=[job.id for job in jobs])
    return [event.timestamp.timestamp() for event in events if event.to_state.value in ("RUNNING", "RUN_DONE")]

many = [Job(app_id=Sh, workdir=f"many/{number}", parameters={"code": "true"}, ranks_per_node=2, node_packing_count=4)
        for number in range(JOBS)]
many = Job.objects.bulk_create(many)
_, not_done = Job.objects.wait(many, timeout=200)
assert not not_done, not_done[0].explain()
times = ends(many)
print(len(many) / (max(times) - min(times)))
batch.cancel()
reach(batch, "finished")
"""


SERIAL = """
class NoOp(ApplicationDefinition):
    site = "cluster"
    command_template = "/bin/true"

def run(app, count, **parameters):
    fields = {"parameters": parameters, "node_packing_count": 8}
    jobs = [Job(app_id=app, workdir=f"serial/{time.time_ns()}-{n}", **fields) for n in range(count)]
    begin = time.perf_counter()
    created = Job.objects.bulk_create(jobs)
    _, not_done = Job.objects.wait(created, timeout=200)
    assert not not_done, not_done[0].explain()
    return count / (time.perf_counter() - begin)

batch = allocation(num_nodes=4, job_mode="serial")
run(Sh, 64, code="sleep 0.5")  # all nodes are there
print(run(NoOp, JOBS))
batch.cancel()
reach(batch, "finished")
"""
# In an allocation, as its user: the bare loop, the engine without a service, the loop again.
ENGINE = """\
#!/bin/bash
set -e
cd "$1"
loop() { python3 -c "import bench.floors, pathlib; print(bench.floors.pilot_rate(pathlib.Path.cwd(), JOBS))"; }
loop > before
python3 -m bench.pilot "$PWD/engine" JOBS NODES > rate
loop > after
"""


def measure() -> list[Goal]:
    """All goals. Each floor runs before and after what is measured against it."""
    os.environ.setdefault(session_rules.MARKER, uuid.uuid4().hex)
    with running_slurm() as bed:
        return measure_on(bed)


def measure_on(bed: SlurmBed) -> list[Goal]:
    """The same, on a cluster that is up."""
    with live_cluster(bed, _with_srun, TIMED) as cluster:
        return [*_mpi(cluster), *_serial(cluster)]


def _mpi(cluster: LiveCluster) -> list[Goal]:
    before = _bare_rate(cluster)
    started, rate = (
        float(line) for line in cluster.run(FIRST.replace("JOBS", str(sized(JOBS, 8))), timeout=300).split()
    )
    bare = (before + _bare_rate(cluster)) / 2
    note = f"{sized(JOBS, 8)} Jobs of 2 ranks, {AT_A_TIME} at a time; bare srun loop {bare:.0f}/s, product {rate:.0f}/s"
    return [
        Goal("scale", "allocation starts -> first rank runs", started, "s", 3, 1.5, True, "4 nodes of a real Slurm"),
        Goal("scale", "mpi mode on 4 nodes / bare srun loop", rate / bare, "x", 0.8, 1.0, False, note),
    ]


def _serial(cluster: LiveCluster) -> list[Goal]:
    """The engine's must is 1,300/s or 0.65 of the floor, whichever is less."""
    loop, engine, loop_after = _engine_rate(cluster)
    rate = float(cluster.run(SERIAL.replace("JOBS", str(sized(SERIAL_JOBS))), timeout=300))
    later = (loop_after + _engine_rate(cluster)[0]) / 2
    bare = (loop + loop_after) / 2
    said = f"{sized(SERIAL_JOBS):,} no-op Jobs; {engine:,.0f}/s, bare spawn loop {bare:,.0f}/s"
    alone = Goal("scale", "serial mode on 4 nodes, engine alone / bare loop", engine / bare, "x",
                 min(0.65, 1300 / bare), 0.8, False, said)  # fmt: skip
    note = f"{sized(SERIAL_JOBS):,} no-op Jobs; {rate:,.0f}/s, bare spawn loop {later:,.0f}/s"
    return [alone, Goal("scale", "the same with service and events", rate / later, "x", 0.4, 0.6, False, note)]


def _with_srun(settings: dict[str, Any]) -> None:
    settings["mpirun"] = "auto"
    settings["node"] = {"cpus": None}


def _bare_rate(cluster: LiveCluster) -> float:
    result = cluster.root / "bare.out"
    _batch(cluster, BARE.replace("JOBS", str(sized(JOBS, 8))).replace("AT_A_TIME", str(AT_A_TIME)), result)
    rate: float = json.loads(result.read_text())
    return rate


def _engine_rate(cluster: LiveCluster) -> tuple[float, float, float]:
    """Per second: the bare loop, the engine, the bare loop again."""
    directory = cluster.user.directory()
    try:
        shutil.copytree(Path(__file__).parent, directory / "bench")
        _batch(cluster, ENGINE.replace("JOBS", str(sized(SERIAL_JOBS))).replace("NODES", " ".join(NODES)), directory)
        before, said, after = (json.loads((directory / name).read_text()) for name in ("before", "rate", "after"))
    finally:
        shutil.rmtree(directory)
    return before, said["rate"], after


def _batch(cluster: LiveCluster, text: str, argument: Path) -> None:
    """Run a script in an allocation of all nodes, to its end."""
    script = cluster.root / "bench.sh"
    script.write_text(text)
    script.chmod(0o755)
    where = ["--nodes=4", "--exclusive", "--account=proj1", "--partition=batch", "--output=/dev/null"]
    cluster.user.run("sbatch", "--wait", *where, str(script), str(argument), timeout=200)
