"""Who is at the browser: the session cookie, and the proof that a form came from one of our pages.

A session is a token of the account like any login, kept in a cookie that no script can read; it ends like one. Each
form carries a MAC under a cookie that other sites can't read, and is refused when the browser says that it came from
elsewhere (T14). Used by every page.
"""

import hmac
import secrets
from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha256
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from balsam.server.errors import Forbidden, ServiceError
from balsam.server.settings import ServerSettings

SESSION_LIFE = timedelta(days=7)
MAX_FORM_BYTES = 65_536


class Door:
    """The cookies of one service."""

    def __init__(self, settings: ServerSettings) -> None:
        self.is_secure = settings.tls_cert is not None or settings.behind_proxy

    def session(self, request: Request) -> str:
        """The token of the session; empty without one."""
        return request.cookies.get(self._name(request, "session"), "")

    def visitor(self, request: Request) -> str:
        """What a browser is known by before somebody has logged in; empty when it is new."""
        return request.cookies.get(self._name(request, "visitor"), "")

    def welcome(self, request: Request) -> tuple[str, bool]:
        """The visitor's cookie, and whether it has to be set."""
        known = self.visitor(request)
        return (known, False) if known else (secrets.token_urlsafe(32), True)

    def set_visitor(self, request: Request, reply: Response, value: str) -> None:
        self._set(request, reply, "visitor", value, timedelta(hours=1))

    def set_session(self, request: Request, reply: Response, token: str) -> None:
        self._set(request, reply, "session", token, SESSION_LIFE)

    def end_session(self, request: Request, reply: Response) -> None:
        name = self._name(request, "session")
        reply.delete_cookie(name, path="/", secure=self.is_secure, httponly=True, samesite="lax")

    def _set(self, request: Request, reply: Response, kind: str, value: str, life: timedelta) -> None:
        reply.set_cookie(
            self._name(request, kind),
            value,
            max_age=int(life.total_seconds()),
            path="/",
            secure=self.is_secure,
            httponly=True,
            samesite="lax",
        )

    def _name(self, request: Request, kind: str) -> str:
        """Cookies know no ports: without TLS the port is in the name, as several services may run on one machine."""
        if self.is_secure:
            return f"__Host-balsam-{kind}"
        server = request.scope.get("server") or ("", 0)
        return f"balsam-{kind}-{server[1]}"


def csrf_of(cookie: str) -> str:
    """What a form must carry: only who can read the cookie can make it."""
    return hmac.new(cookie.encode(), b"form of a page", sha256).hexdigest()


async def read_form(request: Request, cookie: str) -> Mapping[str, str]:
    """The fields of a form. Raises Forbidden for one that did not come from a page made for this cookie."""
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > MAX_FORM_BYTES:
            raise ServiceError(413, "too_large", "the form is too large")
    fields = {name: values[0] for name, values in parse_qs(content.decode("utf-8", "replace")).items()}
    right = hmac.compare_digest(fields.get("csrf", "").encode(), csrf_of(cookie).encode())
    if not cookie or not right or not _is_from_here(request):
        raise Forbidden("this form did not come from a page of this service that is still good; load the page again")
    return fields


def _is_from_here(request: Request) -> bool:
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    origin = request.headers.get("origin")
    # By name only: a proxy may listen on another port than it passes on.
    return origin is None or urlsplit(origin).hostname == urlsplit(f"//{request.headers.get('host', '')}").hostname
