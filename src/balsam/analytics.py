"""Curves out of the EventLog, for plotting: how many Jobs were finished, how many nodes were busy, how many were there.

Each function returns (times, values) of a step curve: `values[i]` holds from `times[i]` on. Rows are streamed page by
page; nothing here needs a plotting library.
"""

from collections.abc import Iterator
from datetime import datetime
from heapq import merge
from operator import itemgetter
from typing import TYPE_CHECKING

from balsam.domain.states import JobState

if TYPE_CHECKING:
    from balsam.client.models.batch_job import BatchJob
    from balsam.client.models.event import EventLog
    from balsam.client.query import Query

__all__ = ["available_nodes", "throughput_report", "utilization_report"]

Curve = tuple[list[datetime], list[float]]


def throughput_report(
    event_query: "Query[EventLog]", to_state: JobState | str = JobState.JOB_FINISHED
) -> tuple[list[datetime], list[int]]:
    """How many Jobs came into a state, over time. `event_query` says of which Jobs, and from when to when.

    >>> times, done = throughput_report(EventLog.objects.filter(job_id=job.id))
    >>> done
    [1]
    """
    events = event_query.filter(to_state=to_state).order_by("timestamp")
    times = [event.timestamp for event in events if event.from_state is not event.to_state]  # the others are notes
    return times, list(range(1, len(times) + 1))


_FIRST = 0  # of what happened at one moment


def utilization_report(event_query: "Query[EventLog]", node_weighting: bool = True) -> Curve:
    """How many nodes were busy with Jobs, over time; without `node_weighting`, how many Jobs ran.

    A Job that shares its node counts as a fraction of one. Jobs that ran when the time span of the query began count
    from its first event on, one node each. The times are the Site's.

    >>> times, busy = utilization_report(EventLog.objects.filter(job_id=job.id))
    >>> busy
    [1.0, 0.0]
    """
    running = JobState.RUNNING
    starts = event_query.filter(to_state=running).order_by("timestamp")
    ends = event_query.filter(from_state=running).order_by("timestamp")
    changes: list[tuple[datetime, int, float]] = []
    nodes: dict[int, tuple[datetime, int, float]] = {}
    earlier = 0.0
    # In the order in which the service recorded them, which is right for each Job. Across Jobs it is not: one report
    # may bring the end of one run and the start of the next on the same node. The Site's times tell those apart.
    for event in merge(ends, starts, key=lambda event: (event.timestamp, event.id)):
        if event.from_state is event.to_state:
            continue  # a note, which both queries find
        moment = event.reported_at or event.timestamp
        if event.to_state is running:
            used = float(event.data.get("num_nodes", 1.0)) if node_weighting else 1.0
            nodes[event.job_id] = start = (moment, len(changes) + 1, used)
            changes.append(start)
        elif event.job_id in nodes:
            begin, place, used = nodes.pop(event.job_id)
            # A node is free before the next run takes it; a run of no length ends right after its start.
            changes.append((moment, _FIRST, -used) if moment > begin else (begin, place, -used))
        else:
            earlier += 1.0
            changes.append((moment, _FIRST, -1.0))
    changes.sort(key=itemgetter(0, 1))
    return _steps([(moment, change) for moment, _, change in changes], earlier)


def available_nodes(batch_job_query: "Query[BatchJob]") -> Curve:
    """How many nodes the allocations had, over time. One that runs still has no end yet; others are left out.

    >>> times, nodes = available_nodes(BatchJob.objects.filter(site_id=site.id))
    >>> nodes[0]
    1.0
    """
    return _steps(sorted(_allocated(batch_job_query)), 0.0)


def _allocated(batch_jobs: "Query[BatchJob]") -> Iterator[tuple[datetime, float]]:
    for batch_job in batch_jobs:
        if batch_job.start_time is not None:
            yield batch_job.start_time, float(batch_job.num_nodes)
            if batch_job.end_time is not None:
                yield batch_job.end_time, -float(batch_job.num_nodes)


def _steps(changes: list[tuple[datetime, float]], level: float) -> Curve:
    times: list[datetime] = []
    levels: list[float] = []
    for moment, change in changes:
        level = round(level + change, 9)  # thirds of nodes do not add up to whole ones
        times.append(moment)
        levels.append(level)
    return times, levels
