"""Serial mode over several nodes of a real Slurm: single-node Jobs everywhere, and processes that die under them."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest

from balsam.launcher.node_keys import make_node_keys
from tests.cluster.live_cluster import LiveCluster, eventually, finished, live_cluster, next_line, processes_of
from tests.launcher.conftest import ZOO
from tests.testbed.slurm_bed import ClusterUser, SlurmBed

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]

# What a script of the user starts with: an allocation of all nodes, in which Jobs are told where they run.
BEGIN = """
batch = allocation(num_nodes=4, job_mode="serial")
# All nodes see the same processes: an attempt that finds one of an earlier one alive leaves a word of it.
WHERE = ("uname -n > where; for pid in $(cat pids 2> /dev/null); do "
         "grep -qs '^State:.[^ZX]' /proc/$pid/status && echo $pid >> twice; done; echo $$ >> pids; ")

def many(name, code, number, **fields):
    jobs = [Job(app_id=Sh, workdir=f"{name}/{i}", parameters={"code": WHERE + code}, node_packing_count=8, **fields)
            for i in range(number)]
    return Job.objects.bulk_create(jobs)

def where(job):
    path = ROOT / "data" / job.workdir / "where"
    return path.read_text().strip() if path.exists() else ""

def wait_for(jobs):
    for job in jobs:
        assert job.wait(100), job.explain()

def say(*words):
    print(json.dumps(words), flush=True)
"""


@pytest.fixture(scope="module")
def cluster(slurm: SlurmBed) -> Iterator[LiveCluster]:
    with live_cluster(slurm) as running:
        yield running


def let_in(host: str, port: int) -> bytes:
    """What an outsider is answered who asks in the clear, or with TLS and no key, what Dask's programs would ask."""
    question = b"GET /info/main/workers.html HTTP/1.0\r\n\r\n"
    said = b""
    for wrap in (False, True):
        with suppress(OSError), socket.create_connection((host, port), timeout=5) as plain:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            sock = context.wrap_socket(plain) if wrap else plain
            sock.sendall(question)
            while data := sock.recv(65536):
                said += data
    return b"" if said.startswith(b"HTTP/1.1 404") else said


# What another user of the cluster can do who has keys of an allocation of his own: join as a node, or read ours.
STRANGER = """
import json, os, socket, ssl, sys
told = json.load(sys.stdin)
open("keys.pem", "w").write(told["certificate"] + told["key"])
def tried(attempt, *words):
    try:
        return attempt(*words)
    except (OSError, ValueError) as error:
        return type(error).__name__
def join(host, port):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain("keys.pem")
    with socket.create_connection((host, port), timeout=5) as plain, context.wrap_socket(plain) as sock:
        sock.sendall(bytes(64))
        return "let in" if sock.recv(1) else "closed"
def read(path):
    return "read" if os.listdir(path) is not None and open(os.path.join(path, "environ")).read() else "empty"
def memory(path):
    return "read" if [open(os.path.join(path, "fd", name), "rb").read(1) for name in os.listdir(path + "/fd")] else ""
answers = {"join": [tried(join, *address) for address in told["addresses"]]}
answers["environ"] = [tried(read, f"/proc/{pid}") for pid in told["pids"]]
answers["files"] = [tried(memory, f"/proc/{pid}") for pid in told["pids"]]
answers["site"] = tried(os.listdir, told["site"])
answers["own"] = tried(read, "/proc/self")
print(json.dumps(answers))
"""


