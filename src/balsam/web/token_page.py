"""The tokens of the account: what is good now, a new one for a program, ending one.

The calls are those of the API (`balsam token`), with their rows in the audit log. A token's text is in one answer only,
which no browser keeps.
"""

from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from balsam.domain.scopes import GIVEN, Scope
from balsam.server import problems
from balsam.server.errors import ServiceError
from balsam.server.routes import tokens as token_routes
from balsam.server.routes.call import Call
from balsam.server.store.protocol import ReadTx
from balsam.server.usecases import sites, tokens
from balsam.web.frame import HOME, Frame, Visit
from balsam.wire.auth import TokenCreate
from balsam.wire.sites import SiteFilter

PATH = f"{HOME}/tokens"
_MAY = {
    Scope.JOBS_READ: "look at Jobs, files, events, allocations, Apps and Sites",
    Scope.JOBS_WRITE: "and submit, change, cancel and delete Jobs, send files, request and end allocations",
    Scope.SITES_ADMIN: "look, and register, change and delete Sites and Apps",
    Scope.SESSIONS_RUN: "look, and hold Sessions: acquire Jobs and report on them",
    Scope.METRICS_READ: "read numbers over the whole service, in an administrator's token",
}
_FIELD = "scope-"


class TokenPage:
    """The handlers."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def show(self, visit: Visit) -> Response:
        """The list, and the form for a new one."""
        return await self._show(visit)

    async def create(self, visit: Visit) -> Response:
        """Make one, and show its text."""
        fields = await self._frame.form(visit)
        call = await self._audited(visit, "token_made")
        try:
            made = await token_routes.create_token(call, _asked(fields))
        except ValidationError as error:
            problem = problems.from_validation(error)
            return await self._show(visit, problem.status, problem=problem.message, given=fields)
        except ServiceError as error:
            return await self._show(visit, error.status, problem=error.message, given=fields)
        return await self._show(visit, made=made)

    async def revoke(self, visit: Visit) -> Response:
        """End one. Who ends the token of this browser's session is out."""
        await self._frame.form(visit)
        call = await self._audited(visit, "token_revoked")
        await token_routes.revoke_token(call, visit.number("token_id"))
        return self._frame.go(PATH)

    async def _audited(self, visit: Visit, event: str) -> Call:
        call = self._frame.call(visit.request, event, visit.session)
        await call.authenticate()
        return call

    async def _show(self, visit: Visit, status: int = 200, **more: Any) -> Response:
        call = visit.call

        def read(tx: ReadTx) -> dict[str, Any]:
            return {
                "found": tokens.list_tokens(tx, call.principal, call.now),
                "sites": sites.list_sites(tx, call.principal, SiteFilter(), call.now).results,
            }

        found = await call.read(read)
        names = {site.id: site.name for site in found["sites"]}
        choices = [(f"{_FIELD}{scope}", str(scope), _MAY[scope]) for scope in GIVEN]
        values = {"made": None, "problem": "", "given": {}, "names": names, "choices": choices, **found, **more}
        return self._frame.show(visit, "tokens.html", status, **values)


def _asked(fields: dict[str, str]) -> TokenCreate:
    """Raises ValidationError."""
    scopes = [name.removeprefix(_FIELD) for name in fields if name.startswith(_FIELD)]
    asked: dict[str, Any] = {"label": fields.get("label", "").strip(), "scopes": scopes}
    asked |= {name: fields[name] for name in ("site_id", "days") if fields.get(name, "").strip()}
    return TokenCreate.model_validate(asked, strict=False)
