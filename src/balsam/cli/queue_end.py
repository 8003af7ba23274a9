"""`balsam queue rm` and `term`: ask for the end of allocations. Jobs that run in them are stopped and run again.

`drain`: for an end after the Jobs that they have.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from balsam.cli.asking import confirm, yes_option
from balsam.cli.outcome import report
from balsam.cli.output import counted, json_option
from balsam.cli.param_types import expanded
from balsam.cli.queue_list import LIVE_STATES, BatchJobChoice, batch_job_selectors
from balsam.cli.selectors import site_option, site_scope
from balsam.domain.states import BATCH_JOB_ENDED, BatchJobState

if TYPE_CHECKING:
    from balsam.api import BatchJob


@click.command("rm")
@batch_job_selectors
@click.option("--all", "every", is_flag=True, help="All live ones at the Sites that --site means.")
@yes_option
@json_option
def remove(choice: BatchJobChoice, every: bool, yes: bool, as_json: bool) -> None:
    """End allocations: running Jobs are stopped and run again in the next one.

    The Site's agent carries it out; where none is active, as soon as it is back.
    """
    _end(*_chosen(choice, every, "End", yes, as_json), as_json)


@click.command()
@batch_job_selectors
@click.option("--all", "every", is_flag=True, help="All live ones at the Sites that --site means.")
@yes_option
@json_option
def drain(choice: BatchJobChoice, every: bool, yes: bool, as_json: bool) -> None:
    """Let running allocations take no more Jobs; each ends once the Jobs that it has are over.

    This can't be taken back. `balsam queue rm` ends one at once, also while it drains.
    """
    from balsam.api import BatchJob

    found, refused = _chosen(choice, every, "Drain", yes, as_json)
    refused |= _ended(found)
    asked = [one.id for one in found if one.id not in refused]
    if asked:
        refused |= BatchJob.objects.filter(id=asked).update(draining=True).refused
    done = len([number for number in asked if number not in refused])
    report("draining", done, refused, as_json=as_json, noun="BatchJob")


@click.command()
@click.argument("scheduler_ids", nargs=-1, required=True, metavar="SCHEDULER_ID...")
@site_option()
@json_option
def term(scheduler_ids: tuple[str, ...], site: str | None, as_json: bool) -> None:
    """End allocations by the scheduler's own ids, as `balsam queue ls` shows them."""
    from balsam.api import BatchJob

    scope = site_scope(site, otherwise="all")
    found: list[BatchJob] = []
    for scheduler_id in scheduler_ids:
        matches = list(BatchJob.objects.filter(scheduler_id=scheduler_id, **scope.filter()))
        live = [one for one in matches if one.state in LIVE_STATES] or matches
        if not live:
            raise click.BadParameter(f"no allocation has the scheduler's id {scheduler_id!r}; see: balsam queue ls")
        if len({one.site_id for one in live}) > 1:
            places = ", ".join(scope.name_of(one.site_id) for one in live)
            raise click.BadParameter(f"{scheduler_id!r} is an id at several Sites ({places}); say which: --site NAME")
        found += live
    _end(found, {}, as_json)


def _chosen(
    choice: BatchJobChoice, every: bool, what: str, yes: bool, as_json: bool
) -> "tuple[list[BatchJob], dict[int, str]]":
    """The BatchJobs of a command line, and why others that it names are not among them."""
    if choice.is_open and not every:
        raise click.UsageError("say which BatchJobs: by ids, --tag, --state ..., or --all")
    scope = choice.scope()
    scope.mention_left_out()
    found = list(choice.query(scope, None if choice.ranges else LIVE_STATES))
    if found and not choice.ranges:
        confirm(f"{what} {counted(len(found), 'allocation')}?", yes=yes, as_json=as_json)
    there = {one.id for one in found}
    singles = expanded(one for one in choice.ranges if len(one) == 1)
    missing = {number: "there is no such BatchJob, or it is not yours" for number in singles if number not in there}
    return found, missing


def _end(found: "Iterable[BatchJob]", missing: dict[int, str], as_json: bool) -> None:
    from balsam.api import BatchJob

    refused = {**missing, **_ended(found)}
    live = [one.id for one in found if one.id not in refused]
    asked = [one.id for one in found if one.id in live and one.state is not BatchJobState.PENDING_DELETION]
    if asked:
        done = BatchJob.objects.filter(id=asked).update(state=BatchJobState.PENDING_DELETION)
        refused |= done.refused
    ended = len([number for number in live if number not in refused])
    report("ended", ended, refused, as_json=as_json, noun="BatchJob")


def _ended(found: "Iterable[BatchJob]") -> dict[int, str]:
    return {one.id: f"it is {one.state} already" for one in found if one.state in BATCH_JOB_ENDED}