def stranger(cluster: LiveCluster, addresses: list[tuple[str, int]], pids: list[int]) -> dict[str, Any]:
    """What sci2 gets, on the same machine as all nodes."""
    other = ClusterUser("sci2")
    directory = other.directory()
    keys = make_node_keys(datetime.now(UTC), 600.0)
    told = {**asdict(keys), "addresses": addresses, "pids": pids, "site": str(cluster.site)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    try:
        with other.start(["/usr/bin/python3", "-c", STRANGER], cwd=directory, **pipes) as process:
            said, _ = process.communicate(json.dumps(told), timeout=60)
    finally:
        shutil.rmtree(directory)
    answers: dict[str, Any] = json.loads(said)
    return answers


def node_processes(cluster: LiveCluster, scheduler_id: str) -> dict[str, psutil.Process]:
    """By node name, what starts the Jobs there."""
    found = processes_of(cluster, scheduler_id, "balsam.launcher.node_process")
    return {process.environ()["SLURMD_NODENAME"]: process for process in found}


def test_jobs_run_on_all_nodes_and_nothing_tells_the_keys(cluster: LiveCluster) -> None:
    """Commands and Python Jobs; S9: nothing is left. No key stands where another program of the machine could read it;
    nothing listens but on the addresses of the nodes, and nobody is let in without the allocation's keys: neither who
    has none, nor another user of the cluster with those of an allocation of his own, who can't read ours either.
    """
    script = cluster.begin(
        BEGIN
        + """
class Place(ApplicationDefinition):
    site = "cluster"
    def run(self, base):
        import os, time
        time.sleep(0.3)
        return [base + 1, os.uname().nodename, os.getpid()]

Place.sync()
quick = many("quick", "sleep 0.2", 96)
python = [Place.submit(workdir=f"python/{i}", node_packing_count=8, base=i) for i in range(64)]
reach(batch, "running")
until(lambda: len({where(job) for job in quick} - {""}) == 4, "Jobs do not run on all nodes")
say(batch.scheduler_id)
wait_for(quick + python)
say(sorted({where(job) for job in quick}))
values = [job.result() for job in python]
assert [value[0] for value in values] == list(range(1, 65))
say(sorted({value[1] for value in values}), len({tuple(value[1:]) for value in values}))
input_file = Path(ROOT / "go")
until(input_file.exists, "the test does not go on")
batch.cancel()
reach(batch, "finished")
        """
    )
    (scheduler_id,) = next_line(script)
    nodes = node_processes(cluster, scheduler_id)
    assert set(nodes) == {"node1", "node2", "node3", "node4"}
    listening = []
    for pid in cluster.bed.processes(scheduler_id):
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            told = " ".join([*process.cmdline(), *process.environ().values()])
            assert "PRIVATE KEY" not in told and "BEGIN CERTIFICATE" not in told
            if "srun" not in process.name():  # its own ports, which only its own steps can use
                tcp = process.net_connections("tcp")
                listening += [each.laddr for each in tcp if each.status == psutil.CONN_LISTEN]
    files = [path for path in cluster.site.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"PRIVATE KEY" in path.read_bytes()]
    assert len(listening) >= 5
    assert {address.ip.rpartition(".")[0] for address in listening} <= {"127.0.0", "127.0.1"}
    for address in listening:
        assert let_in(address.ip, address.port) == b"", "an outsider is heard"
    pids = cluster.bed.processes(scheduler_id)
    found = stranger(cluster, [(address.ip, address.port) for address in listening], pids)
    assert found.pop("own") == "read", "this test can't fail"
    assert "let in" not in found.pop("join")
    gone = "FileNotFoundError"
    assert {*found["environ"], *found["files"], found["site"]} <= {"PermissionError", "ProcessLookupError", gone}
    assert {"PermissionError"} <= {*found["environ"]}
    (on,) = next_line(script)
    assert on == ["node1", "node2", "node3", "node4"]
    (python_on, number) = next_line(script)
    assert python_on == on
    assert number < 64, "no worker was kept warm"
    (cluster.site / "go").touch()
    finished(script, 60)
    eventually(lambda: not cluster.bed.processes(scheduler_id), "processes are left")


def test_what_runs_on_the_nodes_dies(cluster: LiveCluster) -> None:
    """S6, S9: its Jobs are lost and said to be, run again, and never twice at a time; the other nodes go on.

    A node's process, which is started again; then the launcher, with all that runs.
    """
    script = cluster.begin(
        BEGIN
        + """
CODE = ("trap '' TERM; setsid sleep 7654 & echo $! >> pids; "
        "for i in $(seq 9000); do sleep 0.1; [ ! -e GO ] || exit 0; done")
long = many("long", CODE.replace("GO", str(ROOT / "end")), 32)
IDS = [job.id for job in long]
reach(batch, "running")
until(lambda: all(map(where, long)), "not all run")
said = {}
for job in long:
    said.setdefault(where(job), []).append(job.id)
say(batch.scheduler_id, said)
def lost(number):
    def events():
        return list(EventLog.objects.filter(job_id=IDS, to_state="RUN_TIMEOUT"))
    until(lambda: len(events()) >= number, f"{number} are not lost", 100)
    return sorted(event.job_id for event in events())
say(lost(8))
until(lambda: Job.objects.filter(id=IDS, state="RUNNING").count() == 32, "they do not run again")
say("again")
lost(40)
(ROOT / "end").touch()
wait_for(long)
say(sorted({str(job.state.value) for job in Job.objects.filter(id=IDS)}))
say(sorted(path.parent.name for path in (ROOT / "data" / "long").rglob("twice")),
    sum(len(path.read_text().split()) for path in (ROOT / "data" / "long").rglob("pids")))
batch.cancel()
reach(batch, "finished")
        """
    )
    scheduler_id, jobs_on = next_line(script)
    assert {name: len(ids) for name, ids in jobs_on.items()} == dict.fromkeys(jobs_on, 8) and len(jobs_on) == 4
    nodes = node_processes(cluster, scheduler_id)
    nodes["node2"].kill()
    (lost,) = next_line(script)
    assert lost == sorted(jobs_on["node2"])
    next_line(script)
    (launcher,) = processes_of(cluster, scheduler_id, "balsam.launcher.entry")
    launcher.kill()
    assert next_line(script) == [["JOB_FINISHED"]]
    twice, pids = next_line(script)
    assert twice == [], "two attempts lived at a time"
    assert pids == 2 * (32 + 8 + 32), "an attempt did not look"
    finished(script, 60)
    eventually(lambda: not cluster.bed.processes(scheduler_id), "processes are left")


def test_nothing_of_the_zoo_survives_its_job(cluster: LiveCluster) -> None:
    """S9: Jobs fork, ignore SIGTERM, are stopped, leave zombies or a daemon with the pipe; no node is used early."""
    cluster.copy(ZOO)
    said = cluster.run(
        BEGIN
        + """
zoo, python = ROOT.parent / "zoo", f"{sys.executable} -S -E"
animals = {
    "ignores": (7, f"bash {zoo}/ignores_term.sh 58171"),
    "stopped": (7, f"bash {zoo}/stopped.sh 58171"),
    "setsid": (7, f"{python} {zoo}/daemon.py 58171 stay"),
    "zombies": (7, f"{python} {zoo}/zombies.py 58171"),
    "forks": (2, f"{python} {zoo}/bomb.py 58171"),
}
jobs = [job for name, (number, animal) in animals.items() for job in many(f"zoo/{name}", f"exec {animal}", number)]
def ready():
    outs = [ROOT / "data" / job.workdir / "job.out" for job in jobs]
    return all(out.exists() and "ready" in out.read_text() for out in outs)
until(ready, "not all run")
on = sorted({where(job) for job in jobs})
# Each takes a whole node, as soon as it has one, and counts what of the zoo lives there: zombies have no environment.
COUNT = ("for pid in $(pgrep -f '5817[1]'); do "
         "grep -qzsx SLURMD_NODENAME=$SLURMD_NODENAME /proc/$pid/environ && echo $pid; done | wc -l; uname -n; "
         "touch up; until [ $(ls ../*/up | wc -l) = 4 ]; do sleep 0.1; done")
after = [Job(app_id=Sh, workdir=f"zoo/after/{i}", parameters={"code": COUNT}) for i in range(4)]
after = Job.objects.bulk_create(after)
for job in jobs:
    job.cancel()
wait_for(after)
states = sorted({str(job.state.value) for job in Job.objects.filter(id=[job.id for job in jobs])})
say(on, states, sorted(job.read_text("job.out").split() for job in after))
batch.cancel()
reach(batch, "finished")
        """
    )
    on, states, counts = json.loads(said)
    assert on == ["node1", "node2", "node3", "node4"]
    assert states == ["CANCELLED"]
    assert counts == [["0", name] for name in on], "a node was used while processes of its Jobs lived"
