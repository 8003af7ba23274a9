"""`balsam job cancel`, `retry`, `rm` and `modify`: verbs that change Jobs.

Each needs to be told which Jobs, asks before it changes more than those named by id, tells how many it changed and
which it could not, and exits with 3 when it left some as they were.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from balsam.cli.asking import confirm, yes_option
from balsam.cli.job_fields import changed_fields
from balsam.cli.outcome import report
from balsam.cli.output import counted, json_option
from balsam.cli.param_types import expanded
from balsam.cli.selectors import JobChoice, job_selectors
from balsam.domain.states import DONE_STATES, RUNNABLE_STATES, JobState

if TYPE_CHECKING:
    from balsam.client.models.job_objects import JobQuerySet
    from balsam.client.query import Changed

_OPEN_STATES = tuple(state for state in JobState if state not in DONE_STATES)
_AGAIN_STATES = (JobState.FAILED, JobState.CANCELLED)
# What people of Balsam 0.7 set with `job modify --state` to have a Job run again.
_RETRY_BY_STATE = (JobState.READY, JobState.STAGED_IN, *RUNNABLE_STATES)

every_option = click.option("--all", "every", is_flag=True, help="All of your Jobs at the Sites that --site means.")


@click.command()
@job_selectors()
@every_option
@click.option("--reason", default="", help="Kept in the Jobs' history.")
@yes_option
@json_option
def cancel(choice: JobChoice, every: bool, reason: str, yes: bool, as_json: bool) -> None:
    """Cancel Jobs: waiting ones at once, running ones as soon as their processes are gone."""

    def do(jobs: "JobQuerySet") -> "Changed":
        from balsam.api import Job

        return Job.objects.cancel(jobs, reason)

    # Only what is not done can be cancelled; asking for nothing else keeps the count in the question true.
    meant = choice if choice.ranges else choice.only(_OPEN_STATES)
    _carry_out("Cancel", "cancelled", choice, meant, do, every=every, ask=True, yes=yes, as_json=as_json)


@click.command()
@job_selectors()
@every_option
@yes_option
@json_option
def retry(choice: JobChoice, every: bool, yes: bool, as_json: bool) -> None:
    """Run FAILED and CANCELLED Jobs again; their history is kept."""
    _retry(choice, every=every, yes=yes, as_json=as_json)


@click.command("rm")
@job_selectors()
@every_option
@yes_option
@json_option
def remove(choice: JobChoice, every: bool, yes: bool, as_json: bool) -> None:
    """Delete Jobs and their history at the service; files at the Site stay.

    Those that run, or that others wait for, are left and named.
    """

    def do(jobs: "JobQuerySet") -> "Changed":
        return jobs.delete()

    _carry_out("Delete", "removed", choice, choice, do, every=every, ask=True, yes=yes, as_json=as_json)


@click.command()
@job_selectors()
@every_option
@changed_fields
@yes_option
@json_option
def modify(choice: JobChoice, every: bool, changes: Mapping[str, Any], yes: bool, as_json: bool) -> None:
    """Change fields of Jobs: what decides how a Job runs, only while no launcher has it.

    --state selects Jobs. As in Balsam 0.7, `job modify --id ID --state RESTART_READY` without any change of a field
    runs the Jobs again; a state can't be set otherwise: see job cancel and job retry.
    """
    if not changes:
        if choice.states and (choice.ranges or choice.tags):
            _set_state(choice, yes=yes, as_json=as_json)
            return
        raise click.UsageError("say what to change: --set-tag, --num-nodes, --priority ... (see --help)")

    def do(jobs: "JobQuerySet") -> "Changed":
        return jobs.update(**changes)

    _carry_out("Change", "modified", choice, choice, do, every=every, ask=not choice.ranges, yes=yes, as_json=as_json)


def _retry(choice: JobChoice, *, every: bool, yes: bool, as_json: bool) -> None:
    def do(jobs: "JobQuerySet") -> "Changed":
        from balsam.api import Job

        return Job.objects.retry(jobs)

    meant = choice if choice.ranges else choice.only(_AGAIN_STATES)
    _carry_out("Run again", "retried", choice, meant, do, every=every, ask=not choice.ranges, yes=yes, as_json=as_json)


def _set_state(choice: JobChoice, *, yes: bool, as_json: bool) -> None:
    if len(choice.states) != 1 or choice.states[0] not in _RETRY_BY_STATE:
        raise click.UsageError(
            f"a Job can't be set to {', '.join(choice.states)}: states follow from what happens. "
            f"To run Jobs again: balsam job retry; to end them: balsam job cancel"
        )
    _retry(replace(choice, states=()), every=False, yes=yes, as_json=as_json)


def _carry_out(
    verb: str,
    done: str,
    choice: JobChoice,
    meant: JobChoice,
    do: "Callable[[JobQuerySet], Changed]",
    *,
    every: bool,
    ask: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Count, ask, do, tell. `meant` is the choice without those that the verb can't be about anyway."""
    if choice.is_open and not every:
        raise click.UsageError("say which Jobs: by ids, --tag, --state, --app ..., or --all")
    scope = meant.scope()
    scope.mention_left_out()
    jobs = meant.query(scope)
    count = jobs.count()
    if ask and count:
        confirm(f"{verb} {counted(count, 'Job')}?", yes=yes, as_json=as_json)
    missing = _missing(choice, count)
    changed = do(jobs) if count else None
    refused = missing | (changed.refused if changed is not None else {})
    report(done, 0 if changed is None else changed.changed, refused, as_json=as_json)


def _missing(choice: JobChoice, count: int) -> dict[int, str]:
    """Ids that were named one by one and are no Jobs; a hole in a range is none."""
    singles = expanded(one for one in choice.ranges if len(one) == 1)
    if not choice.has_ids_only or count >= len(choice.ids) or not singles:
        return {}
    from balsam.api import Job

    there = {job.id for job in Job.objects.filter(id=list(singles))}
    return {number: "there is no such Job, or it is not yours" for number in singles if number not in there}
