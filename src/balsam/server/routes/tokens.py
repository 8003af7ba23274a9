"""Tokens for programs, and the list of all that are good. Only a login may ask."""

from balsam.domain.scopes import Scope
from balsam.server.auth import tokens as secrets
from balsam.server.auth.needs import USER
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.usecases import tokens
from balsam.wire.auth import TokenCreate, TokenCreated, TokensPage

routes = Routes("tokens", reads=Scope.ALL, writes=Scope.ALL)


@routes.get("/tokens", needs=USER)
async def list_tokens(call: Call) -> TokensPage:
    """The caller's tokens that are good now: logins, programs', agents', launchers'."""
    return await call.read(lambda tx: tokens.list_tokens(tx, call.principal, call.now))


@routes.post("/tokens", needs=USER, status=201, audit="token_made")
async def create_token(call: Call, body: TokenCreate) -> TokenCreated:
    """A token for a program. No Idempotency-Key: the answer has a secret, which is kept nowhere."""
    secret = secrets.mint("user")
    call.note(label=body.label, scopes=list(body.scopes), site_id=body.site_id, days=body.days)
    return await call.write(lambda tx: tokens.create_token(tx, call.principal, body, secret, call.now))


@routes.delete("/tokens/{token_id}", needs=USER, status=204, audit="token_revoked")
async def revoke_token(call: Call, token_id: int) -> None:
    """End a token: it fails from the next request on."""
    await call.write(lambda tx: tokens.revoke_token(tx, call.principal, token_id, call.now))
