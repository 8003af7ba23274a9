"""Giving a Site's agent another token, while it runs: the new one is written first, then the old ones end.

Called by `balsam token rotate`. Whenever it is interrupted, the file holds a token that works: a running agent reads
the file again at the first refusal (`site.service`), and launchers have tokens of their own.
"""

from dataclasses import dataclass
from pathlib import Path

from balsam.client.errors import NotFound
from balsam.client.settings import ClientSettings
from balsam.client.tokens import list_tokens, revoke_token
from balsam.client.transport import Transport
from balsam.site.directory import require_site
from balsam.site.service import followed_file, write_credentials
from balsam.wire.sites import SiteToken

CALL_SEC = 30.0


@dataclass(frozen=True, slots=True)
class Rotated:
    """Whose token was changed, and how many ended."""

    site_id: int
    name: str
    ended: int


def rotate_token(path: Path | None = None, transport: Transport | None = None) -> Rotated:
    """Replace the token of the Site in `path` (default: the Site you stand in). Raises SiteError, BalsamError."""
    site = require_site(path)
    identity = site.identity()
    own = transport or Transport(ClientSettings.load())
    try:
        old = [one.id for one in list_tokens(own) if one.kind == "site" and one.site_id == identity.id]
        made = own.request(
            "POST", f"/sites/{identity.id}/token", reply=SiteToken, safe_to_repeat=True, deadline_sec=CALL_SEC
        )
        write_credentials(site.credentials, own.url, made.token, followed_file(site.credentials))
        for token_id in old:
            _end(own, token_id)
    finally:
        if transport is None:
            own.close()
    return Rotated(identity.id, identity.name, len(old))


def _end(transport: Transport, token_id: int) -> None:
    try:
        revoke_token(transport, token_id)
    except NotFound:  # somebody else was quicker
        return
