"""Which Jobs can be granted, by looking at each. Used by memory_tx; the SQL stores are compared with it."""

from collections import defaultdict
from collections.abc import Iterable
from functools import partial

from balsam.domain.job import gpus_needed
from balsam.domain.job_order import precedence
from balsam.domain.lifecycle import AWAITED_HOOKS
from balsam.domain.states import RUNNABLE_STATES
from balsam.server.store.records import JobRow
from balsam.server.store.selections import AcquireCriteria
from balsam.server.store.turns import Candidate, in_turns


def walk(jobs: Iterable[JobRow], criteria: AcquireCriteria, lot: int) -> list[Candidate]:
    """All Jobs that an acquire with these criteria could be granted, in its order."""
    of_people: defaultdict[int, list[Candidate]] = defaultdict(list)
    found = [job for job in jobs if _fits(job, criteria)]
    for job in sorted(found, key=partial(precedence, criteria.order)):
        of_people[job.submitter_id].append(
            Candidate(-job.priority, job.id, job.num_nodes, job.node_packing_count, job.wall_time_min)
        )
    best = {person: jobs_of[0].level for person, jobs_of in of_people.items()}
    return list(in_turns(best, lot, lambda person: iter(of_people[person])))


def _fits(job: JobRow, criteria: AcquireCriteria) -> bool:
    return (
        job.site_id == criteria.site_id
        and job.session_id is None
        and job.state in (AWAITED_HOOKS if criteria.awaits_hook else RUNNABLE_STATES)
        and (criteria.max_wall_time_min is None or job.wall_time_min <= criteria.max_wall_time_min)
        and (criteria.max_nodes_per_job is None or job.num_nodes <= criteria.max_nodes_per_job)
        and (
            criteria.max_gpus_per_node is None
            or gpus_needed(job.ranks_per_node, job.gpus_per_rank) <= criteria.max_gpus_per_node
        )
        and (not criteria.serial_only or (job.num_nodes == 1 and job.ranks_per_node == 1))
        and all(job.tags.get(key) == value for key, value in criteria.filter_tags)
        and (
            criteria.max_aggregate_nodes is None
            or job.num_nodes <= job.node_packing_count * criteria.max_aggregate_nodes
        )
    )
