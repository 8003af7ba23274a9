"""A service, and a Site on the cluster with its agent, all processes of an unprivileged user; and her scripts.

`Workplace` is what such a user has anywhere, `LiveCluster` what she has on the cluster.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.system.live_site import finished
from tests.testbed.grid_engine_bed import GridEngineBed
from tests.testbed.slurm_bed import ClusterUser, SlurmBed

SETTINGS: dict[str, Any] = {
    "launcher": {"idle_ttl_sec": 600.0, "kill_grace_sec": 2.0},
    "scheduler": {
        "scheduler_class": "slurm",
        "scheduler_options": {"command_timeout_sec": 5},
        "sync_period": 1.0,
        "allowed_queues": {
            name: {"max_nodes": 9, "max_walltime": 2880, "max_queued_jobs": 0}
            for name in ("batch", "debug", "nowhere", "urgent")
        },
        "allowed_projects": ["proj1", "proj2", "nobody"],
        "optional_batch_job_params": {"greeting": "hello", "fail": "no", "qos": "normal"},
    },
    "node": {"cpus": 8},
    "mpirun": "plain",
}
# What a Site's own template has more than the shipped one: directives, and the optional parameters in use.
TEMPLATE = """\
#!/bin/bash
#SBATCH --exclusive
#SBATCH --qos={{ optional_params.qos }}
{%- macro word(text) %}'{{ text | string | replace("'", "'\\\\''") }}'{% endmacro %}

export GREETING={{ word(optional_params.greeting) }} NUM_NODES={{ num_nodes }}
echo started >> {{ balsam_site_path }}/starts
{% if optional_params.fail == "yes" %}
echo "no such module" >&2; exit 3
{% endif %}
exec {{ launcher_cmd }} -j {{ job_mode }} -t {{ wall_time_min }}
{%- for key, value in filter_tags.items() %} --tag={{ word(key ~ "=" ~ value) }}{% endfor %} {{ partitions }}
"""
PRELUDE = """
import json, sys, time
from pathlib import Path
from balsam.api import ApplicationDefinition, BatchJob, EventLog, Job, Site

SITE = Site.objects.get(name="cluster")
ROOT = Path({root!r})

class Sh(ApplicationDefinition):
    site = "cluster"
    command_template = "sh -c {{{{ code }}}}"

def submit(name, code, **fields):
    job = Job(app_id=Sh, workdir=name, parameters={{"code": code}}, node_packing_count=8, **fields)
    job.save()
    return job

def allocation(queue="batch", project="proj1", num_nodes=1, wall_time_min=10, job_mode="mpi", **fields):
    return BatchJob.objects.create(site_id=SITE.id, num_nodes=num_nodes, wall_time_min=wall_time_min,
                                   job_mode=job_mode, queue=queue, project=project, **fields)

def until(look, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.1)

def reach(batch, *states, seconds=60):
    def there():
        batch.refresh_from_db()
        return str(batch.state.value) in states
    until(there, f"{{batch}} {{batch.status_info}} is not {{states}}", seconds)
    return batch

def offers():
    SITE.refresh_from_db()
    return "batch" in SITE.allowed_queues
until(offers, "the agent does not say what its Site allows")

def states_of(job):
    return [event.to_state.value for event in EventLog.objects.filter(job_id=job.id).order_by("timestamp")]
"""


def with_srun(settings: dict[str, Any]) -> None:
    """Jobs are started by Slurm, and know as many CPUs as it gives."""
    settings["mpirun"] = "auto"
    settings["node"] = {"cpus": None}


class Workplace:
    """A directory of a Unix user's: what the project's programs write goes there, and her scripts run there."""

    def __init__(self, user: ClusterUser, root: Path) -> None:
        self.user = user
        self.root = root
        self._scripts = 0

    @property
    def python(self) -> str:
        return str(self.user.venv / "bin/python")

    @property
    def environment(self) -> dict[str, str]:
        return {"BALSAM_HOME": str(self.root / "home")}

    def balsam(self, *words: str, **environment: str) -> str:
        """What the command says."""
        command = [str(self.user.venv / "bin/balsam"), *words]
        return self.user.run(*command, env={**self.environment, **environment}, cwd=self.root)

    def copy(self, directory: Path) -> Path:
        """A directory of the project, as hers."""
        there = self.root / directory.name
        shutil.copytree(directory, there, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (there, *there.rglob("*")):
            os.chown(path, self.user.entry.pw_uid, self.user.entry.pw_gid)
        return there

    def begin(self, script: str | Path, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Start a script of hers: one that she has, or its text."""
        if isinstance(script, str):
            self._scripts += 1
            path = self.root / f"script{self._scripts}.py"
            path.write_text(script)
            path.chmod(0o644)
            script = path
        return self.user.start(
            [self.python, "-X", "faulthandler", str(script), *words],
            env={**self.environment, **environment},
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, script: str | Path, *words: str, timeout: float = 120) -> str:
        """Run such a script to its end; what it printed."""
        return finished(self.begin(script, *words), timeout)


