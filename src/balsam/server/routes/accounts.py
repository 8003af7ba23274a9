"""Logging in with a password, and out; who is behind a token."""

import secrets
from datetime import timedelta

from balsam.domain.scopes import Scope
from balsam.server.auth import tokens
from balsam.server.auth.needs import ANYBODY, OPEN, USER
from balsam.server.auth.passwords import hash_new
from balsam.server.errors import Forbidden, Unauthenticated
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.usecases import accounts, logins
from balsam.wire.auth import AuthMethods, BrowserLink, Login, PasswordChange, PasswordLogin, WhoAmI
from balsam.wire.limits import MAX_PASSWORD

routes = Routes("accounts", reads=Scope.ALL, writes=Scope.ALL)
LOGIN_BYTES = 65_536


@routes.get("/auth/methods", needs=OPEN)
async def auth_methods(call: Call) -> AuthMethods:
    """How a person can log in here: `local` by the file that only the Unix user who runs the service can read, `device`
    in a browser, at one of the providers."""
    service = call.service
    methods = ["password", "local"] if service.settings.is_single_user else ["password"]
    if service.providers is None:
        return AuthMethods(methods=methods)
    return AuthMethods(methods=[*methods, "device"], providers=list(service.providers.titles))


@routes.post("/auth/login", needs=OPEN, body_limit=LOGIN_BYTES, audit="login", is_login=True)
async def login(call: Call, body: PasswordLogin) -> Login:
    """Exchange a password for a token; at most 5 tries a minute per account and 20 per address."""
    service = call.service
    await call.check_login(body.username)
    user = await call.read(lambda tx: accounts.user_named(tx, body.username))
    password = body.password.get_secret_value()
    stored = user.password_hash if user is not None else None
    right = len(password) <= MAX_PASSWORD and await service.passwords.verify(stored, password)
    call.note(username=body.username, method="password")
    if user is None or not right or user.disabled_at is not None:
        await call.audit("login_failed")
        raise Unauthenticated("wrong user name or password")
    secret, expires_at = tokens.mint("user"), call.now + timedelta(days=service.settings.token_days)
    return await call.write(lambda tx: accounts.issue_user_token(tx, user.id, secret, expires_at, "login", call.now))


@routes.post("/auth/browser-link", needs=USER, status=201, audit="browser_link")
async def make_browser_link(call: Call) -> BrowserLink:
    """A link that lets one browser in as the caller, once and for five minutes."""
    code, me = secrets.token_urlsafe(32), call.principal
    ends = await call.write(lambda tx: logins.invite(tx, me.user_id, code, call.address, call.now))
    return BrowserLink(path=f"/ui/enter?code={code}", expires_at=ends)


@routes.post("/auth/password", needs=USER, status=204, body_limit=LOGIN_BYTES, audit="password_changed", is_login=True)
async def change_password(call: Call, body: PasswordChange) -> None:
    """Another password, for who knows the present one. Other logins and programs' tokens end, Sites' stay."""
    service, me = call.service, call.principal
    await call.check_login(me.username)
    user = await call.read(lambda tx: accounts.user_named(tx, me.username))
    stored = user.password_hash if user is not None else None
    if not await service.passwords.verify(stored, body.current.get_secret_value()[:MAX_PASSWORD]):
        await call.audit("password_change_failed")
        raise Forbidden("this is not the account's present password, or it has none: it logs in elsewhere")
    hashed = await hash_new(service.passwords, body.password.get_secret_value())
    await call.write(lambda tx: accounts.set_password(tx, me.user_id, hashed, me.token_id, call.now))


@routes.post("/auth/logout", needs=ANYBODY, status=204, scope=Scope.JOBS_READ, audit="logout")
async def logout(call: Call) -> None:
    """Revoke the token this call was made with; it fails from the next request on."""
    await call.write(lambda tx: accounts.logout(tx, call.principal, call.now))


@routes.get("/auth/me", needs=ANYBODY, scope=Scope.JOBS_READ)
async def who_am_i(call: Call) -> WhoAmI:
    """The account and kind behind the token."""
    return await call.read(lambda tx: accounts.who_am_i(tx, call.principal))
