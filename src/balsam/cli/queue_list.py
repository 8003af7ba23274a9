"""`balsam queue ls`, and the selectors of BatchJobs that it shares with `queue rm`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from balsam.cli.node_hours import node_hours
from balsam.cli.output import counted, json_option, parse_pairs, print_json
from balsam.cli.param_types import IdRanges, Moment, OneOf, expanded, joined
from balsam.cli.selectors import SiteScope, site_option, site_scope
from balsam.cli.table import table_text
from balsam.cli.watch import View, show, watch_options
from balsam.domain.batch_job import status_reason
from balsam.domain.states import BATCH_JOB_ENDED, BatchJobState

if TYPE_CHECKING:
    from balsam.api import BatchJob
    from balsam.client.query import Query

LIVE_STATES = tuple(state for state in BatchJobState if state not in BATCH_JOB_ENDED)
_COLUMNS = ("ID", "Site", "Scheduler ID", "State", "Mode", "Nodes", "Minutes", "Queue", "Project", "Started", "Reason")
_MORE = ("Requested", "Ended", "Tags", "Partitions", "Parameters")
Command = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class BatchJobChoice:
    """What the selectors of a command line say. Everything that is given must hold."""

    ranges: tuple[range, ...] = ()
    states: tuple[BatchJobState, ...] = ()
    tags: dict[str, str] | None = None
    scheduler_id: str | None = None
    since: datetime | None = None
    site: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether nothing was chosen but perhaps Sites."""
        return not (self.ranges or self.states or self.tags or self.scheduler_id or self.since)

    def scope(self) -> SiteScope:
        """The Sites it is about. BatchJobs named by their ids are found at any Site."""
        return site_scope(self.site, otherwise="all" if self.ranges or self.scheduler_id else "active")

    def query(self, scope: SiteScope, states: Iterable[BatchJobState] | None) -> "Query[BatchJob]":
        """The BatchJobs; `states` holds where none was chosen."""
        from balsam.api import BatchJob

        chosen: dict[str, Any] = {
            "id": list(expanded(self.ranges)),
            "state": list(self.states or states or ()),
            "filter_tags": self.tags,
            "scheduler_id": self.scheduler_id,
            "created_after": self.since,
        }
        given = {name: value for name, value in chosen.items() if value}
        return BatchJob.objects.filter(**given, **scope.filter())


def batch_job_selectors(command: Command) -> Command:
    """The selectors on a command that takes `choice: BatchJobChoice`."""

    @wraps(command)
    def chosen(
        *,
        numbers: tuple[range, ...],
        ids: tuple[range, ...],
        states: tuple[BatchJobState, ...],
        tags: dict[str, str],
        scheduler_id: str | None,
        since: datetime | None,
        site: str | None,
        **options: Any,
    ) -> Any:
        choice = BatchJobChoice((*numbers, *ids), states, tags or None, scheduler_id, since, site)
        return command(choice=choice, **options)

    wrapped: Command = chosen
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


_OPTIONS = (
    click.argument("numbers", nargs=-1, type=IdRanges(), callback=joined, metavar="[IDS]..."),
    click.option("-i", "--id", "ids", type=IdRanges(), multiple=True, callback=joined, help="As in 5-20,33; repeat."),
    click.option("-s", "--state", "states", type=OneOf(BatchJobState), multiple=True, help="In this state; repeat."),
    click.option(
        *("-t", "-tag", "--tag", "tags"),
        multiple=True,
        metavar="KEY=VALUE",
        callback=parse_pairs("--tag"),
        help="With this filter tag; repeat.",
    ),
    click.option("--scheduler-id", "--scheduler_id", help="The scheduler's own id."),
    click.option("--since", type=Moment(), help="Requested since: 90s, 30min, 2h, 1d ago, or ISO 8601."),
    site_option(),
)


# -h is the history here, as it was in Balsam 0.7; the help is --help
@click.command("ls", context_settings={"help_option_names": ["--help"]})
@batch_job_selectors
@click.option("-h", "--history", is_flag=True, help="Also those that ended.")
@click.option(
    "-n", "--num", "limit", default=100, show_default=True, type=click.IntRange(min=1), help="Newest to show."
)
@click.option("-v", "--verbose", is_flag=True, help="More columns.")
@watch_options
@json_option
def list_batch_jobs(
    choice: BatchJobChoice, history: bool, limit: int, verbose: bool, watch: bool, every_sec: float, as_json: bool
) -> None:
    """List allocations, newest first, with the scheduler's reason."""
    scope = choice.scope()
    scope.mention_left_out()
    named = bool(choice.ranges or choice.scheduler_id)
    query = choice.query(scope, None if history or named else LIVE_STATES).order_by("-id")
    if as_json and not watch:
        print_json([one.display_dict() for one in query[:limit]])
        return

    def look() -> View:
        found = list(query[:limit])
        total = query.count() if len(found) == limit else 0
        notes = [f"{limit} of {counted(total, 'BatchJob')}; more with --num"] if total > limit else []
        about = [one for one in scope.sites if scope.ids is None or one.id in scope.ids]
        note = "; ".join([*notes, *(said for one in about for said in node_hours(one))])
        rows = [(*_row(one, scope), *(_more(one) if verbose else ())) for one in found]
        return View(table_text((*_COLUMNS, *(_MORE if verbose else ())), rows), note)

    empty = "No allocations; request one with: balsam queue submit"
    show(look, empty, watch=watch, every_sec=every_sec, as_json=as_json)


def _row(one: "BatchJob", scope: SiteScope) -> Iterable[object]:

    asked = (one.job_mode, one.num_nodes, one.wall_time_min, one.queue, one.project)
    drains = "draining: takes no more Jobs" if one.draining and one.state in LIVE_STATES else ""
    reason = "; ".join(text for text in (drains, status_reason(one.status_info or {})) if text)
    return (one.id, scope.name_of(one.site_id), one.scheduler_id, one.state, *asked, one.start_time, reason)


def _more(one: "BatchJob") -> Iterable[object]:
    parts = one.partitions_to_cli_args().replace(" --part ", " ").strip()
    return (one.created_at, one.end_time, one.filter_tags or "", parts, one.optional_params or "")