class LiveCluster(Workplace):
    """One user's service and Site."""

    def __init__(self, bed: SlurmBed | GridEngineBed, root: Path, password: str = "") -> None:
        """`password`: of the account ann, for a service that logs nobody in by a file."""
        super().__init__(bed.user, root)
        self.bed: Any = bed
        self.password = password
        self.service: subprocess.Popen[str] | None = None
        self.agent: subprocess.Popen[str] | None = None
        self.port = 0
        self._files: list[Any] = []

    @property
    def site(self) -> Path:
        return self.root / "site"

    def start_service(self) -> None:
        words = [self.python, "-m", "balsam.server", "--json", "--port", str(self.port)]
        words += ["--multi-user"] if self.password else []
        self.service = self._start(words, "service.log", stdout=subprocess.PIPE)
        assert self.service.stdout is not None
        line = self.service.stdout.readline()
        assert line, (self.root / "service.log").read_text()
        self.port = int(json.loads(line)["url"].rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make_account(self) -> None:
        """The account ann, whose password is known, and its login by the Site's user."""
        code = re.search(r"--code (\S+)", (self.root / "service.log").read_text())
        assert code is not None
        words = ("admin", "first", self.url, "--code", code[1], "-u", "ann", "--json")
        self.balsam(*words, BALSAM_PASSWORD=self.password)
        self.balsam("login", self.url, "-u", "ann", BALSAM_PASSWORD=self.password)

    def start_agent(self, **environment: str) -> None:
        """`environment` is added to the user's."""
        words = [self.python, "-m", "balsam.site", "--site", str(self.site)]
        self.agent = self._start(words, "agent.log", env={**self.environment, **environment})

    def kill_agent(self) -> None:
        assert self.agent is not None
        self.agent.kill()
        self.agent.wait()

    def restart_agent(self) -> None:
        self.kill_agent()
        self.start_agent()

    def change_settings(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Takes effect when the agent starts again."""
        settings = json.loads(json.dumps(SETTINGS))
        change(settings)
        (self.site / "settings.yml").write_text(yaml.safe_dump(settings))

    def begin(self, script: str | Path, *words: str, **environment: str) -> subprocess.Popen[str]:
        """As any script of hers, but one that is given as text has PRELUDE before it."""
        if isinstance(script, str):
            script = PRELUDE.format(root=str(self.site)) + textwrap.dedent(script)
        return super().begin(script, *words, **environment)

    def starts(self) -> int:
        """How many batch scripts of the Site were started."""
        path = self.site / "starts"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def log(self) -> str:
        return (self.root / "agent.log").read_text()

    def stop(self) -> None:
        end(process for process in (self.agent, self.service) if process is not None)
        for file in self._files:
            file.close()

    def _start(self, words: list[str], log: str, **options: Any) -> subprocess.Popen[str]:
        file = (self.root / log).open("a")
        self._files.append(file)
        return self.user.start(words, stderr=file, **{"env": self.environment, "stdout": file, **options})


def end(processes: Iterable[subprocess.Popen[str]]) -> None:
    """One after another, by SIGTERM first."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def eventually(look: Callable[[], Any], what: str, timeout: float = 60) -> Any:
    """What `look` returns once it is true."""
    deadline = time.monotonic() + timeout
    while not (answer := look()):
        assert time.monotonic() < deadline, f"{what} (after {timeout} s)"
        time.sleep(0.1)
    return answer


def next_line(script: subprocess.Popen[str]) -> Any:
    """What a running script says next, a line of JSON."""
    assert script.stdout is not None
    line = script.stdout.readline()
    assert line, script.communicate()
    return json.loads(line)


def answers(said: str) -> list[Any]:
    """What a script has said in all, lines of JSON."""
    return [json.loads(line) for line in said.splitlines()]


def processes_of(cluster: LiveCluster, scheduler_id: str, module: str) -> list[psutil.Process]:
    """Those of an allocation that run a module."""
    found = []
    for pid in cluster.bed.processes(scheduler_id):
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if module in process.cmdline():
                found.append(process)
    return found


@contextmanager
def live_cluster(
    bed: SlurmBed | GridEngineBed,
    change: Callable[[dict[str, Any]], None] = lambda settings: None,
    template: str = TEMPLATE,
    password: str = "",
) -> Iterator[LiveCluster]:
    """A service and a Site called `cluster` with a running agent, in a directory of the user's home.

    With a `password` the service has accounts, and the user has logged in as ann.
    """
    cluster = LiveCluster(bed, bed.user.directory(), password)
    try:
        cluster.start_service()
        if password:
            cluster.make_account()
        cluster.balsam("site", "init", str(cluster.site), "--name", "cluster")
        cluster.change_settings(change)
        (cluster.site / "job-template.sh").write_text(template)
        cluster.start_agent()
        yield cluster
    finally:
        cluster.stop()
        bed.end_everything()
        shutil.rmtree(cluster.root)
