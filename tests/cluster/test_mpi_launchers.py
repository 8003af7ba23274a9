"""Ranks on a real Slurm that are started by an mpiexec, by a srun that is not well, and on a node that is not."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.live_cluster import (
    TEMPLATE,
    LiveCluster,
    answers,
    eventually,
    finished,
    live_cluster,
    next_line,
    processes_of,
    with_srun,
)
from tests.testbed import mpi
from tests.testbed.slurm_bed import BED, SlurmBed

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]
CHOICE = """
export BALSAM_MPIRUN={{ optional_params.mpirun }}
export PATH={{ balsam_site_path }}/{{ optional_params.path }}:$PATH
exec \
"""
# A minute is Slurm's shortest; the launcher of such an allocation is told that it has 30 s.
LAUNCHED_BY = TEMPLATE.replace("\nexec ", CHOICE).replace(
    "-t {{ wall_time_min }}", "-t {{ wall_time_min if wall_time_min > 1 else 0.5 }}"
)
# A srun that starts each rank by itself: what a wrong --mpi comes to.
ALONE = """\
#!/bin/bash
exec /usr/bin/srun "${@/--mpi=pmi2/--mpi=none}"
"""
LIBRARY = {"mpich": "libmpich.so.12", "openmpi": "libmpi.so.40"}
# How large its world is. Debian's packages bring no headers; this much of the ABI does not change.
PROGRAM = """\
#include <stdio.h>
extern char ompi_mpi_comm_world[];
int MPI_Init(void *, void *); int MPI_Comm_size(COMM, int *); int MPI_Finalize(void);
int main(void) { int size; MPI_Init(0, 0); MPI_Comm_size(WORLD, &size); printf("%d\\n", size); return MPI_Finalize(); }
"""
WORLD = {"mpich": ("int", "0x44000000"), "openmpi": ("void *", "ompi_mpi_comm_world")}


def with_choice(settings: dict[str, Any]) -> None:
    """The allocation says what starts its ranks, and which programs come first on PATH."""
    with_srun(settings)
    settings["scheduler"]["optional_batch_job_params"] |= {"mpirun": "auto", "path": "none"}
    settings["launcher"]["kill_grace_sec"] = 30.0  # what ranks do after SIGTERM takes its time on a machine under load


@pytest.fixture(scope="module")
def cluster(slurm: SlurmBed) -> Iterator[LiveCluster]:
    with live_cluster(slurm, with_choice, LAUNCHED_BY) as running:
        yield running


# Jobs of one mpirun, in an allocation of their own.
BEGIN = """
import sys
from balsam.platform.mpirun import mpi_probe
MPIRUN, LIBRARY = {mpirun!r}, {library!r}
tags = {{"mpirun": MPIRUN}}
def made(name, code, **fields):
    job = Job(app_id=Sh, workdir=f"{{MPIRUN}}/{{name}}", parameters={{"code": code}}, tags=tags, **fields)
    job.save()
    return job
def at(job):
    return ROOT / "data" / job.workdir
def out(job):
    path = at(job) / "job.out"
    return path.read_text().split() if path.exists() else []
batch = allocation(num_nodes=4, optional_params={{"mpirun": MPIRUN}}, filter_tags=tags)
"""


@pytest.mark.parametrize(("mpirun", "flavour"), [("mpich", "MPICH"), ("openmpi", "Open MPI")])
def test_ranks_that_mpiexec_starts_over_the_nodes(cluster: LiveCluster, mpirun: str, flavour: str) -> None:
    """They are one world, where they belong; Jobs that share a node run at a time; SIGTERM reaches all ranks."""
    mpi.require(flavour)
    said = cluster.run(
        BEGIN.format(mpirun=mpirun, library=LIBRARY[mpirun])
        + """
