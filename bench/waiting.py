"""Waiting for many Jobs at a time: what `as_completed` sends while 1,000 Jobs run and end.

The Jobs run in name only, so that a thousand of them run at a time and none of their processes is measured.
"""

import threading
import time
from collections import Counter
from typing import Any

from bench import apps
from bench.nominal import NominalLauncher
from bench.result import Goal
from bench.sizes import sized

JOBS = 1_000
AT_ONCE = 50


def measure() -> list[Goal]:
    """`as_completed` over 1,000 running Jobs that end in 20 reports, on a Site of its own."""
    from balsam.api import Client, Job, Site, default_client
    from balsam.client.settings import ClientSettings

    count = sized(JOBS)
    site = Site.objects.create(name="waiting", path="/waiting")
    app = apps.no_op(site.name)
    made = Job.objects.bulk_create([app.submit(workdir=f"wait/{n}", save=False) for n in range(count)])
    with Client(ClientSettings(default_client().url, site.agent_token or "")) as agent:
        launcher = NominalLauncher(agent.transport, site.id)
        held = launcher.acquire(count)
        launcher.tell(held, "started")
        client, sent = _counted_client()
        jobs = list(client.Job.objects.filter(id=[job.id for job in made]))
        sent.clear()
        reporter = threading.Thread(target=_end_all, args=(launcher, held))
        reporter.start()
        ends = [job.state for job in client.Job.objects.as_completed(jobs, timeout=120)]
        seen = time.monotonic()
        reporter.join()
        late_ms = (seen - launcher.last_answer) * 1000  # less than nothing where the event was first
        client.close()
    if ends != ["JOB_FINISHED"] * count:
        raise RuntimeError(f"{len(ends)} of {count} Jobs ended: {Counter(ends)}")
    what = f"as_completed over {count:,} running Jobs"
    note = f"the last was seen {late_ms:.0f} ms after the answer to its report"
    return [
        Goal("wait", what, sent.total(), "requests", 20, 10, True, note),
        Goal("wait", what, sent["/jobs/stream"], "streams", 1, 1, True),
    ]


def _end_all(launcher: NominalLauncher, job_ids: list[int]) -> None:
    """Report the end of every Job, 50 at a time."""
    time.sleep(1)  # the waiting has begun
    for start in range(0, len(job_ids), AT_ONCE):
        launcher.tell(job_ids[start : start + AT_ONCE], "run_done")


def _counted_client() -> tuple[Any, Counter[str]]:
    """A client of its own, and its requests by path."""
    from balsam.api import Client, default_client
    from balsam.client.transport import PooledLink, Transport
    from balsam.domain.clock import SystemClock

    sent: Counter[str] = Counter()

    class Counting(PooledLink):
        def send(self, request: Any) -> Any:
            sent[_path(request)] += 1
            return super().send(request)

        def open(self, request: Any) -> Any:
            sent[_path(request)] += 1
            return super().open(request)

    return Client(transport=Transport(default_client().settings, link=Counting(SystemClock()))), sent


def _path(request: Any) -> str:
    return str(request.url).split("/api", 1)[1].split("?")[0]
