"""The end of an allocation under a running Job (L3), and a client whose clock is a day wrong; with a real `balsam up`.

An allocation of one minute is asked for when the module starts, and what ends with it is looked at by one test; the
others use allocations of their own meanwhile.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.live_site import LiveSite, finished, live_site

pytestmark = pytest.mark.timeout(240)

# A program that says who it is, keeps a checkpoint when it is told to end, and ends well when it finds one.
WORKER = """
import json, os, signal, sys, time
kind, attempt = sys.argv[1], os.environ["BALSAM_ATTEMPT"]
print("attempt", attempt, flush=True)
if os.path.exists("started"):
    print("resumed from", open("checkpoint").read() if kind == "checkpoint" else "nothing")
    sys.exit()
def keep(*_):
    with open("checkpoint", "w") as file:
        file.write(repr(time.time()))
    sys.exit(1)
signal.signal(signal.SIGTERM, keep if kind == "checkpoint" else signal.SIG_IGN)
open("started", "w").write(str(os.getpid()))
time.sleep(600)
"""

PRELUDE = """
import json, sys, time
from pathlib import Path
from balsam.api import ApplicationDefinition, BatchJob, EventLog, Job

class Worker(ApplicationDefinition):
    site = "{name}"
    command_template = "{python} {worker} {{{{ kind }}}}"

class Sleeper(ApplicationDefinition):
    site = "{name}"
    command_template = "sleep {{{{ seconds }}}}; echo slept"

DATA = Path("{data}")

def allocation(group, minutes):
    return BatchJob.objects.create(
        site_id={id}, num_nodes=1, wall_time_min=minutes, job_mode="mpi", queue="local", project="local",
        filter_tags={{"group": group}})

def submit(group, kind, wall_time_min=0):
    job = Job(app_id=Worker, workdir=group + "/" + kind, parameters={{"kind": kind}}, tags={{"group": group}},
              wall_time_min=wall_time_min, node_packing_count=2)
    job.save()
    return job

def until(look, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)

def ended(batch):
    batch.refresh_from_db()
    return batch.state == "finished"

def log(job):
    events = list(EventLog.objects.filter(job_id=job.id).order_by("timestamp"))
    states = [str(event.to_state.value) for event in events]
    assert [event.seq for event in events] == list(range(1, len(events) + 1)), events
    return events, states
"""
UNTIL_RUNNING = ["READY", "STAGED_IN", "PREPROCESSED", "RUNNING"]
TWICE = [*UNTIL_RUNNING, "RUN_TIMEOUT", "RESTART_READY", "RUNNING", "RUN_DONE", "POSTPROCESSED"]

SHORT = """
batch, two = allocation("short", 1), allocation("two", 2)
jobs = [submit("short", "checkpoint"), submit("short", "stubborn")]
for job in jobs:
    until((DATA / job.workdir / "started").exists, "the Job does not run")
began = time.monotonic()
toolong = submit("short", "toolong", wall_time_min=2)
time.sleep(1)
why = toolong.explain()
print(json.dumps([str(toolong.state.value), why.summary, why.reasons]))

until(lambda: ended(batch), "the allocation does not end", 90)
lasted = time.monotonic() - began
two.refresh_from_db()
until(lambda: time.time() > two.start_time.timestamp() + 62, "time stands still")
left = submit("two", "left", wall_time_min=2)     # less than a minute is left of those two
time.sleep(1.5)
left.refresh_from_db()
why = left.explain()
print(json.dumps([str(left.state.value), left.attempt, why.summary, why.reasons]))

told = []
for job in jobs:
    events, states = log(job)
    assert states[-2:] == ["RUN_TIMEOUT", "RESTART_READY"], states
    timeout = events[-2]
    told.append([timeout.actor, (timeout.timestamp - batch.start_time).total_seconds(),
                 timeout.data.get("message", "")])
checkpoint = float((DATA / "short/checkpoint/checkpoint").read_text()) - batch.start_time.timestamp()
print(json.dumps([told, checkpoint, lasted, (batch.end_time - batch.start_time).total_seconds()]))
toolong.refresh_from_db()
print(json.dumps([toolong.attempt, (DATA / toolong.workdir).exists()]))

