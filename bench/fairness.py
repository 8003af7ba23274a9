"""What one user's heavy lists cost another user's reads (S16, T7): 50 at once, each of which looks at every Job.

The service holds Jobs of both. The other user's reads are timed alone, then while the first user's lists run, and alone
again: this kind of machine changes its speed from minute to minute. How many lists a second the first user gets when
there is nobody else is told as well. `python -m bench postgres --of fairness` measures it on PostgreSQL.
"""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench import CHECKOUT, machine
from bench.heavy_lists import TOKEN
from bench.launcher import read_ms
from bench.result import Goal
from bench.sizes import sized, sized_sec
from tests.server.world import Person, furnish, make_jobs, make_user
from tests.services import RunningService, running_service

ROWS = 200_000
BULK = 10_000
AT_ONCE = 50
FEW, FEW_SEC = 8, 10.0  # lists at once of a user who is alone, and for how long
READS = 600  # p99 is the sixth slowest


def measure(root: Path, env: Mapping[str, str] | None = None) -> list[Goal]:
    """The other user's p99 under the heavy lists, and over what it is without them."""
    bulk, few_sec = sized(BULK), sized_sec(FEW_SEC)
    rows, at_once = bulk * (ROWS // BULK), sized(AT_ONCE, 4)
    with running_service(root / "fairness", env=env) as service:
        greedy, other = (furnish(service, make_user(service, name)) for name in ("greedy", "other"))
        with service.client(greedy.token) as client:
            for _ in range(rows // bulk):
                make_jobs(client, greedy.app_id, bulk)
        with _heavy_lists(service, greedy, FEW) as answered_alone:
            time.sleep(few_sec)
        before = _p99_ms(service, other)
        with _heavy_lists(service, greedy, at_once) as answered:
            beside = _p99_ms(service, other)
        after = _p99_ms(service, other)
    note = f"beside {at_once} lists over {rows:,} Jobs, {len(answered)} of them answered"
    alone = (
        f"{before:.1f} and {after:.1f} ms alone; the lists alone, {FEW} at once: {len(answered_alone) / few_sec:.1f}/s"
    )
    return [
        Goal("fairness", "p99 of another user's reads", beside / max(before, after), "x alone", 2, 1.5, True, alone),
        Goal("fairness", "p99 of another user's reads", beside, "ms", 100, 50, True, note),
    ]


def _p99_ms(service: RunningService, person: Person) -> float:
    times = []
    paths = itertools.cycle((f"/api/jobs/{person.job_id}", "/api/jobs?limit=100", "/api/sites", "/api/jobs/counts"))
    with service.client(person.token) as client:
        for path in itertools.islice(paths, sized(READS)):
            times.append(read_ms(client, path))
            time.sleep(0.002)
    return machine.percentile(times, 0.99)


@contextmanager
def _heavy_lists(service: RunningService, person: Person, at_once: int) -> Iterator[list[int]]:
    """So many lists at once, each asked for again when it is answered, for the length of a block. Their statuses.

    By a process of their own: they are another user's, on another machine. The block begins when the first is answered.
    """
    command = (sys.executable, "-m", "bench.heavy_lists", service.url, str(at_once))
    environment = {**os.environ, TOKEN: person.token}
    asking = subprocess.Popen(
        command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    statuses: list[int] = []
    with asking:
        assert asking.stdin is not None and asking.stdout is not None
        asking.stdout.readline()
        yield statuses
        statuses += json.loads(asking.communicate("")[0])
    if set(statuses) - {200, 422}:  # 422: given up after --read-limit-sec
        raise RuntimeError(f"the lists were answered with {sorted(set(statuses))}")