world = f"{sys.executable} -I -S {mpi_probe.__file__} {MPIRUN} {LIBRARY} && uname -n"
wide = made("wide", world, num_nodes=4, ranks_per_node=2)
assert wide.wait(90), wide.explain()
print(json.dumps(sorted(out(wide))))

small = [made(f"small{n}", "uname -n; until [ -e ../end ]; do sleep 0.1; done", ranks_per_node=2, node_packing_count=2)
         for n in range(8)]
until(lambda: all(len(out(job)) == 2 for job in small), "not all run at a time", 100)
(ROOT / "data" / MPIRUN / "end").touch()
for job in small:
    assert job.wait(60), job.explain()
print(json.dumps(sorted(name for job in small for name in set(out(job)))))

# Each takes the time until the other has been told, too; with an error it would take the other along.
code = ("trap 'touch told.$(uname -n); until [ $(ls told.* | wc -l) = 2 ]; do sleep 0.1; done; "
        "touch ended.$(uname -n); exit 0' TERM; echo up; while :; do sleep 0.1; done")
told = made("told", code, num_nodes=2)
until(lambda: out(told).count("up") == 2, str(told.explain()))
told.cancel()
assert told.wait(60), told.explain()
until(lambda: len(list(at(told).glob("ended.*"))) == 2, f"SIGTERM does not reach the ranks: {list(at(told).iterdir())}")
batch.cancel()
reach(batch, "finished")
        """
    )
    wide, small = answers(said)
    assert wide == sorted(["balsam-mpi-size", "8"] * 8 + [f"node{number}" for number in (1, 2, 3, 4)] * 2)
    assert small == sorted([f"node{number}" for number in (1, 2, 3, 4)] * 2)
    eventually(lambda: not cluster.bed.user.processes_with("BALSAM_JOB_MODE=mpi"), "ranks are left")


def test_ranks_on_all_nodes_are_asked_for_a_checkpoint(cluster: LiveCluster) -> None:
    """By each mpiexec, at a time, some seconds before the end; nothing of those that hear no SIGTERM outlives it."""
    for flavour in ("MPICH", "Open MPI"):
        mpi.require(flavour)
    said = cluster.run(
        """
        class Saves(ApplicationDefinition):
            site = "cluster"
            command_template = "sh -c {{ code }}"
            environment_variables = {"BALSAM_CHECKPOINT_SIGNAL": "SIGUSR1"}
        code = ("trap '' TERM; trap 'touch saved.$(uname -n)' USR1; "
                "touch up.$(uname -n); while :; do sleep 0.1; done")
        jobs = [Job(app_id=Saves, workdir=f"saves/{mpirun}", parameters={"code": code}, num_nodes=2,
                    tags={"saves": mpirun}) for mpirun in ("mpich", "openmpi")]
        batches = []
        for job in jobs:
            job.save()
            batches.append(allocation(num_nodes=2, wall_time_min=1, filter_tags=job.tags,
                                      optional_params={"mpirun": job.tags["saves"]}))
        def there(kind):
            return [len(list((ROOT / "data" / job.workdir).glob(kind + ".*"))) for job in jobs]
        def story(kind):
            logs = sorted((ROOT / "log").glob("launcher*")) + sorted((ROOT / "qsubmit").glob("*.output"))
            return "\\n".join([f"{kind}: {there(kind)} of [2, 2] nodes", *[str(states_of(job)) for job in jobs],
                              *[f"{path.name}: {path.read_text(errors='replace')[-3000:]}" for path in logs]])
        for kind in ("up", "saved"):
            until(lambda: there(kind) == [2, 2], lambda: story(kind))
        for job, batch in zip(jobs, batches):
            until(lambda: states_of(job)[-1] == "RESTART_READY", str(states_of(job)))
            reach(batch, "finished")
            print(json.dumps(states_of(job).count("RUN_TIMEOUT")))
            job.cancel()
        """
    )
    assert answers(said) == [1, 1]
    eventually(lambda: not cluster.bed.user.processes_with("BALSAM_JOB_MODE=mpi"), "ranks are left")


def test_the_launcher_is_killed_and_the_next_one_is_drained(cluster: LiveCluster) -> None:
    """S6: all ranks of srun and of Open MPI are gone, on each node, before they run again in the same allocation."""
    mpi.require("Open MPI")
    script = cluster.begin(
        """
        code = ("touch up$BALSAM_ATTEMPT.$(uname -n); "
                "[ $BALSAM_ATTEMPT = 2 ] || { setsid sleep NUMBER & exec sleep NUMBER; }; "
                "ps -eo stat,args | grep -v ^Z | grep -c ' sleep NUMBER$' > seen.$(uname -n); "
                "mv seen.$(uname -n) left.$(uname -n); "
                "until [ -e go ]; do sleep 0.1; done")
        jobs, batches = [], []
        for mpirun, number in (("auto", 49261), ("openmpi", 49262)):
            tags = {"killed": mpirun}
            jobs.append(Job(app_id=Sh, workdir=f"killed/{mpirun}", num_nodes=2, tags=tags,
                            parameters={"code": code.replace("NUMBER", str(number))}))
            jobs[-1].save()
            batches.append(allocation(num_nodes=2, filter_tags=tags, optional_params={"mpirun": mpirun}))
        def at(job):
            return ROOT / "data" / job.workdir
        def there(kind):
            return [len(list(at(job).glob(kind + ".*"))) for job in jobs] == [2, 2]
        until(lambda: there("up1"), "they do not run")
        print(json.dumps([reach(batch, "running").scheduler_id for batch in batches]), flush=True)
        until(lambda: there("left"), f"they do not run again: {[states_of(job) for job in jobs]}")
        print(json.dumps([path.read_text().strip() for job in jobs for path in at(job).glob("left.*")]))
        for batch in batches:
            batch.drain()
        for job in jobs:
            (at(job) / "go").touch()
        for job, batch in zip(jobs, batches):
            assert job.wait(60), job.explain()
            reach(batch, "finished")
            print(json.dumps([states_of(job)[-1], batch.status_info.get("error")]))
        """
    )
    for scheduler_id in next_line(script):
        (launcher,) = processes_of(cluster, scheduler_id, "balsam.launcher.entry")
        launcher.kill()
    left, *ends = answers(finished(script, 120))
    assert left == ["0"] * 4, "processes of the first attempt"
    assert ends == [["JOB_FINISHED", None]] * 2


def test_an_mpiexec_that_has_lost_a_node_says_so_before_slurm_does(cluster: LiveCluster) -> None:
    """S10: by ending with an error, which is not the App's; the Job is to run again."""
    mpi.require("MPICH")
    script = cluster.begin(
        BEGIN.format(mpirun="mpich", library=LIBRARY["mpich"])
        + """
struck = made("struck", "[ $BALSAM_ATTEMPT = 2 ] || { uname -n; exec sleep 600; }", num_nodes=4)
until(lambda: len(out(struck)) == 4, str(struck.explain()))
print(json.dumps("crash"), flush=True)
until(lambda: states_of(struck)[-1] not in ("RUNNING", "READY"), str(struck.explain()))
print(json.dumps(states_of(struck)))
print(json.dumps([event.data.get("failure") for event in EventLog.objects.filter(job_id=struck.id)
                  if event.from_state.value == "RUNNING"]))
struck.cancel()  # it needs more nodes than are left
batch.cancel()
reach(batch, "finished")
        """
    )
    assert next_line(script) == "crash"
    cluster.bed.node("node4", "crash")
    try:
        states, failures = answers(finished(script, 120))
    finally:
        cluster.bed.node("node4", "start")
    assert states[-1] == "RESTART_READY", states
    assert failures == ["lost_node"]