two.cancel()
until(lambda: ended(two), "the second allocation does not end")
after = allocation("short", 10)
(DATA / "short/toolong").mkdir()
(DATA / "short/toolong/started").write_text("")   # so that it ends at once
for job in [*jobs, toolong]:
    assert job.wait(60), job.explain()
after.cancel()
found = []
for job in jobs + [toolong]:
    directory = DATA / job.workdir
    found.append([log(job)[1], job.attempt, {path.name: path.read_text() for path in directory.glob("job.out*")},
                  job.batch_job_id == after.id])
print(json.dumps(found))
"""


def patient(settings: dict[str, Any]) -> None:
    """Allocations that wait for the tests, several at a time."""
    settings.setdefault("launcher", {})["idle_ttl_sec"] = 600.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("walltime") / "home", patient) as running:
        (running.home / "worker.py").write_text(WORKER)
        yield running


def script(site: LiveSite, body: str) -> str:
    return PRELUDE.format(
        name=site.name, id=site.id, data=site.path / "data", python=sys.executable, worker=site.home / "worker.py"
    ) + textwrap.dedent(body)


@pytest.fixture(scope="module", autouse=True)
def minute(site: LiveSite) -> Iterator[list[Any]]:
    """The script that lives through the short allocation; its answers when it has ended."""
    running = site.begin(script(site, SHORT), name="minute.py")
    answers: list[Any] = [running]
    yield answers
    if running.poll() is None:
        running.kill()
        running.communicate()


def test_a_revoked_allocation_s_job_restarts_in_the_next(site: LiveSite) -> None:
    said = site.run(
        script(
            site,
            """
            from libensemble.executors.balsam_executor import BalsamExecutor
            exctr = BalsamExecutor()
            exctr.register_app(Worker, app_name="Worker")
            options = dict(site_id=SITE_ID, num_nodes=1, wall_time_min=10, filter_tags={"group": "revoked"})
            first = exctr.submit_allocation(**options)
            task = exctr.submit(app_name="Worker", app_args={"kind": "checkpoint"}, tags={"group": "revoked"})
            until((DATA / task.workdir / "started").exists, "the task does not run")
            assert exctr.revoke_allocation(first, timeout=60)
            job = task.process
            job.refresh_from_db()
            events, states = log(job)
            task.poll()
            print(json.dumps([states, events[-2].actor, task.state, task.finished]))
            second = exctr.submit_allocation(**options)
            task.wait(timeout=60)
            out = {path.name: path.read_text() for path in (DATA / task.workdir).glob("job.out*")}
            print(json.dumps([log(job)[1], job.attempt, task.state, out, job.batch_job_id == second.id]))
            assert exctr.revoke_allocation(second, timeout=60)
            """,
        ).replace("SITE_ID", str(site.id)),
        name="revoked.py",
    )
    (states, actor, *task), (all_states, attempt, task_state, out, in_second) = map(json.loads, said.splitlines())
    assert states == [*UNTIL_RUNNING, "RUN_TIMEOUT", "RESTART_READY"]
    assert (actor, task) == ("launcher", ["WAITING", False])
    assert all_states == [*TWICE, "JOB_FINISHED"]
    assert (attempt, task_state, in_second) == (2, "FINISHED", True)
    assert out["job.out.1"] == "attempt 1\n"
    assert out["job.out"].startswith("attempt 2\nresumed from 1")


# What Python itself runs first in a process whose PYTHONPATH has it.
WRONG_CLOCK = """
import datetime, os, time
by = float(os.environ["CLOCK_OFF_SEC"])
real_time, real_time_ns, real_datetime = time.time, time.time_ns, datetime.datetime
time.time = lambda: real_time() + by
time.time_ns = lambda: real_time_ns() + int(by * 1e9)

class AnyDatetime(type):
    def __instancecheck__(cls, instance):
        return isinstance(instance, real_datetime)
    def __subclasscheck__(cls, other):
        return issubclass(other, real_datetime)

class ShiftedDatetime(real_datetime, metaclass=AnyDatetime):
    @classmethod
    def now(cls, tz=None):
        return real_datetime.now(tz) + datetime.timedelta(seconds=by)
    @classmethod
    def utcnow(cls):
        return real_datetime.utcnow() + datetime.timedelta(seconds=by)
    @classmethod
    def today(cls):
        return cls.now()

