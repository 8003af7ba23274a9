"""`balsam job`: the table of verbs on Jobs. Each takes the selectors of `selectors.job_selectors`."""

import click

from balsam.cli.group import Group

_COMMANDS = {
    "ls": ("balsam.cli.job_list:list_jobs", "List Jobs, newest first, or count them by state."),
    "create": ("balsam.cli.job_create:create", "Create a Job of an App, or a series."),
    "wait": ("balsam.cli.job_wait:wait", "Wait until Jobs are done."),
    "modify": ("balsam.cli.job_change:modify", "Change tags, resources, parameters, data or priority of Jobs."),
    "cancel": ("balsam.cli.job_change:cancel", "Cancel Jobs, also running ones."),
    "retry": ("balsam.cli.job_change:retry", "Run FAILED and CANCELLED Jobs again."),
    "rm": ("balsam.cli.job_change:remove", "Delete Jobs and their history."),
    "logs": ("balsam.cli.job_read:logs", "Print the output of Jobs, also while they run."),
    "ls-files": ("balsam.cli.job_files:list_files", "List the files in a Job's workdir, also while it runs."),
    "get": ("balsam.cli.job_files:get", "Copy a file out of a Job's workdir, also while it runs."),
    "fetch": ("balsam.cli.job_fetch:fetch", "Bring home what Jobs sent to client: and nobody collected yet."),
    "events": ("balsam.cli.job_read:events", "List the transitions of Jobs."),
    "explain": ("balsam.cli.job_read:explain", "Say why Jobs are where they are, and what to do."),
}


@click.group(cls=Group, lazy=_COMMANDS)
def job() -> None:
    """Create, list, watch, explain, change and end Jobs."""
