"""JobExecutor as a script uses it: results, exceptions, map, cancel of what runs, futures of another process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.live_site import LiveSite, live_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

HEAD = """
import os, sys, time
from concurrent.futures import CancelledError, as_completed, wait
from pathlib import Path
from balsam.api import *
SITE = "{name}"
ALLOCATION = dict(num_nodes=1, wall_time_min=10, queue="local", project="local")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("executor") / "home") as running:
        yield running


def run(site: LiveSite, code: str, *arguments: str) -> str:
    return site.run(HEAD.format(name=site.name) + code, arguments=arguments)


def test_calls_give_what_they_return_and_raise(site: LiveSite) -> None:
    said = run(
        site,
        """
OFFSET = 5

class Point:
    def __init__(self, x): self.x = x

def shifted(point, by=OFFSET):
    if by == 0:
        raise ZeroDivisionError("by nothing")
    return Point(point.x + by)

with JobExecutor(SITE, allocation=ALLOCATION, node_packing_count=4, tags={"kind": "test"}) as executor:
    futures = [executor.submit(shifted, Point(n)) for n in range(4)]
    print(sorted(future.result().x for future in as_completed(futures, timeout=60)))
    print(isinstance(futures[0].result(), Point), futures[0].job.tags["kind"], futures[0].done())
    print(len({future.job.app_id for future in futures}), futures[0].job.app.__name__.rpartition("_")[0])
    bad = executor.submit(shifted, Point(1), by=0)
    try:
        bad.result(timeout=60)
    except ZeroDivisionError as error:
        print(error, "in shifted" in str(error.__cause__))
    print(list(executor.map(divmod, [7, 9], [2, 4], timeout=60)), list(executor.map(len, [])))
    wide = executor.using(threads_per_rank=2).submit(lambda: os.environ["OMP_NUM_THREADS"])
    print(wide.result(timeout=60), wide.job.tags["kind"])
try:
    executor.submit(len, "x")
except RuntimeError as error:
    print(error)
deadline = time.monotonic() + 60
while executor.allocation.state != "finished" and time.monotonic() < deadline:
    executor.allocation.refresh_from_db()
    time.sleep(0.1)
print(executor.allocation.state.value, executor.allocation.filter_tags == {"executor": executor.name})
""",
    )
    assert said.splitlines() == [
        "[5, 6, 7, 8]",
        "True test True",
        "1 shifted",
        "by nothing True",
        "[(3, 1), (2, 1)] []",
        "2 test",
        "cannot schedule new futures after shutdown",
        "finished True",
    ]


def test_cancel_stops_what_runs_and_what_waits(site: LiveSite) -> None:
    said = run(
        site,
        """
def sleeper(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)

def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

pid_file = Path("pid").absolute()
with JobExecutor(SITE, allocation=ALLOCATION) as executor:
    runs = executor.submit(sleeper, str(pid_file))
    waits = executor.submit(sleeper, "never")
    while not (pid_file.exists() and pid_file.read_text()):
        time.sleep(0.05)
    print(runs.running(), waits.running(), waits.cancel(), waits.cancelled())
    print(runs.cancel(), runs.cancelled(), runs.cancel())
    try:
        runs.result()
    except CancelledError:
        print("CancelledError", len(wait([runs, waits], timeout=10).done))
    print(executor.submit(max, 3, 4).result(timeout=60))
    more = [executor.submit(sleeper, "never") for _ in range(3)]
    begin = time.monotonic()
    executor.shutdown(cancel_futures=True)
    print([future.cancelled() for future in more], time.monotonic() - begin < 60)
# The with block was left: nothing of it is there any more.
print(is_there(int(pid_file.read_text())), {future.job.state.value for future in [runs, waits, *more]})
""",
    )
    assert said.splitlines() == [
        "True False True True",
        "True True True",
        "CancelledError 2",
        "4",
        "[True, True, True] True",
        "False {'CANCELLED'}",
    ]