datetime.datetime = ShiftedDatetime
"""


@pytest.mark.parametrize("days", [-1, 1])
def test_a_client_whose_clock_is_wrong_by_a_day(site: LiveSite, tmp_path: Path, days: int) -> None:
    (tmp_path / "sitecustomize.py").write_text(WRONG_CLOCK)
    group = f"clock{days}"
    running = site.begin(
        script(
            site,
            f"""
            import datetime
            from libensemble.executors.balsam_executor import BalsamExecutor
            from libensemble.executors.executor import TimeoutExpired
            exctr = BalsamExecutor()
            exctr.register_app(Sleeper, app_name="Sleeper")
            batch = allocation({group!r}, 10)
            ready = Job(app_id=Sleeper, workdir="{group}/ready", parameters={{"seconds": 0}},
                        tags={{"group": {group!r}}})
            ready.save()
            assert ready.wait(60) and ready.state == "JOB_FINISHED", ready.explain()
            begin = time.monotonic()
            task = exctr.submit(app_name="Sleeper", app_args={{"seconds": 4}}, tags={{"group": {group!r}}},
                                wait_on_start=True)
            seen = time.monotonic()
            try:
                task.wait(timeout=1)
            except TimeoutExpired:
                waited = time.monotonic() - seen
            running_for = time.monotonic() - seen
            task.poll()
            so_far, state = task.runtime, task.state
            task.wait(timeout=60)
            total = time.monotonic() - begin
            job = task.process
            print(json.dumps([time.time(), datetime.datetime.now(datetime.timezone.utc).timestamp(), waited, state,
                              running_for, so_far, task.state, task.runtime, task.total_time, total,
                              job.created_at.timestamp(), task.read_stdout()]))
            batch.cancel()
            """,
        ),
        name=f"{group}.py",
        environment={
            "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
            "CLOCK_OFF_SEC": str(days * 86400),
        },
    )
    said = json.loads(finished(running, 120))
    now = time.time()
    clock, clock_too, waited, state, running_for, so_far, end_state, runtime, total_time, total, created, out = said
    assert abs(clock - now - days * 86400) < 60 and abs(clock_too - clock) < 1, "the clock was not wrong"
    assert 1 <= waited < 2
    assert (state, end_state, out) == ("RUNNING", "FINISHED", "slept\n")
    assert abs(so_far - running_for) < 1
    assert 3.9 < runtime < 5  # the start is noted when it was seen, a moment after it
    assert abs(total_time - total) < 1 and total_time >= runtime
    assert abs(created - now) < 60, "times of records are the service's"


def test_jobs_at_the_end_of_an_allocation_restart_in_the_next(minute: list[Any]) -> None:
    """L3: told in time, reported in time, kept what was there; too long a Job is not begun."""
    said = [json.loads(line) for line in finished(minute[0], 180).splitlines()]
    (state, summary, reasons), (left_state, left_attempt, left_summary, left_reasons) = said[:2]
    assert state == "PREPROCESSED"
    assert any("1 minute" in text and "2" in text for text in [summary, *reasons]), (summary, reasons)
    assert (left_state, left_attempt) == ("PREPROCESSED", 0)
    assert any("minute" in text for text in left_reasons), (left_summary, left_reasons)

    told, checkpoint, lasted, wall_time = said[2]
    for actor, at, message in told:
        assert actor == "launcher"
        assert at < 60, "the allocation was over when the service heard of it"
        assert "wall time is near" in message
    # Told at 54 s of 60; the one that does not listen is killed 2 s later.
    assert 45 < checkpoint < 58
    assert checkpoint <= told[0][1] < told[1][1]
    assert lasted < 62 and wall_time < 62
    assert said[3] == [0, False], "a Job of two minutes was begun in one"

    with_checkpoint, stubborn, toolong = said[4]
    for states, attempt, output, in_next in (with_checkpoint, stubborn):
        assert states == [*TWICE, "JOB_FINISHED"]
        assert (attempt, in_next) == (2, True)
        assert output["job.out.1"] == "attempt 1\n"
        assert set(output) == {"job.out", "job.out.1"}
    assert with_checkpoint[2]["job.out"].startswith("attempt 2\nresumed from 1")
    assert stubborn[2]["job.out"] == "attempt 2\nresumed from nothing\n"
    assert toolong[1:] == [1, {"job.out": "attempt 1\nresumed from nothing\n"}, True]
