"""The tokens of the account that is logged in: listing them, making one for a program, ending one.

Used by `balsam token` and by the rotation of a Site's token. Only a login may do this, not a token that was made here.
"""

from collections.abc import Iterable

from balsam.client.transport import Transport
from balsam.client.values import checked
from balsam.domain.scopes import Scope
from balsam.wire.auth import TokenCreate, TokenCreated, TokensPage, TokenView

DEADLINE_SEC = 30.0


def list_tokens(transport: Transport) -> list[TokenView]:
    """Every token of the account that is good now."""
    return transport.request("GET", "/tokens", reply=TokensPage, deadline_sec=DEADLINE_SEC).results


def create_token(
    transport: Transport, label: str, scopes: Iterable[Scope], site_id: int | None = None, days: int | None = None
) -> TokenCreated:
    """A new token; its text is in the answer and can't be asked for again.

    Args:
        transport: Of a login.
        label: What it is for; shown in lists.
        scopes: What it may be used for.
        site_id: The only Site that it reaches.
        days: Until when it is good; None: until it is revoked.

    Raises:
        ValidationFailed: A scope that only a login has, or no scope.
        Forbidden: The transport's token is no login.
        NotFound: There is no such Site, or it is not the account's.
    """
    fields = {"label": label, "scopes": list(scopes), "site_id": site_id, "days": days}
    body = checked(TokenCreate, "", fields)
    # Not repeated: an answer that was lost would leave a token that nobody knows.
    return transport.request("POST", "/tokens", body=body, reply=TokenCreated, deadline_sec=DEADLINE_SEC)


def revoke_token(transport: Transport, token_id: int) -> None:
    """End a token; it fails from the next request on. Raises NotFound."""
    transport.request("DELETE", f"/tokens/{token_id}", deadline_sec=DEADLINE_SEC)
