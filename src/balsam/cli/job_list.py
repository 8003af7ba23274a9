"""`balsam job ls`."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from balsam.cli.output import counted, json_option, print_json
from balsam.cli.selectors import JobChoice, SiteScope, job_selectors
from balsam.cli.table import table_text
from balsam.cli.watch import View, show, watch_options
from balsam.domain.states import JobState

if TYPE_CHECKING:
    from balsam.api import Job

_COLUMNS = ("ID", "Site", "App", "Workdir", "State", "Tags", "Changed")
_MORE = (
    "Nodes",
    "Ranks",
    "Minutes",
    "Attempt",
    "Exit",
    "Failure",
    "BatchJob",
    "Created",
    "Started",
    "Ended",
    "Parameters",
)


@click.command("ls")
@job_selectors()
@click.option("--by-state", is_flag=True, help="Only count Jobs by state.")
@click.option("-n", "--limit", default=100, show_default=True, type=click.IntRange(min=1), help="Newest Jobs to show.")
@click.option("-v", "--verbose", is_flag=True, help="More columns.")
@watch_options
@json_option
def list_jobs(
    choice: JobChoice, by_state: bool, limit: int, verbose: bool, watch: bool, every_sec: float, as_json: bool
) -> None:
    """List Jobs, newest first."""
    scope = choice.scope()
    scope.mention_left_out()
    query = choice.query(scope)
    if as_json and not watch:
        print_json(
            query.count_by("state") if by_state else [one.display_dict() for one in query.order_by("-id")[:limit]]
        )
        return

    def look() -> View:
        if by_state:
            counts = query.count_by("state")
            return View(table_text(("State", "Jobs"), [(one, counts[one]) for one in JobState if counts.get(one)]))
        jobs = list(query.order_by("-id")[:limit])
        total = query.count() if len(jobs) == limit else 0
        note = f"{limit} of {counted(total, 'Job')}; more with --limit" if total > limit else ""
        return View(_table(jobs, scope, verbose), note)

    show(look, "No Jobs match.", watch=watch, every_sec=every_sec, as_json=as_json)


def _table(jobs: Sequence["Job"], scope: SiteScope, verbose: bool) -> str:
    rows = [(*_row(one, scope), *(_more(one) if verbose else ())) for one in jobs]
    return table_text((*_COLUMNS, *(_MORE if verbose else ())), rows)


def _row(one: "Job", scope: SiteScope) -> Iterable[object]:
    site = scope.name_of(one.site_id)
    return (one.id, site, one.app_name, one.workdir, one.state, one.tags or "", one.last_update)


def _more(one: "Job") -> Iterable[object]:
    shape = (one.num_nodes, one.ranks_per_node, one.wall_time_min)
    last = (one.attempt, one.return_code, one.failure, one.batch_job_id)
    return (*shape, *last, one.created_at, one.started_at, one.ended_at, one.parameters or "")
