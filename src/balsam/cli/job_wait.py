"""`balsam job wait`: for scripts of the shell, which go on when Jobs are done."""

from collections import Counter
from typing import TYPE_CHECKING

import click

from balsam.cli.job_change import every_option
from balsam.cli.outcome import PARTLY_DONE
from balsam.cli.output import counted, json_option, print_json
from balsam.cli.selectors import JobChoice, job_selectors
from balsam.domain.states import JobState

if TYPE_CHECKING:
    from balsam.api import Job

_SHOWN = 10


@click.command()
@job_selectors()
@every_option
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SEC", help="Give up after so many seconds.")
@json_option
def wait(choice: JobChoice, every: bool, timeout: float | None, as_json: bool) -> None:
    """Wait until Jobs are done, and what they send to this machine is here.

    Those that are there now are waited for. Exits with 0 when all of them ended well, 3 when some did not, 1 when time
    was over.
    """
    from balsam.api import Job

    if choice.is_open and not every:
        raise click.UsageError("say which Jobs: by ids, --tag, --state, --app ..., or --all")
    scope = choice.scope()
    scope.mention_left_out()
    jobs = list(choice.query(scope))
    if not jobs:
        raise click.ClickException("no Jobs match")
    not_done = Job.objects.wait(jobs, timeout, progress=False).not_done
    states = Counter(job.state for job in jobs)
    bad = [job for job in jobs if job.state in (JobState.FAILED, JobState.CANCELLED)]
    if as_json:
        print_json({"states": states, "not_done": [job.id for job in not_done], "bad": [job.id for job in bad]})
    else:
        click.echo(f"{counted(len(jobs), 'Job')}: {', '.join(f'{count} {state}' for state, count in states.items())}")
        _name([*not_done, *bad])
    if not_done or bad:
        raise click.exceptions.Exit(1 if not_done else PARTLY_DONE)


def _name(jobs: "list[Job]") -> None:
    for job in jobs[:_SHOWN]:
        click.echo(f"  Job {job.id} is {job.state}; why: balsam job explain {job.id}", err=True)
    if len(jobs) > _SHOWN:
        click.echo(f"  and {len(jobs) - _SHOWN} more.", err=True)
