"""Coming in and going out: a password, or a link that works once (`balsam open`, `balsam up`).

The form also leads to the OpenID providers of the service (provider_login.py). The account, its limits of tries and the
audit log are those of the API: the same functions are called.
"""

from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from balsam.server.auth import tokens
from balsam.server.errors import ServiceError, Unauthenticated
from balsam.server.routes import accounts as account_routes
from balsam.server.usecases import accounts, logins
from balsam.web.door import SESSION_LIFE, csrf_of, read_form
from balsam.web.frame import HOME, POLICY, Frame, Visit
from balsam.wire.auth import PasswordLogin


class LoginDesk:
    """The handlers that need no session."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def ask(self, request: Request) -> Response:
        """The form for a password."""
        return self._form(request, next_page=request.query_params.get("next", ""))

    async def log_in(self, request: Request) -> Response:
        """A password was sent."""
        frame, next_page = self._frame, ""
        try:
            fields = await read_form(request, frame.door.visitor(request))
            next_page = fields.get("next", "")
            asked = PasswordLogin.model_validate(
                {"username": fields.get("username", ""), "password": fields.get("password", "")}
            )
            login = await account_routes.login(frame.call(request, "login"), asked)
        except ValidationError:
            return self._form(request, 401, "wrong user name or password", next_page)
        except Unauthenticated as error:
            return self._form(request, 401, error.message, next_page)
        except ServiceError as error:
            return frame.failed(error)
        return frame.come_in(request, login.token, next_page)

    async def show_link(self, request: Request) -> Response:
        """Somebody follows a link that works once. Only the form uses it up: programs look at links, too."""
        frame, code = self._frame, request.query_params.get("code", "")
        now = frame.service.clock.now()
        name = await frame.service.store.read(lambda tx: logins.invited(tx, code, now))
        if name is None:
            return self._link_is_over()
        visitor, is_new = frame.door.welcome(request)
        reply = frame.bare("enter.html", code=code, username=name, csrf=csrf_of(visitor))
        if is_new:
            frame.door.set_visitor(request, reply, visitor)
        return reply

    async def use_link(self, request: Request) -> Response:
        """The link is used up."""
        frame = self._frame
        call = frame.call(request, "login")
        call.note(method="link")
        secret = tokens.mint("user")
        try:
            fields = await read_form(request, frame.door.visitor(request))
            code, ends = fields.get("code", ""), call.now + SESSION_LIFE
            login = await call.write(lambda tx: logins.accept(tx, code, secret, ends, call.now))
        except Unauthenticated:
            return self._link_is_over()
        except ServiceError as error:
            return frame.failed(error)
        return frame.come_in(request, login.token, "")

    async def log_out(self, visit: Visit) -> Response:
        """The session's token ends."""
        await self._frame.form(visit)
        call = self._frame.call(visit.request, "logout", visit.session)
        await call.authenticate()
        await call.write(lambda tx: accounts.logout(tx, call.principal, call.now))
        reply = self._frame.go(f"{HOME}/login")
        reply.headers["Clear-Site-Data"] = '"cache", "storage"'  # not cookies: other ports of this host have some
        self._frame.door.end_session(visit.request, reply)
        return reply

    def _form(self, request: Request, status: int = 200, problem: str = "", next_page: str = "") -> Response:
        frame = self._frame
        visitor, is_new = frame.door.welcome(request)
        doors, is_local = frame.service.providers, frame.service.settings.is_single_user
        titles = {} if doors is None else doors.titles
        values: dict[str, Any] = {"csrf": csrf_of(visitor), "problem": problem, "next_page": next_page}
        reply = frame.bare("login.html", status, is_local=is_local, titles=titles, **values)
        if doors is not None:
            policy = POLICY.replace("form-action 'self'", f"form-action 'self' {doors.form_targets}")
            reply.headers["Content-Security-Policy"] = policy
        if is_new:
            frame.door.set_visitor(request, reply, visitor)
        return reply

    def _link_is_over(self) -> Response:
        text = "This link was used, or is older than five minutes. A new one: balsam open"
        return self._frame.bare("told.html", 403, title="This link is over", text=text, more=[])
