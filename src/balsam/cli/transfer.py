"""`balsam transfer ls`: which files are on their way, how far they are, and what keeps them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from balsam.cli.group import Group
from balsam.cli.output import counted, json_option, print_json, size_text
from balsam.cli.param_types import IdRanges, OneOf, expanded, joined
from balsam.cli.selectors import site_option, site_scope
from balsam.cli.table import table_text
from balsam.cli.watch import View, show, watch_options
from balsam.domain.states import TransferState
from balsam.domain.transfers import TRANSFER_DUE, TransferDirection

if TYPE_CHECKING:
    from balsam.api import TransferItem

_COLUMNS = ("ID", "Job", "Slot", "In/out", "Workdir file", "Location", "State", "Size", "A second", "Changed", "Why")


@click.group(cls=Group, lazy={"ls": ("balsam.cli.transfer:list_transfers", "List transfers, newest first.")})
def transfer() -> None:
    """See which files are on their way to and from Sites."""


@click.command("ls")
@click.option("-i", "--id", "ids", type=IdRanges(), multiple=True, callback=joined, help="As in 5-20,33; repeat.")
@click.option("-j", "--job", "jobs", type=IdRanges(), multiple=True, callback=joined, help="Of these Jobs; repeat.")
@click.option("-s", "--state", "states", type=OneOf(TransferState), multiple=True, help="In this state; repeat.")
@click.option("--direction", type=OneOf(TransferDirection), help="Into workdirs, or out of them.")
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that are not due (any more).")
@site_option()
@click.option("-n", "--limit", default=100, show_default=True, type=click.IntRange(min=1), help="Newest to show.")
@watch_options
@json_option
def list_transfers(
    ids: tuple[range, ...],
    jobs: tuple[range, ...],
    states: tuple[TransferState, ...],
    direction: TransferDirection | None,
    everything: bool,
    site: str | None,
    limit: int,
    watch: bool,
    every_sec: float,
    as_json: bool,
) -> None:
    """List transfers, newest first: those that are due, and those in error. A named one or Job: all of them."""
    from balsam.api import TransferItem

    named = bool(ids or jobs)
    scope = site_scope(site, otherwise="all" if named else "active")
    scope.mention_left_out()
    shown = states or (() if everything or named else (*sorted(TRANSFER_DUE), TransferState.ERROR))
    chosen: dict[str, Any] = {
        "id": list(expanded(ids)),
        "job_id": list(expanded(jobs)),
        "state": list(shown),
        "direction": direction,
    }
    given = {name: value for name, value in chosen.items() if value}
    query = TransferItem.objects.filter(**given, **scope.filter()).order_by("-id")
    if as_json and not watch:
        print_json([one.display_dict() for one in query[:limit]])
        return

    def look() -> View:
        found = list(query[:limit])
        total = query.count() if len(found) == limit else 0
        note = f"{limit} of {counted(total, 'transfer')}; more with --limit" if total > limit else ""
        return View(table_text(_COLUMNS, [_row(one) for one in found]), note)

    show(look, "No transfers are under way; all of them: --all", watch=watch, every_sec=every_sec, as_json=as_json)


def _row(one: "TransferItem") -> Sequence[object]:
    rate = _number(one, "bytes_per_sec")
    far = f"{one.location_alias}:{one.remote_path}"
    why = one.transfer_info.get("error", "")
    where = (one.id, one.job_id, one.slot, one.direction, one.local_path, far)
    return (*where, one.state, _progress(one), "" if rate is None else size_text(rate), one.last_update, why)


def _progress(one: "TransferItem") -> str:
    """As in `312 MB of 1.50 GB`, as far as it is known."""
    done = _number(one, "size_bytes")
    moved = _number(one, "moved_bytes") if done is None else done
    total = _number(one, "total_bytes") if one.content is None else one.content.size_bytes
    return " of ".join(dict.fromkeys(size_text(size) for size in (moved, total) if size is not None))


def _number(one: "TransferItem", name: str) -> int | None:
    """What the Site says, which may be anything."""
    value = one.transfer_info.get(name)
    return value if isinstance(value, int) and value >= 0 else None
