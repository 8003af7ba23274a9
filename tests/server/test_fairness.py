"""S16: what one person costs another on a service with PostgreSQL, over HTTP: acquiring Jobs, and hearing of them.

Ann submits thousands of Jobs at once from many connections, again and again, and has many open streams of all her Jobs;
Bob has one launcher and one stream. By turns he waits for the transaction of hers that is at work, else for all that
stand in line before him.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.server.sse import Listener
from tests.server.world import Person, furnish, make_jobs, make_user, ok
from tests.services import RunningService, running_service
from tests.testbed.load import sessions
from tests.testbed.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROUNDS = 15
SUBMITTERS, STREAMS, AT_ONCE = 16, 40, 1000
# The load has a process of its own: in this one it would be the interpreter that Bob waits for.
LOAD = """
import json, sys, threading, time
import httpx2
url, token, app_id, submitters, at_once = json.loads(sys.argv[1])
body = json.dumps({"jobs": [{"app_id": app_id, "workdir": f"load/{n}"} for n in range(at_once)]})
headers = {"Balsam-Wire": "1", "Authorization": f"Bearer {token}"}
stopping, took, faults = threading.Event(), [], []

def submit():
    with httpx2.Client(base_url=url, headers=headers, timeout=120, trust_env=False) as client:
        while not stopping.is_set():
            begun = time.perf_counter()
            reply = client.post("/api/jobs", content=body)
            took.append(time.perf_counter() - begun)
            if reply.status_code != 201:
                faults.append(reply.text)
                return

threads = [threading.Thread(target=submit) for _ in range(submitters)]
for thread in threads:
    thread.start()
time.sleep(1)
print("begun", flush=True)
sys.stdin.read()
stopping.set()
for thread in threads:
    thread.join()
print(json.dumps([len(took), faults]), flush=True)
"""


@pytest.fixture(scope="module")
def service(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with postgres.migrated() as address:
        env = {"BALSAM_DATABASE": address.text}
        with running_service(tmp_path_factory.mktemp("fair") / "home", env=env) as running:
            yield running


def waits(service: RunningService, bob: Person) -> tuple[list[float], list[float]]:
    """How long Bob's launcher waits for each Job, and his stream for the news of it, in seconds."""
    [session] = sessions(service, bob, 1)
    acquired, heard = [], []
    with (
        service.client(bob.token) as client,
        service.client(session["token"]) as launcher,
        Listener(service, "/api/jobs/stream", bob.token) as stream,
    ):
        for turn in range(1, ROUNDS + 1):
            make_jobs(client, bob.app_id)
            begun = time.perf_counter()
            seen = len(stream.events)
            body = {"acquire_seq": turn, "max_jobs": 1}
            (job,) = ok(launcher.post(f"/api/sessions/{session['id']}/acquire", json=body))["jobs"]
            acquired.append(time.perf_counter() - begun)
            about = {"job_id": job["id"], "token": job["token"], "at": "2026-01-01T00:00:00Z"}
            started = {**about, "seq": 2 * turn - 1, "event": "started"}
            done = {**about, "seq": 2 * turn, "event": "run_done", "return_code": 0}
            report = {"records": [started, done]}
            begun = time.perf_counter()
            ok(launcher.post(f"/api/sessions/{session['id']}/report", json=report))
            stream.wait("states", seen)
            heard.append(time.perf_counter() - begun)
            time.sleep(0.01)
    return acquired, heard


@contextmanager
def load_of(service: RunningService, ann: Person) -> Iterator[list[int]]:
    """Ann at work; how many submissions were answered is there afterwards."""
    given = json.dumps([service.url, ann.token, ann.app_id, SUBMITTERS, AT_ONCE])
    answered: list[int] = []
    with ExitStack() as streams:
        for _ in range(STREAMS):
            streams.enter_context(Listener(service, "/api/jobs/stream", ann.token))
        process = subprocess.Popen(
            [sys.executable, "-c", LOAD, given], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None and process.stdout.readline() == "begun\n"
            yield answered
            number, faults = json.loads(process.communicate("", 100)[0])
            assert faults == []
            answered.append(number)
        finally:
            process.kill()
            process.wait()


def test_one_account_at_full_speed_leaves_the_others_their_turn(
    service: RunningService, figure: Callable[[str], None]
) -> None:
    ann, bob = (furnish(service, make_user(service, name)) for name in ("ann", "bob"))
    alone = waits(service, bob)
    begun = time.monotonic()
    with load_of(service, ann) as answered:
        beside = waits(service, bob)
    each_sec = (time.monotonic() - begun) / answered[0]
    said = []
    for what, before, after in zip(("an acquire", "news on a stream"), alone, beside, strict=True):
        mine, theirs = statistics.median(before), statistics.median(after)
        said.append(f"{what} {mine * 1000:.0f} and {theirs * 1000:.0f} ms (worst {max(after) * 1000:.0f})")
        assert theirs < each_sec * SUBMITTERS / 3 + 0.05, f"{said}: he waits for all who came before"
    figure(
        f"alone and beside {SUBMITTERS} submitters of {AT_ONCE} Jobs ({each_sec * 1000:.0f} ms each) "
        f"and {STREAMS} streams: {', '.join(said)}"
    )
