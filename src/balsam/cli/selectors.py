"""Options that choose Sites and Jobs, the same on every verb.

`--site`: `all`, `this` (the Site directory you stand in), `active`, or ids and names separated by commas. Without it:
the Site you stand in, else the active ones; Jobs that are named by their ids are found at any Site.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from balsam.cli.output import counted, parse_pairs
from balsam.cli.param_types import IdRanges, Moment, OneOf, expanded, joined
from balsam.domain.failure import Failure
from balsam.domain.states import JobState

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from balsam.api import Site
    from balsam.client.models.job_objects import JobQuerySet

Command = Callable[..., Any]


def complete_site(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """Names of Sites for `--site`; none while the service does not answer at once."""
    from balsam.cli.completion import site_names

    return site_names(incomplete)


def site_option(*names: str) -> Callable[[Command], Command]:
    """`--site`, under further names as well."""
    return click.option(
        *(*names, "--site"),
        "site",
        metavar="SITES",
        shell_complete=complete_site,
        help="all, this, active, or ids and names separated by commas. [default: where you stand, else active]",
    )


@dataclass(frozen=True, slots=True)
class SiteScope:
    """Sites that a command is about. `ids` None: every Site."""

    sites: "tuple[Site, ...]"
    ids: tuple[int, ...] | None
    left_out: int = 0  # Sites that nobody named and that are not active

    def name_of(self, site_id: int) -> str:
        """The Site's name, its number when it is not known."""
        return next((str(site.name) for site in self.sites if site.id == site_id), str(site_id))

    def filter(self) -> dict[str, Any]:
        """As a filter of a query."""
        return {} if self.ids is None else {"site_id": list(self.ids)}

    def mention_left_out(self) -> None:
        """Tell on stderr that Sites were passed over which are not active."""
        if self.left_out:
            click.echo(
                f"{counted(self.left_out, 'Site')} not looked at, with no active agent; to include: --site all",
                err=True,
            )


def site_scope(selector: str | None, *, otherwise: str = "active") -> SiteScope:
    """What `--site` means; `otherwise` stands for it where it is not given and you stand in no Site.

    Raises BadParameter when a Site is not found.
    """
    from balsam.api import Site
    from balsam.site.directory import current_site_id

    here = current_site_id() if selector in (None, "this") else None
    if selector == "this" and here is None:
        raise _bad_site("you are not in a Site directory; cd into one, or set BALSAM_SITE_PATH")
    sites = tuple(Site.objects.all())
    if here is not None:
        return SiteScope(sites, (here,))
    word = selector or otherwise
    if word == "all":
        return SiteScope(sites, None)
    if word == "active":
        active = tuple(site.id for site in sites if site.is_active)
        left_out = len(sites) - len(active) if selector is None else 0
        return SiteScope(sites, None if len(active) == len(sites) else active, left_out)
    return SiteScope(sites, tuple(dict.fromkeys(_named(word, sites))))


def one_site(selector: str | None) -> "Site":
    """The one Site that is meant: by `--site`, by the directory you stand in, or because there is no other active one.

    Raises BadParameter when it is not clear.
    """
    scope = site_scope(selector)
    if scope.ids == () and selector is None:  # none is active: a request waits for the agent
        scope = replace(scope, ids=None)
    chosen = [site for site in scope.sites if scope.ids is None or site.id in scope.ids]
    if len(chosen) != 1:
        names = ", ".join(str(site.name) for site in chosen) or "none"
        raise _bad_site(f"{counted(len(chosen), 'Site')} could be meant ({names}); name one, see: balsam site ls")
    return chosen[0]


