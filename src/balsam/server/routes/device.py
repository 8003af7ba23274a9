"""Logging a program in through a browser elsewhere (RFC 8628): the program's side. The person's side is login_pages."""

import secrets
from datetime import timedelta

from balsam.domain.scopes import Scope
from balsam.server.auth import tokens
from balsam.server.auth.needs import OPEN
from balsam.server.errors import NotFound
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.store.protocol import Tx
from balsam.server.usecases import logins
from balsam.wire.auth import DeviceAsk, DeviceLogin, DevicePoll, Login

routes = Routes("accounts", reads=Scope.ALL, writes=Scope.ALL)
LOGIN_BYTES = 65_536
# Without vowels, no words come about; without digits, nothing is misread. 20^8 codes.
ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"


@routes.post("/auth/device", needs=OPEN, body_limit=LOGIN_BYTES, is_login=True)
async def begin_device_login(call: Call, body: DeviceAsk) -> DeviceLogin:
    """Begin a login that a person completes in a browser, on whatever machine. At most 20 a minute from one address."""
    service = call.service
    if service.providers is None:
        raise NotFound
    await call.check_login("")
    device_code, user_code = secrets.token_urlsafe(32), new_user_code()
    url, client, address = service.providers.login_url, body.client, call.address
    return await call.write(lambda tx: logins.begin(tx, device_code, user_code, client, address, url, call.now))


@routes.post("/auth/device/token", needs=OPEN, body_limit=LOGIN_BYTES)
async def collect_device_login(call: Call, body: DevicePoll) -> Login:
    """The token of a login that was approved, once. Until then 400: `authorization_pending`, `slow_down`,
    `access_denied`, `expired_token`."""
    secret, expires_at = tokens.mint("user"), call.now + timedelta(days=call.service.settings.token_days)
    device_code = body.device_code.get_secret_value()

    def collect(tx: Tx) -> Login | str:
        return logins.collect(tx, device_code, secret, expires_at, call.now)

    found = await call.write(collect)
    if isinstance(found, str):
        raise logins.refused(found)
    return found


def new_user_code() -> str:
    """Eight letters for a person to compare, as in BCDF-GHJK."""
    letters = "".join(secrets.choice(ALPHABET) for _ in range(8))
    return f"{letters[:4]}-{letters[4:]}"
