"""`balsam site ls`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from balsam.cli.node_hours import node_hours
from balsam.cli.output import json_option, print_json
from balsam.cli.selectors import site_option, site_scope
from balsam.cli.table import table_text
from balsam.cli.watch import View, show, watch_options

if TYPE_CHECKING:
    from balsam.api import Site

_COLUMNS = ("ID", "Name", "Agent", "Heard of", "Host", "Path")
_MORE = ("Owner", "Created", "Queues", "Projects", "Options", "Locations", "Scaling")


@click.command("ls")
@click.option("-v", "--verbose", is_flag=True, help="More columns.")
@site_option()
@watch_options
@json_option
def list_sites(verbose: bool, site: str | None, watch: bool, every_sec: float, as_json: bool) -> None:
    """List your Sites; all of them, unless --site says which."""

    def found() -> "list[Site]":
        scope = site_scope(site or "all")
        return [one for one in scope.sites if scope.ids is None or one.id in scope.ids]

    if as_json and not watch:
        print_json([one.display_dict() for one in found()])
        return

    def look() -> View:
        rows = [(*_row(one), *(_more(one) if verbose else ())) for one in found()]
        return View(table_text((*_COLUMNS, *(_MORE if verbose else ())), rows))

    empty = "No Sites yet; create one with: balsam site init PATH"
    show(look, empty, watch=watch, every_sec=every_sec, as_json=as_json)


def _row(one: "Site") -> Iterable[object]:
    return (one.id, one.name, "active" if one.is_active else "silent", one.last_refresh, one.hostname, one.path)


def _more(one: "Site") -> Iterable[object]:
    queues = " ".join(
        f"{name}:{limits['max_nodes']}x{limits['max_walltime']}min" for name, limits in one.allowed_queues.items()
    )
    places = (one.optional_batch_job_params or "", one.transfer_locations or "")
    services = [f"{name} {said}" for name, said in (one.scaling or {}).items() if isinstance(said, str)]
    scaling = "; ".join([*services, *node_hours(one)])
    return (one.owner, one.creation_date, queues, " ".join(one.allowed_projects), *places, scaling)
