"""What all pages have in common: templates, headers, limits, who is logged in, and how an error looks.

`Frame.page` makes a handler for the router out of a function that is given a `Visit`. Nobody who is not logged in gets
past it, and nothing a use case raises gets out of it but as a page.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from balsam.domain.scopes import Scope
from balsam.server import problems
from balsam.server.auth.needs import USER, check_scope
from balsam.server.errors import ServiceError, Unauthenticated
from balsam.server.routes.call import Call, Service
from balsam.web import words
from balsam.web.door import Door, csrf_of, read_form

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
# same-origin: with no-referrer, browsers hide the origin of our own forms from us.
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin", "X-Frame-Options": "DENY"}
HOME = "/ui"


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("balsam.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # What a macro made is markup, and was looked at in it.
        finalize=lambda value: (
            words.plain(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
        ),
    )
    for function in (words.span, words.ago, words.stamp, words.kind, words.pretty, words.is_done, words.has_ended):
        made.globals[function.__name__] = function
    return made


@dataclass(slots=True)
class Visit:
    """One request of somebody who is logged in."""

    request: Request
    call: Call
    session: str

    @property
    def wants_part(self) -> bool:
        """Whether htmx asks for what has changed on a page that is there."""
        return self.request.headers.get("hx-request") == "true"

    def number(self, name: str) -> int:
        """An id in the path; 0, which nothing has, for what is none."""
        text = str(self.request.path_params.get(name, ""))
        return int(text) if text.isdecimal() and len(text) < 19 else 0


Handler = Callable[[Visit], Awaitable[Any]]
Endpoint = Callable[[Request], Awaitable[Any]]


class Frame:
    """Makes the pages of one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.door = Door(service.settings)
        self._templates = _environment()

    def page(self, handler: Handler) -> Endpoint:
        """A page for people who are logged in."""

        async def endpoint(request: Request) -> Any:
            try:
                visit = await self._visit(request)
            except Unauthenticated:
                return self._log_in_first(request)
            except ServiceError as error:
                return self.failed(error)
            return await self._answer(handler, visit)

        return endpoint

    async def _answer(self, handler: Handler, visit: Visit) -> Any:
        user_id = visit.call.principal.user_id
        try:
            self.service.rates.check(visit.call.principal, self.service.clock.monotonic())
            self.service.crowd.enter(user_id)
            try:
                return await handler(visit)
            finally:
                self.service.crowd.leave(user_id)
        except ServiceError as error:
            return self.failed(error, visit)
        except ValidationError as error:
            return self.failed(problems.from_validation(error), visit)

    async def _visit(self, request: Request) -> Visit:
        session = self.door.session(request)
        if not session:
            raise Unauthenticated
        call = self.call(request, session=session)
        await call.authenticate()
        USER.check(call.principal)
        check_scope(call.principal, Scope.ALL)
        return Visit(request, call, session)

    def call(self, request: Request, event: str = "", session: str = "") -> Call:
        """The request as the routes of the API see it: its audit rows, limits and transactions are theirs."""
        headers = dict(request.scope["headers"])
        if session:
            headers[b"authorization"] = b"Bearer " + session.encode("latin-1", "replace")
        return Call(self.service, request.scope, headers, request.scope.get("balsam.request_id", ""), event)

    async def form(self, visit: Visit) -> dict[str, str]:
        return dict(await read_form(visit.request, visit.session))

    def show(self, visit: Visit, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page with the frame around it."""
        me = visit.call.principal
        return self.bare(
            template,
            status,
            me=me,
            csrf=csrf_of(visit.session),
            path=visit.request.url.path,
            now=visit.call.now,
            **values,
        )

    def bare(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        content = self._templates.get_template(template).render(**{"me": None, "path": "", **values})
        return HTMLResponse(content, status, HEADERS)

    def go(self, where: str) -> RedirectResponse:
        """After a form: the browser asks for a page, which a reload does not send again."""
        return RedirectResponse(where, 303, HEADERS)

    def come_in(self, request: Request, token: str, next_page: str) -> Response:
        """Begin a session, and go on where the browser was going."""
        # Only to a page of ours: "//elsewhere" and "/\elsewhere" would be another host's.
        is_ours = next_page == HOME or next_page.startswith((f"{HOME}/", f"{HOME}?"))
        reply = self.go(next_page if is_ours else HOME)
        self.door.set_session(request, reply, token)
        return reply

    def failed(self, error: ServiceError, visit: Visit | None = None) -> Response:
        reasons = [detail.message for detail in getattr(error, "details", None) or ()]
        if visit is None:
            reply: Response = self.bare(
                "told.html", error.status, title="This did not work", text=error.message, more=reasons
            )
        else:
            reply = self.show(
                visit, "told.html", error.status, title="This did not work", text=error.message, more=reasons
            )
        reply.headers.update(problems.headers_of(error))
        return reply

    async def refused(self, request: Request, error: Exception) -> Response:
        """A refusal that no handler of ours made a page of. Called by the router."""
        if not isinstance(error, ServiceError):
            raise error
        return self.failed(error)

    async def broke(self, request: Request, error: Exception) -> Response:
        """A fault of ours. The dispatcher writes it into the log, under the id that the page tells."""
        return self.failed(problems.internal(request.scope.get("balsam.request_id", "")))

    def _log_in_first(self, request: Request) -> Response:
        if request.headers.get("hx-request") == "true":
            return Response(status_code=401, headers={**HEADERS, "HX-Redirect": f"{HOME}/login"})
        if request.method != "GET":
            return self.go(f"{HOME}/login")
        there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return self.go(f"{HOME}/login?next={quote(there, safe='')}")
