"""Coming in through an OpenID provider: from the login form to the provider, and back to the page one was going to.

Added by app.py where the service has providers. State, nonce and PKCE are drawn for each login, and only the browser
that left may come back (its cookie); the account of an identity is the one that `balsam login` leads to.
"""

import secrets

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router

from balsam.server.auth import tokens
from balsam.server.auth.oidc import Identity, LoginRefused
from balsam.server.auth.outbound import ProviderAway
from balsam.server.errors import Forbidden, NotFound, ServiceError, Unavailable
from balsam.server.login_pages import BROWSER_CALLBACK, Providers
from balsam.server.routes.call import Call, Service
from balsam.server.store.protocol import Tx
from balsam.server.usecases import logins
from balsam.web.door import SESSION_LIFE, read_form
from balsam.web.frame import HOME, Frame
from balsam.wire.auth import Login

MAX_NEXT = 2_000


def add_to(router: Router, service: Service, providers: Providers) -> None:
    """The way there and the way back."""
    desk = ProviderDesk(Frame(service), providers)
    router.add_route(f"{HOME}/login/provider", desk.leave, methods=["POST"])
    router.add_route(BROWSER_CALLBACK, desk.come_back, methods=["GET"])


class ProviderDesk:
    """The handlers."""

    def __init__(self, frame: Frame, providers: Providers) -> None:
        self._frame = frame
        self._providers = providers

    async def leave(self, request: Request) -> Response:
        """A provider was chosen on the login form."""
        frame = self._frame
        visitor, call = frame.door.visitor(request), frame.call(request)
        try:
            fields = await read_form(request, visitor)
            await call.check_login("")
            name, next_page = fields.get("provider", ""), fields.get("next", "")[:MAX_NEXT]
            if name not in self._providers.by_name:
                raise NotFound
            state = logins.BROWSER_STATE + secrets.token_urlsafe(32)
            claim = logins.Claim(visitor, name, state, secrets.token_urlsafe(32), secrets.token_urlsafe(32))
            url = await self._providers.by_name[name].authorization_url(state, claim.nonce, claim.verifier)
            await call.write(lambda tx: logins.leave(tx, claim, next_page, call.address, call.now))
        except ProviderAway as error:
            return frame.failed(_away(error))
        except ServiceError as error:
            return frame.failed(error)
        return frame.go(url)

    async def come_back(self, request: Request) -> Response:
        """From the provider: who is it?"""
        frame, query = self._frame, request.query_params
        visitor, call = frame.door.visitor(request), frame.call(request, "login")
        state, code = query.get("state", ""), query.get("code", "")
        try:
            row = await call.read(lambda tx: logins.left(tx, state, visitor, call.now))
            call.note(method=row.provider)
            if row.provider not in self._providers.by_name:  # no longer, since a restart
                raise NotFound
            if not code:
                raise LoginRefused(f"the provider did not log you in: {query.get('error', 'no code')[:100]}")
            provider = self._providers.by_name[row.provider]
            who = await provider.identify(code, query.get("iss", ""), row.nonce, row.verifier)
            login = await self._arrive(call, row.id, who)
        except LoginRefused as error:
            call.note(reason=str(error)[:200])
            await call.audit("login_failed")
            return frame.failed(Forbidden(f"You can't log in here: {error}."))
        except ProviderAway as error:
            return frame.failed(_away(error))
        except NotFound:
            # Also for who began under another name of this service, for which the browser keeps other cookies.
            begin = self._providers.origin + f"{HOME}/login"
            return frame.failed(Forbidden(f"This login is over, or began in another browser. Begin anew: {begin}"))
        except ServiceError as error:
            return frame.failed(error)
        return frame.come_in(request, login.token, row.client)

    async def _arrive(self, call: Call, login_id: int, who: Identity) -> Login:
        secret, ends = tokens.mint("user"), call.now + SESSION_LIFE

        def arrive(tx: Tx) -> Login:
            login = logins.arrive(tx, login_id, who.issuer, who.subject, who.name, secret, ends, call.now)
            call.note(username=login.username)
            return login

        return await call.write(arrive)


def _away(error: ProviderAway) -> ServiceError:
    text = f"The provider does not answer: {error}. Sessions and tokens that exist go on working."
    return Unavailable(text, retry_after_sec=30)