def test_another_process_finds_the_futures_of_one_that_ended(site: LiveSite) -> None:
    first = """
def work(n, seconds):
    time.sleep(seconds)
    if n == 2:
        raise LookupError(n)
    return {"n": n, "pid": os.getpid()}

executor = JobExecutor(SITE, name="campaign", allocation=ALLOCATION)
done = executor.submit(work, 1, 0)
done.result(timeout=60)
for n in (2, 3):
    executor.submit(work, n, 1)
executor.shutdown(wait=False)
os.kill(os.getpid(), 9)
"""
    process = site.begin(HEAD.format(name=site.name) + first)
    process.communicate(timeout=90)
    assert process.returncode == -9
    said = run(
        site,
        """
executor = JobExecutor(SITE, name="campaign")
futures = executor.futures()
wait(futures, timeout=60)
print([future.result()["n"] if future.exception() is None else repr(future.exception()) for future in futures])
print(executor.submit(max, 3, 4).result(timeout=60), len(executor.futures()))
executor.shutdown()
try:
    executor.futures()
except RuntimeError as error:
    print("shut down" in str(error))
BatchJob.objects.filter(filter_tags={"executor": "campaign"}).first().cancel()
""",
    )
    assert said.splitlines() == ["[1, 'LookupError(2)', 3]", "4 4", "True"]


def test_a_job_that_another_one_cancels_deletes_or_repeats(site: LiveSite) -> None:
    said = run(
        site,
        """
def sleeper():
    time.sleep(600)

with JobExecutor(SITE, num_nodes=1000) as executor:  # no allocation can run them
    cancelled, deleted = executor.submit(sleeper), executor.submit(sleeper)
    Job.objects.filter(id=cancelled.job.id).get().cancel()
    Job.objects.filter(id=deleted.job.id).delete()
    wait([cancelled], timeout=60)
    print(cancelled.cancelled())
    try:
        deleted.result(timeout=60)
    except Job.DoesNotExist:
        print("DoesNotExist")
""",
    )
    assert said.split() == ["True", "DoesNotExist"]


def test_bad_input_is_refused_at_submit(site: LiveSite) -> None:
    said = run(
        site,
        """
import threading

def refused(call):
    try:
        call()
    except (ValidationFailed, TypeError, ValueError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())

with JobExecutor(SITE) as executor:
    print(refused(lambda: executor.submit(max, 1, threading.Lock())))
    print(refused(lambda: executor.submit(max, 1, key=threading.Lock())))
    lock = threading.Lock()
    def holds():
        return lock
    print(refused(lambda: executor.submit(holds)))
    print(refused(lambda: executor.submit(len, "x" * 600_000))[:200])
    print(refused(lambda: executor.using(num_node=2)))
    print(executor.futures())
print(refused(lambda: JobExecutor("nowhere")))
print(refused(lambda: JobExecutor(SITE, name="a/b")))
print(refused(lambda: JobExecutor(SITE, parameters={})))
""",
    ).splitlines()
    assert "max(): argument 1 can't be sent to the Site: TypeError: cannot pickle" in said[0], said[0]
    assert "max(): key can't be sent" in said[1], said[1]
    assert "function holds can't be sent to the Site" in said[2], said[2]
    assert "512000" in said[3] or "512,000" in said[3], said[3]
    assert said[4].startswith("TypeError: ") and "num_nodes" in said[4], said[4]
    assert said[5] == "[]"
    assert "there is no Site 'nowhere'" in said[6]
    assert said[7].startswith("ValueError: name is 'a/b'")
    assert said[8].startswith("TypeError: the arguments of the function are the parameters")


def test_the_example_runs(site: LiveSite) -> None:
    example = Path(__file__).parents[2] / "examples" / "functions.py"
    said = site.run(example.read_text(), name="functions.py", arguments=[site.name]).splitlines()
    assert len(said) == 16
    assert said[-1].startswith("16 of 16: pi is about 3.14"), said[-1]