def test_ranks_that_do_not_see_each_other_are_refused(cluster: LiveCluster) -> None:
    """Instead of an ensemble of programs that each take themselves for the only rank."""
    mpi.require("MPICH")
    directory = cluster.site / "alone"
    directory.mkdir(mode=0o755)
    (directory / "srun").write_text(ALONE)
    (directory / "srun").chmod(0o755)
    (directory / "mpiexec").symlink_to("/usr/bin/mpiexec.mpich")
    said = cluster.run(
        """
        batch = reach(allocation(num_nodes=2, optional_params={"path": "alone"}), "finished")
        print(json.dumps(batch.status_info))
        """
    )
    told = json.loads(said)
    assert told["error"] == "FAILED: exit code 78"
    said = " ".join(told["output_tail"].split())
    assert "ranks of mpich" in said and "do not see each other" in said, told
    assert "world sizes 1, 1 instead of 2, 2" in said
    assert "set `mpirun: mpich`" in said


def test_programs_of_either_mpi_see_all_their_ranks_under_srun(cluster: LiveCluster) -> None:
    """One `--mpi` is not right for both; the wrong one makes each rank a world of its own, and all end well."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the program of two MPIs needs a C compiler")
    for flavour in ("MPICH", "Open MPI"):
        mpi.require(flavour)
    for name, (kind, world) in WORLD.items():
        text = PROGRAM.replace("COMM", kind).replace("WORLD", world)
        words = [compiler, "-x", "c", "-", "-o", str(cluster.site / name), "-l:" + LIBRARY[name]]
        subprocess.run(words, input=text, text=True, check=True)
    said = cluster.run(
        """
        class Mpich(ApplicationDefinition):
            site = "cluster"
            command_template = f"{ROOT}/mpich"
        class OpenMpi(ApplicationDefinition):
            site = "cluster"
            command_template = f"{ROOT}/openmpi"
        tags = {"group": "either"}
        jobs = [Job(app_id=app, workdir=f"either/{app.__name__}", num_nodes=2, ranks_per_node=2, tags=tags)
                for app in (Mpich, OpenMpi)]
        batch = allocation(num_nodes=4, filter_tags=tags)
        for job in jobs:
            job.save()
        for job in jobs:
            assert job.wait(90), job.explain()
            print(json.dumps([job.state.value, job.read_text("job.out").split()]))
        batch.cancel()
        reach(batch, "finished")
        """
    )
    assert answers(said) == [["JOB_FINISHED", ["4"] * 4]] * 2


def test_a_node_that_lacks_the_program_is_set_aside(cluster: LiveCluster) -> None:
    """/tmp is each node's own, as a local disk is."""
    for number in (1, 2, 4):
        program = BED / "tmp" / f"node{number}" / "program"
        program.write_text("#!/bin/sh\nexec sleep 0.3\n")
        program.chmod(0o755)
    said = cluster.run(
        """
        class Installed(ApplicationDefinition):
            site = "cluster"
            command_template = "/tmp/program"
        tags = {"group": "installed"}
        jobs = [Job(app_id=Installed, workdir=f"installed/{n}", ranks_per_node=2, node_packing_count=2, tags=tags)
                for n in range(24)]
        Job.objects.bulk_create(jobs)
        batch = allocation(num_nodes=4, filter_tags=tags)
        for job in jobs:
            job.wait(90)
        ids = [job.id for job in jobs]
        states = [job.state.value for job in Job.objects.filter(id=ids)]
        print(json.dumps({state: states.count(state) for state in set(states)}))
        print(json.dumps([[event.data["node_set_aside"], event.data["message"]]
                          for event in EventLog.objects.filter(job_id=ids) if "node_set_aside" in event.data]))
        batch.cancel()
        reach(batch, "finished")
        """
    )
    states, aside = answers(said)
    assert states["FAILED"] <= 5 and states["FAILED"] + states["JOB_FINISHED"] == 24, states
    ((node, message),) = aside
    assert node == "node3"
    assert "node node3 is set aside for the rest of this allocation" in message
