"""Workflows: what the service takes for each transition while a graph of 10,000 Jobs runs through it.

Half of them are a chain, at whose end the other half fans out and comes together in one Job. Only requests of the
launcher are timed, with all that HTTP and its client cost, so that the service takes less than what is told.
"""

from collections.abc import Sequence
from typing import Any

from bench import apps
from bench.nominal import NominalLauncher
from bench.result import Goal
from bench.sizes import sized

NODES, FEW = 10_000, 100
TIMES = 10  # the small graph, so that it is measured for as long as some requests take
AT_ONCE = 25  # Jobs of a fan that run at the same time


def measure() -> list[Goal]:
    """The whole graph, and the same one with a hundredth of its nodes: what a step costs must not know which it is."""
    from balsam.api import Client, Site, default_client
    from balsam.client.settings import ClientSettings

    nodes, few, times = sized(NODES), sized(FEW, 10), sized(TIMES)
    site = Site.objects.create(name="workflows", path="/workflows")
    app = apps.no_op(site.name)
    with Client(ClientSettings(default_client().url, site.agent_token or "")) as agent:
        small_ms = sum(_step_ms(app, few, agent.transport, site.id) for _ in range(times)) / times
        large_ms = _step_ms(app, nodes, agent.transport, site.id)
    what = f"chain and fan of {nodes:,} Jobs, each transition"
    return [
        Goal("dag", what, large_ms, "ms", 2, 1, True, f"{small_ms:.2f} ms in a graph of {few}"),
        Goal("dag", f"{what}, against {few} Jobs", large_ms / small_ms, "x", 1.5, 1.2, True),
    ]


def _step_ms(app: Any, nodes: int, transport: Any, site_id: int) -> float:
    """What each transition took from the start of the graph's root to the end of its last Job."""
    from balsam.api import EventLog, Job

    last = _submit(app, nodes)
    before, done = EventLog.objects.all().count(), 0
    launcher = NominalLauncher(transport, site_id)
    while job_ids := launcher.acquire(AT_ONCE):
        launcher.tell(job_ids, "started", "run_done")
        done += len(job_ids)
    if done != nodes or Job.objects.get(id=last).state != "JOB_FINISHED":
        raise RuntimeError(f"{done} of {nodes} Jobs of the graph ran")
    return launcher.service_sec * 1000 / (EventLog.objects.all().count() - before)


def _submit(app: Any, nodes: int) -> int:
    """Make the graph; the id of the Job at its end."""
    from balsam.api import Job

    parents: Sequence[int] = ()
    for number in range(nodes // 2):
        parents = [app.submit(workdir=f"chain/{number}", parent_ids=parents).id]
    fan = [app.submit(workdir=f"fan/{n}", parent_ids=parents, save=False) for n in range(nodes - nodes // 2 - 1)]
    Job.objects.bulk_create(fan)
    last: int = app.submit(workdir="end", parent_ids=[job.id for job in fan]).id
    return last
