"""`balsam queue`: the table of verbs on allocations (BatchJobs)."""

import click

from balsam.cli.group import Group

_COMMANDS = {
    "submit": ("balsam.cli.queue_submit:submit", "Request an allocation on a Site."),
    "ls": ("balsam.cli.queue_list:list_batch_jobs", "List allocations, newest first, with the scheduler's reason."),
    "rm": ("balsam.cli.queue_end:remove", "End allocations by their ids; their Jobs run again in the next one."),
    "drain": ("balsam.cli.queue_end:drain", "Let allocations take no more Jobs, and end after those that they have."),
    "term": ("balsam.cli.queue_end:term", "End allocations by the scheduler's own ids."),
}


@click.group(cls=Group, lazy=_COMMANDS)
def queue() -> None:
    """Request, list and end allocations (BatchJobs)."""