@dataclass(frozen=True, slots=True)
class JobChoice:
    """What the selectors of a command line say. Everything that is given must hold."""

    ranges: tuple[range, ...] = ()
    states: tuple[JobState, ...] = ()
    excluded: tuple[JobState, ...] = ()
    failures: tuple[Failure, ...] = ()
    tags: dict[str, str] | None = None
    workdir: str | None = None
    app: str | None = None
    since: datetime | None = None
    site: str | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids that were named, ranges included."""
        return expanded(self.ranges)

    @property
    def has_ids_only(self) -> bool:
        """Whether nothing but ids was given."""
        return bool(self.ranges) and replace(self, ranges=()) == JobChoice()

    @property
    def is_open(self) -> bool:
        """Whether nothing was chosen but perhaps Sites."""
        return not any(getattr(self, one.name) for one in fields(self) if one.name != "site")

    @property
    def wanted_states(self) -> list[JobState] | None:
        """States to look for; None for all."""
        if not self.states and not self.excluded:
            return None
        return [state for state in self.states or JobState if state not in self.excluded]

    def only(self, states: Iterable[JobState]) -> "JobChoice":
        """The same choice among Jobs in these states."""
        able = set(states)
        kept = tuple(state for state in self.wanted_states or JobState if state in able)
        return replace(self, states=kept, excluded=() if kept else tuple(JobState))

    @property
    def app_filter(self) -> dict[str, Any]:
        """The App, as a filter of Jobs."""
        if not self.app:
            return {}
        return {"app_id": int(self.app)} if self.app.isdecimal() else {"app_name": self.app}

    def scope(self) -> SiteScope:
        """The Sites it is about. Jobs named by their ids are found at any Site.

        Raises BadParameter when a Site is not found, or nothing is known of the App.
        """
        if self.app:
            _check_app(self.app, self.app_filter)
        return site_scope(self.site, otherwise="all" if self.ranges else "active")

    def filter(self, scope: SiteScope) -> dict[str, Any]:
        """As filters of `Job.objects`."""
        wanted = {
            "id": list(self.ids) or None,
            "state": self.wanted_states,
            "failure": list(self.failures) or None,
            "tags": self.tags,
            "workdir__contains": self.workdir,
            "last_update_after": self.since,
            **self.app_filter,
            **scope.filter(),
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def query(self, scope: SiteScope) -> "JobQuerySet":
        """The Jobs."""
        from balsam.api import Job

        return Job.objects.filter(**self.filter(scope))


def job_selectors(*, argument: bool = True) -> Callable[[Command], Command]:
    """The selectors on a command that takes `choice: JobChoice`. With `argument`, ids also come without an option."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def chosen(
            *,
            job_ids: tuple[range, ...] = (),
            ids: tuple[range, ...],
            states: tuple[JobState, ...],
            excluded: tuple[JobState, ...],
            failures: tuple[Failure, ...],
            tags: dict[str, str],
            workdir: str | None,
            app: str | None,
            since: datetime | None,
            site: str | None,
            **options: Any,
        ) -> Any:
            choice = JobChoice((*job_ids, *ids), states, excluded, failures, tags or None, workdir, app, since, site)
            return command(choice=choice, **options)

        wrapped: Command = chosen
        for option in reversed(_JOB_OPTIONS):
            wrapped = option(wrapped)
        if argument:
            wrapped = click.argument("job_ids", nargs=-1, type=IdRanges(), callback=joined, metavar="[IDS]...")(wrapped)
        return wrapped

    return decorate


_JOB_OPTIONS = (
    click.option("-i", "--id", "ids", type=IdRanges(), multiple=True, callback=joined, help="As in 5-20,33; repeat."),
    click.option("-s", "--state", "states", type=OneOf(JobState), multiple=True, help="In this state; repeat."),
    click.option(
        *("-ns", "--exclude-state", "excluded"), type=OneOf(JobState), multiple=True, help="Not in this state; repeat."
    ),
    click.option(
        *("--failure", "failures"), type=OneOf(Failure), multiple=True, help="Failed this way, as exit_code; repeat."
    ),
    click.option(
        *("-t", "-tag", "--tag", "tags"), multiple=True, callback=parse_pairs("--tag"), help="KEY=VALUE; repeat."
    ),
    click.option("-w", "--workdir", help="Part of the workdir."),
    click.option("-a", "--app", help="Name or id of the App."),
    click.option("--since", type=Moment(), help="Changed since: 90s, 30min, 2h, 1d ago, or ISO 8601."),
    site_option(),
)


def _named(words: str, sites: Iterable["Site"]) -> Iterable[int]:
    for word in words.split(","):
        exact = [site.id for site in sites if str(site.id) == word or site.name == word]
        found = exact or [site.id for site in sites if word and word in str(site.path)]
        if not found:
            known = ", ".join(f"{site.name} ({site.id})" for site in sites) or "none"
            raise _bad_site(f"no Site {word!r}; there are: {known}")
        yield from found


def _check_app(word: str, of_jobs: dict[str, Any]) -> None:
    """Who sees the Jobs of a campaign need not see their Apps, so a Job of it counts as well."""
    from balsam.api import App, Job
    from balsam.client.values import nearest

    of_apps = {name.removeprefix("app_"): value for name, value in of_jobs.items()}
    if App.objects.filter(**of_apps).exists() or Job.objects.filter(**of_jobs).exists():
        return
    known = {str(one.name) for one in App.objects.all()}  # with their code: not asked for what is found
    hint = nearest(word, known) if known else "; MyApp.sync() registers one"
    raise click.BadParameter(f"no App {word!r}{hint}", param_hint="--app")


def _bad_site(why: str) -> click.BadParameter:
    return click.BadParameter(why, param_hint="--site")
