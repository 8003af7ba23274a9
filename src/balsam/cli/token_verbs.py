"""`balsam token ls`, `create`, `revoke` and `rotate`. Only a login may use them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from balsam.cli.outcome import report
from balsam.cli.output import json_option, plain, print_json
from balsam.cli.selectors import one_site
from balsam.cli.table import print_table
from balsam.domain.scopes import GIVEN, Scope

if TYPE_CHECKING:
    from balsam.wire.auth import TokenView

_COLUMNS = ("ID", "Kind", "Label", "Scopes", "Site", "Created", "Used", "Expires")


@click.command("ls")
@json_option
def list_all(as_json: bool) -> None:
    """List the tokens of your account that are good now: logins, programs, agents, launchers."""
    from balsam.api import default_client
    from balsam.client.tokens import list_tokens

    found = list_tokens(default_client().transport)
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
    else:
        print_table(_COLUMNS, [_row(one) for one in found], "There are no tokens.")


def _row(one: "TokenView") -> Sequence[object]:
    label = f"{one.label} (this login)" if one.is_this_one else one.label
    expires = one.expires_at.date().isoformat() if one.expires_at else "never"
    return (one.id, one.kind, label, " ".join(one.scopes), one.site_id, one.created_at, one.last_used_at, expires)


@click.command()
@click.argument("label")
@click.option(
    "-s",
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice([str(scope) for scope in GIVEN]),
    help="What it may be used for; repeatable.",
)
@click.option("--site", help="Name or id of the only Site that it reaches.")
@click.option("--days", type=click.IntRange(1), help="How long it is good. [default: until it is revoked]")
@json_option
def create(label: str, scopes: tuple[str, ...], site: str | None, days: int | None, as_json: bool) -> None:
    """Make a token for a program, called LABEL in lists, and print it: it is shown this once.

    A program takes it from BALSAM_URL and BALSAM_TOKEN. Whatever its scopes, it can't make tokens, teams or accounts.
    """
    from balsam.api import default_client
    from balsam.client.tokens import create_token

    client = default_client()
    site_id = None if site is None else one_site(site).id
    made = create_token(client.transport, label, [Scope(scope) for scope in scopes], site_id, days)
    if as_json:
        print_json({"token": made.token, **made.about.model_dump(mode="json")})
        return
    click.echo(made.token)
    click.echo(f"Token {made.about.id}; end it with: balsam token revoke {made.about.id}", err=True)


@click.command()
@click.argument("ids", nargs=-1, required=True, type=click.IntRange(1), metavar="ID...")
@json_option
def revoke(ids: tuple[int, ...], as_json: bool) -> None:
    """End tokens, by their ids in `balsam token ls`; they fail from the next request on."""
    from balsam.api import default_client
    from balsam.client.errors import NotFound
    from balsam.client.tokens import revoke_token

    refused: dict[int, str] = {}
    transport = default_client().transport
    for token_id in dict.fromkeys(ids):
        try:
            revoke_token(transport, token_id)
        except NotFound:
            refused[token_id] = "there is no such token, or it is not yours"
    report("revoked", len(set(ids)) - len(refused), refused, as_json=as_json, noun="token")


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@json_option
def rotate(path: Path | None, as_json: bool) -> None:
    """Give the agent of the Site in PATH (default: the Site you stand in) another token, and end the one it has.

    A running agent takes it up by itself; allocations and Jobs do not notice.
    """
    from balsam.site.rotation import rotate_token

    done = rotate_token(path)
    if as_json:
        print_json({"site_id": done.site_id, "ended": done.ended})
    else:
        click.echo(f"The agent of Site {plain(done.name)} has a new token; {done.ended} ended.")
