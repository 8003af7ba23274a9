"""Logging in and out, and the accounts an administrator makes."""

from datetime import timedelta

from pydantic import RootModel

from balsam.domain.scopes import Scope
from balsam.server.auth import tokens
from balsam.server.auth.needs import ADMIN, ANYBODY, OPEN
from balsam.server.auth.passwords import MAX_PASSWORD, MIN_PASSWORD
from balsam.server.errors import Invalid, Unauthenticated
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.store.protocol import Wake
from balsam.server.usecases import accounts
from balsam.wire.auth import AuthMethods, Login, PasswordLogin, UserCreate, UserView, WhoAmI
from balsam.wire.base import ErrorDetail

routes = Routes("accounts", reads=Scope.ALL, writes=Scope.ALL)
LOGIN_BYTES = 65_536


class Users(RootModel[list[UserView]]):
    """All accounts."""


@routes.get("/auth/methods", needs=OPEN)
async def auth_methods(call: Call) -> AuthMethods:
    """How a person can log in here; `local` is the file that only the Unix user who runs the service can read."""
    return AuthMethods(methods=["password", "local"] if call.service.settings.is_single_user else ["password"])


@routes.post("/auth/login", needs=OPEN, body_limit=LOGIN_BYTES)
async def login(call: Call, body: PasswordLogin) -> Login:
    """Exchange a password for a token; at most 5 tries a minute per account and 20 per address."""
    service = call.service
    service.logins.check(body.username, call.address, service.clock.monotonic())
    await service.store.tell(Wake("logins", 0, "tried", {"username": body.username, "address": call.address}))
    user = await call.read(lambda tx: accounts.user_named(tx, body.username))
    password = body.password.get_secret_value()
    stored = user.password_hash if user is not None else None
    right = len(password) <= MAX_PASSWORD and await service.passwords.verify(stored, password)
    if user is None or not right:
        raise Unauthenticated("wrong user name or password")
    secret, expires_at = tokens.mint("user"), call.now + timedelta(days=service.settings.token_days)
    return await call.write(lambda tx: accounts.issue_user_token(tx, user.id, secret, expires_at, "login", call.now))


@routes.post("/auth/logout", needs=ANYBODY, status=204, scope=Scope.JOBS_READ)
async def logout(call: Call) -> None:
    """Revoke the token this call was made with; it fails from the next request on."""
    await call.write(lambda tx: accounts.logout(tx, call.principal, call.now))


@routes.get("/auth/me", needs=ANYBODY, scope=Scope.JOBS_READ)
async def who_am_i(call: Call) -> WhoAmI:
    """The account and kind behind the token."""
    return await call.read(lambda tx: accounts.who_am_i(tx, call.principal))


@routes.post("/users", needs=ADMIN, status=201, body_limit=LOGIN_BYTES)
async def create_user(call: Call, body: UserCreate) -> UserView:
    """Make a password account. No Idempotency-Key: a kept hash of this body would be a weak hash of a password."""
    password = body.password.get_secret_value()
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        message = f"must have {MIN_PASSWORD} to {MAX_PASSWORD} characters"
        raise Invalid([ErrorDetail(where="password", message=message)])
    hashed = await call.service.passwords.hash(password)
    return await call.write(
        lambda tx: accounts.create_user(tx, call.principal, body.username, hashed, body.is_admin, call.now)
    )


@routes.get("/users", needs=ADMIN)
async def list_users(call: Call) -> Users:
    """All accounts."""
    return Users(await call.read(lambda tx: accounts.list_users(tx, call.principal)))
