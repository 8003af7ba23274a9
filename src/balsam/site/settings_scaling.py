"""Whether the sections that ask for allocations ask for what the Site's queues allow. Used by settings_file."""

import difflib
from collections.abc import Collection, Iterator

from balsam.site.settings import ElasticQueueSettings, QueueMaintainerSettings, QueueSettings, Settings

Fault = tuple[tuple[str, ...], str]


def scaling_faults(settings: Settings) -> Iterator[Fault]:
    """The key and the sentence of each setting that would only lead to refusals."""
    for name, section in (("queue_maintainer", settings.queue_maintainer), ("elastic_queue", settings.elastic_queue)):
        if section is None:
            continue
        scheduler = settings.scheduler
        if section.submit_project not in scheduler.allowed_projects:
            near = _near(section.submit_project, scheduler.allowed_projects)
            yield (name, "submit_project"), f"is not in scheduler.allowed_projects{near}"
        queue = scheduler.allowed_queues.get(section.submit_queue)
        if queue is None:
            near = _near(section.submit_queue, scheduler.allowed_queues)
            yield (name, "submit_queue"), f"is not in scheduler.allowed_queues{near}"
        elif isinstance(section, ElasticQueueSettings):
            yield from _elastic_faults(section, queue)
        else:
            yield from _maintainer_faults(section, queue)


def _maintainer_faults(section: QueueMaintainerSettings, queue: QueueSettings) -> Iterator[Fault]:
    for key, most in (("num_nodes", queue.max_nodes), ("wall_time_min", queue.max_walltime)):
        if getattr(section, key) > most:
            yield ("queue_maintainer", key), _too_much(section.submit_queue, most)


def _elastic_faults(section: ElasticQueueSettings, queue: QueueSettings) -> Iterator[Fault]:
    for what, most in (("num_nodes", queue.max_nodes), ("wall_time_min", queue.max_walltime)):
        least, largest = getattr(section, f"min_{what}"), getattr(section, f"max_{what}")
        if (largest or least) > most:
            key = f"max_{what}" if largest else f"min_{what}"
            yield ("elastic_queue", key), _too_much(section.submit_queue, most)
        elif largest and largest < least:
            yield ("elastic_queue", f"max_{what}"), f"is less than min_{what}, which is {least}"
    if section.wall_time_pad_min >= section.min_wall_time_min:
        yield (
            ("elastic_queue", "wall_time_pad_min"),
            f"must be less than min_wall_time_min, {section.min_wall_time_min}",
        )


def _too_much(queue: str, most: int) -> str:
    return f"is more than queue {queue!r} allows in scheduler.allowed_queues, {most}"


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known there: {', '.join(known) or 'none'}"
