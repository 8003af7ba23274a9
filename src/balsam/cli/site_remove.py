"""`balsam site rm`: take a Site out of the service, and its directory away.

First what runs is ended, then the service forgets the Site, then the files go: an interruption leaves something that
the same command completes.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from balsam.cli.asking import confirm, yes_option
from balsam.cli.output import counted, json_option, plain, print_json
from balsam.cli.own_site import check_login
from balsam.cli.queue_list import LIVE_STATES
from balsam.cli.selectors import one_site

if TYPE_CHECKING:
    from balsam.api import Site
    from balsam.site.directory import SiteIdentity

END_SEC = 60.0
_LOOK_AGAIN_SEC = 0.5


@dataclass(frozen=True, slots=True)
class _Contents:
    """What the service knows of a Site."""

    apps: int
    jobs: int
    live: tuple[int, ...]

    def __str__(self) -> str:
        return f"{counted(self.apps, 'App')} and {counted(self.jobs, 'Job')}"


@click.command("rm")
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--site", "name", help="Instead of PATH: a Site whose directory is gone or elsewhere, by name or id.")
@click.option("-f", "--force", is_flag=True, help="Do not ask, and end allocations that run or wait.")
@click.option("--keep-files", is_flag=True, help="Leave the directory, which is no Site any more then.")
@yes_option
@json_option
def remove(path: Path | None, name: str | None, force: bool, keep_files: bool, yes: bool, as_json: bool) -> None:
    """Remove the Site in the directory PATH: its Apps, Jobs and history at the service, and all files in PATH."""
    if path is not None and name is None:
        removed = _remove_here(path, force, keep_files, _Asker(yes or force, as_json))
    elif name is not None and path is None:
        removed = _remove_record(name, force, _Asker(yes or force, as_json))
    else:
        raise click.UsageError("give the directory of the Site, or --site NAME when that is gone or elsewhere")
    if as_json:
        print_json(removed)
    else:
        click.echo(f"Removed Site {plain(str(removed['name']))}.")


@dataclass(frozen=True, slots=True)
class _Asker:
    """Whether and how a person is asked."""

    yes: bool
    as_json: bool

    def confirm(self, question: str) -> None:
        confirm(question, yes=self.yes, as_json=self.as_json)


def _remove_here(path: Path, force: bool, keep_files: bool, asker: _Asker) -> dict[str, object]:
    from balsam.site.control import site_status, stop_site
    from balsam.site.leftovers import end_leftovers
    from balsam.site.move import refuse_supervised, site_at
    from balsam.site.removal import forget_directory, open_allocations

    directory = site_at(path)
    identity = directory.identity()
    refuse_supervised(site_status(directory.root), directory)
    row = _row(identity)
    found = None if row is None else _contents(row)
    live = sorted({*open_allocations(directory), *(found.live if found is not None else ())})
    _refuse_live(live, force)
    known = "which the service does not know any more" if found is None else str(found)
    files = "leave its files" if keep_files else f"all files in {directory.root}"
    asker.confirm(f"Remove Site {identity.name}: {known}, and {files}?")
    if row is not None and live and site_status(directory.root) is not None:
        _end_allocations(row)
    stop_site(directory.root)
    end_leftovers(directory.root, lambda count: click.echo(f"Ending {counted(count, 'allocation')}.", err=True))
    if row is not None:
        row.delete()
    forget_directory(directory, keep_files=keep_files)
    return {"id": identity.id, "name": identity.name, "path": str(directory.root), "files_removed": not keep_files}


def _remove_record(name: str, force: bool, asker: _Asker) -> dict[str, object]:
    row = one_site(name)
    found = _contents(row)
    place = f"{row.path} on {row.hostname or 'its machine'}"
    if row.is_active:
        raise click.ClickException(
            f"the agent of Site {row.name} is active; remove it there: balsam site rm {row.path}"
        )
    _refuse_live(list(found.live), force)
    asker.confirm(f"Remove Site {row.name}: {found}? Files in {place} are left")
    row.delete()
    return {"id": row.id, "name": row.name, "path": row.path, "files_removed": False}


def _row(identity: "SiteIdentity") -> "Site | None":
    from balsam.api import Site

    try:
        return check_login(identity)
    except Site.DoesNotExist:  # an earlier run was interrupted
        return None


def _contents(row: "Site") -> _Contents:
    from balsam.api import App, BatchJob, Job

    live = BatchJob.objects.filter(site_id=row.id, state=list(LIVE_STATES))
    apps, jobs = App.objects.filter(site_id=row.id).count(), Job.objects.filter(site_id=row.id).count()
    return _Contents(apps, jobs, tuple(one.id for one in live))


def _refuse_live(live: list[int], force: bool) -> None:
    if live and not force:
        ids = ", ".join(map(str, live))
        raise click.ClickException(
            f"{counted(len(live), 'allocation')} of it run or wait (BatchJobs {ids}); wait for their end, or --force it"
        )


def _end_allocations(row: "Site") -> None:
    """Have the agent end them in order; what takes too long is ended at the scheduler."""
    from balsam.api import BatchJob
    from balsam.domain.states import BatchJobState

    live = BatchJob.objects.filter(site_id=row.id, state=list(LIVE_STATES))
    live.update(state=BatchJobState.PENDING_DELETION)
    deadline = time.monotonic() + END_SEC
    while live.all().exists() and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN_SEC)
