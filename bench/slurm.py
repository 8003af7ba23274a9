"""The launcher on a real Slurm of four nodes, that of the tests, as root: `python -m bench slurm`.

How soon the first rank runs in an allocation that has started, and Jobs of two ranks in mpi mode beside a bare loop of
srun, which starts as many at a time with the same options, in an allocation of its own.
"""

import json
import os
import uuid
from typing import Any

from bench.result import Goal
from tests.cluster.live_cluster import TEMPLATE, LiveCluster, live_cluster
from tests.testbed import session_rules
from tests.testbed.slurm_bed import running_slurm

JOBS, AT_A_TIME = 240, 16
TIMED = TEMPLATE.replace("echo started >>", "date +%s.%N >")
BARE = """\
#!/bin/bash
run() { srun --nodes=1 --ntasks=2 --ntasks-per-node=2 --nodelist=node$1 --overlap --mem=0 --kill-on-bad-exit=1 \
    --input=none --export=ALL --distribution=block -- /bin/true; }
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


def measure() -> list[Goal]:
    """Both goals; the bare loop runs before and after."""
    os.environ.setdefault(session_rules.MARKER, uuid.uuid4().hex)
    with running_slurm() as bed, live_cluster(bed, _with_srun, TIMED) as cluster:
        before = _bare_rate(cluster)
        started, rate = (float(line) for line in cluster.run(FIRST.replace("JOBS", str(JOBS)), timeout=300).split())
        bare = (before + _bare_rate(cluster)) / 2
    note = f"{JOBS} Jobs of 2 ranks, {AT_A_TIME} at a time; bare srun loop {bare:.0f}/s, product {rate:.0f}/s"
    return [
        Goal("scale", "allocation starts -> first rank runs", started, "s", 3, 1.5, True, "4 nodes of a real Slurm"),
        Goal("scale", "mpi mode on 4 nodes / bare srun loop", rate / bare, "x", 0.8, 1.0, False, note),
    ]


def _with_srun(settings: dict[str, Any]) -> None:
    settings["mpirun"] = "auto"
    settings["node"] = {"cpus": None}


def _bare_rate(cluster: LiveCluster) -> float:
    script, result = cluster.root / "bare.sh", cluster.root / "bare.out"
    script.write_text(BARE.replace("JOBS", str(JOBS)).replace("AT_A_TIME", str(AT_A_TIME)))
    script.chmod(0o755)
    words = [
        "sbatch",
        "--wait",
        "--nodes=4",
        "--exclusive",
        "--account=proj1",
        "--partition=batch",
        "--output=/dev/null",
    ]
    cluster.user.run(*words, str(script), str(result), timeout=200)
    rate: float = json.loads(result.read_text())
    return rate
