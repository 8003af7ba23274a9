"""What the Site allows, checked again at the Site whatever the service let pass (S15)."""

import difflib
from collections.abc import Collection, Mapping

from balsam.domain.partitions import filter_tag_problems, partition_tag_problems
from balsam.platform.scheduler.base import QueueLimits
from balsam.site.settings import Settings
from balsam.wire.batch_jobs import BatchJobView

# Nothing that a shell or a scheduler's directive line could take for more than a part of one word (S15).
_HARMLESS = frozenset("_@%+=:,./-")


def refusal(job: BatchJobView, settings: Settings, active_in_queue: int) -> str | None:
    """Why the Site does not ask its scheduler for this BatchJob; None when it may.

    `active_in_queue`: how many other BatchJobs of the Site wait or run in the same queue.
    """
    scheduler = settings.scheduler
    queue = scheduler.allowed_queues.get(job.queue)
    if queue is None:
        return f"queue {job.queue!r} is not allowed at this Site{_known(job.queue, scheduler.allowed_queues)}"
    if job.project not in scheduler.allowed_projects:
        return f"project {job.project!r} is not allowed at this Site{_known(job.project, scheduler.allowed_projects)}"
    if job.num_nodes > queue.max_nodes:
        return f"{job.num_nodes} nodes are more than the {queue.max_nodes} that queue {job.queue!r} allows"
    if job.wall_time_min > queue.max_walltime:
        return f"{job.wall_time_min} minutes are more than the {queue.max_walltime} that queue {job.queue!r} allows"
    if queue.max_queued_jobs and active_in_queue >= queue.max_queued_jobs:
        return (
            f"queue {job.queue!r} allows {queue.max_queued_jobs} BatchJobs at a time, {active_in_queue} wait or run; "
            "submit again when one has ended"
        )
    return (
        _parameter_refusal(job, settings) or _partition_refusal(job, settings) or _tag_refusal(job) or _unsafe_word(job)
    )


def queue_refusal(job: BatchJobView, queues: Mapping[str, QueueLimits]) -> str | None:
    """Why the scheduler would let it wait for ever: some take what is over the limit of a queue, and never start it."""
    limits = queues.get(job.queue)
    if limits is None:
        return None  # a queue that is not shown to everybody: the scheduler itself says whether it takes it
    for asked, most, what in (
        (job.num_nodes, limits.max_nodes, "nodes"),
        (job.wall_time_min, limits.max_wall_time_min, "minutes"),
    ):
        if most is not None and asked > most:
            return f"{asked} {what} are more than the {most} that the scheduler's queue {job.queue!r} allows"
    return None


def _parameter_refusal(job: BatchJobView, settings: Settings) -> str | None:
    known = settings.scheduler.optional_batch_job_params
    for name in job.optional_params:
        if name not in known:
            return f"optional parameter {name!r} is not known at this Site{_known(name, known)}"
    for key, value in settings.filter_tags.items():
        if job.filter_tags.get(key) != value:
            return f"this Site takes BatchJobs with the tag {key}={value} only (filter_tags in its settings.yml)"
    return None


def _partition_refusal(job: BatchJobView, settings: Settings) -> str | None:
    if job.partitions is None:
        return None
    for part in job.partitions:
        for key, value in settings.filter_tags.items():
            if part.filter_tags.get(key, value) != value:
                return (
                    f"a partition asks for Jobs with the tag {key}={part.filter_tags[key]}, and this Site takes those "
                    f"with {key}={value} only (filter_tags in its settings.yml)"
                )
    total = sum(part.num_nodes for part in job.partitions)
    return (
        None if total == job.num_nodes else f"the partitions have {total} nodes together, the BatchJob {job.num_nodes}"
    )


def _tag_refusal(job: BatchJobView) -> str | None:
    problems = list(filter_tag_problems(job.filter_tags))
    for part in job.partitions or ():
        problems += partition_tag_problems(part.filter_tags)
    return problems[0] if problems else None


def _unsafe_word(job: BatchJobView) -> str | None:
    words = [*job.optional_params.values()]
    for tags in (job.filter_tags, *(part.filter_tags for part in job.partitions or ())):
        words += [*tags.keys(), *tags.values()]
    for word in words:
        bad = next((char for char in word if not char.isalnum() and char not in _HARMLESS), None)
        if bad is not None:
            return (
                f"{word!r} has {bad!r}, which a batch script can't carry safely; "
                f"use letters, digits and {''.join(sorted(_HARMLESS))}"
            )
    return None


def _known(name: str, allowed: Collection[str]) -> str:
    near = difflib.get_close_matches(name, allowed, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; allowed: {', '.join(sorted(allowed))}" if allowed else "; none is allowed"
