"""The pages on which a person lets a waiting program in: code, provider, consent. Served beside the API by app.py.

Plain forms made here, without scripts and without anything from elsewhere. A browser is known by a cookie that only
these pages see; every form carries a token made from it, and says yes only in the browser that logged in.
"""

import hmac
import secrets
from hashlib import sha256
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Router

from balsam.server.auth.oidc import LoginRefused, Provider
from balsam.server.auth.outbound import Outbound, ProviderAway
from balsam.server.auth.providers import LoginSettings, load
from balsam.server.errors import Forbidden, NotFound, ServiceError
from balsam.server.limits import Window
from balsam.server.routes.call import Service
from balsam.server.store.records import DeviceLoginRow
from balsam.server.usecases import audit, logins

PATH = "/login"
BROWSER_CALLBACK = "/ui/login/back"  # of who comes back to the pages themselves (web.provider_login)
WRONG_CODES, WRONG_CODES_SEC = 5, 300.0
MAX_FORM_BYTES = 65_536
COOKIE_SEC = 600
_TEMPLATES = Environment(
    loader=PackageLoader("balsam.server", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


class Providers:
    """The providers of one service, and where its pages are."""

    def __init__(self, settings: LoginSettings, service: Service) -> None:
        self.login_url = settings.public_url + PATH
        # Connections of its own for each: those that wait for a silent provider are not missing at another one.
        self._outbound = {one.name: Outbound() for one in settings.providers}
        redirect_uri = f"{self.login_url}/callback"
        self.by_name = {
            one.name: Provider(one, redirect_uri, self._outbound[one.name], service.clock) for one in settings.providers
        }
        self.is_secure = settings.public_url.startswith("https:")
        parts = urlsplit(settings.public_url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.titles = {one.name: one.title or one.name for one in settings.providers}
        self.issuers = frozenset(one.issuer for one in settings.providers)
        self.form_targets = " ".join(sorted({"/".join(one.issuer.split("/")[:3]) for one in settings.providers}))
        self.policy = (
            f"default-src 'none'; style-src 'self'; form-action 'self' {self.form_targets}; frame-ancestors 'none'; "
            "base-uri 'none'"
        )

    async def close(self) -> None:
        for outbound in self._outbound.values():
            await outbound.close()


def add_to(router: Router, service: Service, login_file: Path) -> Providers:
    """Add the pages to a router and tell the service of them; to be closed. Raises SettingsError for the file."""
    providers = Providers(load(login_file), service)
    service.providers = providers
    pages = LoginPages(service, providers)
    for path, handler, method in (
        ("", pages.ask, "GET"),
        ("", pages.start, "POST"),
        ("/callback", pages.callback, "GET"),
        ("/decide", pages.decide, "POST"),
        ("/style.css", pages.style, "GET"),
    ):
        router.add_route(PATH + path, handler, methods=[method])
    return providers


class LoginPages:
    """The handlers of the pages."""

    def __init__(self, service: Service, providers: Providers) -> None:
        self._service = service
        self._providers = providers
        self._wrong_codes = Window(WRONG_CODES, WRONG_CODES_SEC)
        self._cookie = "__Host-balsam-login" if providers.is_secure else "balsam-login"

    async def ask(self, request: Request) -> Response:
        """Which program? The code, and where to log in."""
        browser = request.cookies.get(self._cookie) or secrets.token_urlsafe(32)
        code = request.query_params.get("code", "")[:20]
        reply = self._page("ask.html", code=code, csrf=self._csrf(browser), names=self._providers.titles.items())
        secure = self._providers.is_secure
        reply.set_cookie(self._cookie, browser, max_age=COOKIE_SEC, httponly=True, secure=secure, samesite="lax")
        return reply

    async def start(self, request: Request) -> Response:
        """To the provider, with state, nonce and PKCE drawn for this login."""
        try:
            form, browser = await self._form(request)
        except ServiceError as error:
            return self._told(error.message, error.status)
        provider = self._providers.by_name.get(form.get("provider", ""))
        if provider is None:
            return self._told("There is no such provider.", 400)
        now = self._service.clock.now()
        address = request.client.host if request.client else ""
        code = form.get("code", "").strip().upper()
        # Counted before it is looked up: else a right one among any number of guesses would be let in.
        wait = self._wrong_codes.wait_sec(address, self._service.clock.monotonic())
        if wait > 0:
            return self._told("Too many wrong codes; wait some minutes.", 429, {"Retry-After": str(int(wait) + 1)})
        if await self._service.store.read(lambda tx: logins.waiting_login(tx, code, now)) is None:
            return self._told("This code is not good (any more). Begin anew where you typed balsam login.", 400)
        self._wrong_codes.take_back(address)
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        try:
            url = await provider.authorization_url(state, nonce, verifier)
        except ProviderAway as error:
            return self._told(f"The provider does not answer: {error}. Tokens that exist go on working.", 503)
        claim = logins.Claim(browser, provider.settings.name, state, nonce, verifier)
        if not await self._service.store.write(lambda tx: logins.claim(tx, code, claim, now)):
            return self._told("Somebody was quicker with this code.", 400)
        return RedirectResponse(url, 303, self._headers())

    async def callback(self, request: Request) -> Response:
        """Back from the provider: who is it, and is it meant?"""
        browser, query, now = request.cookies.get(self._cookie, ""), request.query_params, self._service.clock.now()
        state, code = query.get("state", ""), query.get("code", "")
        if state.startswith(logins.BROWSER_STATE):
            return RedirectResponse(f"{BROWSER_CALLBACK}?{request.url.query}", 303, self._headers())
        try:
            row = await self._service.store.read(lambda tx: logins.claimed_login(tx, state, browser, now))
            if not code:
                return self._told(f"The provider did not log you in: {query.get('error', 'no code')[:100]}.", 403)
            if row.provider not in self._providers.by_name:  # no longer, since a restart
                raise NotFound
            provider = self._providers.by_name[row.provider]
            who = await provider.identify(code, query.get("iss", ""), row.nonce, row.verifier)
            user, row = await self._service.store.write(
                lambda tx: logins.identify(tx, row.id, who.issuer, who.subject, who.name, row.provider, now)
            )
        except LoginRefused as error:
            await self._note("login_failed", request, provider=row.provider, reason=str(error)[:200])
            return self._told(f"You can't log in here: {error}.", 403)
        except ProviderAway as error:
            return self._told(f"The provider does not answer: {error}.", 503)
        except ServiceError as error:
            return self._told(f"This login can't go on: {error.message}.", error.status)
        return self._page(
            "consent.html",
            login=row,
            username=user.username,
            days=self._service.settings.token_days,
            csrf=self._csrf(browser, row.id),
        )

    async def decide(self, request: Request) -> Response:
        """Yes or no."""
        number = request.query_params.get("login", "")
        login_id = int(number) if number.isdecimal() and len(number) < 19 else 0
        now = self._service.clock.now()
        try:
            form, browser = await self._form(request, login_id)
            approved = form.get("answer") == "yes"
            row = await self._service.store.write(lambda tx: logins.decide(tx, login_id, browser, approved, now))
        except ServiceError as error:
            return self._told(f"This login can't go on: {error.message}.", error.status)
        await self._note_decision(request, row, approved)
        return self._told("The program is logged in; you can close this page." if approved else "It was refused.", 200)

    async def style(self, request: Request) -> Response:
        text = _TEMPLATES.get_template("login.css").render()
        return Response(text, media_type="text/css", headers=self._headers())

    async def _form(self, request: Request, login_id: int = 0) -> tuple[dict[str, str], str]:
        """The fields of a form and whose browser it is. Raises Forbidden for a form that is not from these pages."""
        browser = request.cookies.get(self._cookie, "")
        content = b""
        async for piece in request.stream():
            content += piece
            if len(content) > MAX_FORM_BYTES:
                raise ServiceError(413, "too_large", "the form is too large")
        fields = {name: values[0] for name, values in parse_qs(content.decode("latin-1")).items()}
        origin = request.headers.get("origin", self._providers.origin)
        good = hmac.compare_digest(fields.get("csrf", "").encode(), self._csrf(browser, login_id).encode())
        if not browser or not good or origin not in (self._providers.origin, "null"):
            raise Forbidden("this form did not come from this service's own page")
        return fields, browser

    def _csrf(self, browser: str, login_id: int = 0) -> str:
        """Knows who knows the cookie, which no other page can read."""
        return hmac.new(browser.encode(), f"csrf {login_id}".encode(), sha256).hexdigest()

    async def _note_decision(self, request: Request, row: DeviceLoginRow, approved: bool) -> None:
        event = "login" if approved else "login_refused"
        await self._note(event, request, method=row.provider, client=row.client, user_id=row.user_id)

    async def _note(self, event: str, request: Request, **detail: str | int | None) -> None:
        address = request.client.host if request.client else ""
        request_id = request.scope.get("balsam.request_id", "")
        target = f"{request.method} {request.url.path}"
        entry, now = audit.Entry(event, None, address, request_id, target, detail), self._service.clock.now()
        await self._service.store.write(lambda tx: audit.record(tx, entry, now))

    def _told(self, text: str, status: int, headers: dict[str, str] | None = None) -> HTMLResponse:
        return self._page("told.html", status, headers, text=text)

    def _page(
        self, template: str, status: int = 200, headers: dict[str, str] | None = None, **values: object
    ) -> HTMLResponse:
        content = _TEMPLATES.get_template(template).render(**values)
        return HTMLResponse(content, status, {**self._headers(), **(headers or {})})

    def _headers(self) -> dict[str, str]:
        found = {"Content-Security-Policy": self._providers.policy, "Referrer-Policy": "no-referrer"}
        if self._providers.is_secure:
            found["Strict-Transport-Security"] = "max-age=31536000"
        return found
