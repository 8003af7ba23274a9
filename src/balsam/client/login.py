"""Logging in to a service and out again, with a password or through a browser; the token is kept in
`$BALSAM_HOME/client.yml` (0600)."""

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from balsam.client.credentials import CLIENT_FILE, SERVICE_FILE, balsam_home, read_mapping
from balsam.client.errors import BalsamError, NotFound, ServiceUnavailable, Unauthorized
from balsam.client.settings import ClientSettings
from balsam.client.transport import Transport
from balsam.client.values import checked
from balsam.wire.auth import AuthMethods, DeviceAsk, DeviceLogin, Login, PasswordLogin, WhoAmI

DEADLINE_SEC = 30.0
SLOWER_SEC = 5.0  # RFC 8628: after each slow_down


@dataclass(frozen=True, slots=True)
class KeptLogin:
    """The login in `$BALSAM_HOME/client.yml`, or in `service.json` beside it."""

    settings: ClientSettings

    @property
    def url(self) -> str:
        """Address of the service."""
        return self.settings.url

    def check(self) -> Login | None:
        """Whose it is and until when; None when the service does not take it any more. Raises ServiceUnavailable."""
        transport = Transport(self.settings)
        try:
            me = transport.request("GET", "/auth/me", reply=WhoAmI, deadline_sec=DEADLINE_SEC)
        except Unauthorized:
            return None
        finally:
            transport.close()
        content = read_mapping(balsam_home() / CLIENT_FILE) or {}
        fields = {"token": self.settings.token, "username": me.username, "expires_at": content.get("expires_at")}
        return checked(Login, "client.yml", fields)


def kept_login() -> KeptLogin | None:
    """The login that is kept here, else that of a local service, which needs none; None without both.

    Raises CredentialsError when the file can't be trusted.
    """
    paths = [path for name in (CLIENT_FILE, SERVICE_FILE) if (path := balsam_home() / name).exists()]
    return KeptLogin(ClientSettings.load_from_file(paths[0])) if paths else None


def log_in(url: str, username: str, password: str) -> Login:
    """Get a token for this account and keep it. Raises Unauthorized for a wrong name or password."""
    checked(PasswordLogin, "", {"username": username, "password": password})
    settings = ClientSettings(url=url)
    transport = Transport(settings)
    try:
        body = _password_body(username, password)
        done = transport.request("POST", "/auth/login", body=body, reply=Login, deadline_sec=DEADLINE_SEC)
    except (Unauthorized, NotFound) as error:
        raise Unauthorized(f"{url} does not accept this name and password: {str(error).splitlines()[0]}") from None
    finally:
        transport.close()
    _keep(url, done)
    return done


def _keep(url: str, done: Login) -> None:
    expires_at = "" if done.expires_at is None else done.expires_at.isoformat()
    ClientSettings(url=url, token=done.token).save_to_file(username=done.username, expires_at=expires_at)


def auth_methods(url: str) -> AuthMethods:
    """How a person can log in at the service. Raises ServiceUnavailable."""
    transport = Transport(ClientSettings(url=url))
    try:
        return transport.request("GET", "/auth/methods", reply=AuthMethods, deadline_sec=DEADLINE_SEC)
    finally:
        transport.close()


def log_in_by_browser(url: str, tell: Callable[[DeviceLogin], None]) -> Login:
    """Get a token through a browser on whatever machine, and keep it (RFC 8628).

    `tell` is called once with the address and the code for the person. Raises Unauthorized when it was refused, or when
    nobody said yes in five minutes.
    """
    transport = Transport(ClientSettings(url=url))
    try:
        ask = DeviceAsk(client=f"balsam on {socket.gethostname()}"[:256])
        begun = transport.request("POST", "/auth/device", body=ask, reply=DeviceLogin, deadline_sec=DEADLINE_SEC)
        tell(begun)
        done = _until_approved(transport, begun)
    finally:
        transport.close()
    _keep(url, done)
    return done


def _until_approved(transport: Transport, begun: DeviceLogin) -> Login:
    body = json.dumps({"device_code": begun.device_code}).encode()
    pause_sec, until = float(begun.interval_sec), time.monotonic() + begun.expires_in_sec
    while time.monotonic() < until:
        time.sleep(pause_sec)
        try:
            return transport.request("POST", "/auth/device/token", body=body, reply=Login, deadline_sec=DEADLINE_SEC)
        except ServiceUnavailable:
            continue
        except BalsamError as error:
            if error.code == "slow_down":
                pause_sec += SLOWER_SEC
            elif error.code != "authorization_pending":
                raise Unauthorized(f"not logged in: {str(error).splitlines()[0]}") from None
    raise Unauthorized("not logged in: nobody said yes in the browser in time; begin anew")


def change_password(transport: Transport, current: str, password: str) -> None:
    """Another password for the account. Raises Forbidden for a wrong present one, ValidationFailed for a weak one."""
    body = json.dumps({"current": current, "password": password}).encode()
    transport.request("POST", "/auth/password", body=body, deadline_sec=DEADLINE_SEC)


def log_out() -> str:
    """Revoke the token at the service and forget it here. Returns the service's address, empty when there was none."""
    path = balsam_home() / CLIENT_FILE
    if not path.exists():
        return ""
    settings = ClientSettings.load_from_file(path)
    transport = Transport(settings)
    try:
        transport.request("POST", "/auth/logout", safe_to_repeat=True, deadline_sec=DEADLINE_SEC)
    except Unauthorized:  # it was revoked or had expired
        return settings.url
    finally:
        transport.close()
        path.unlink(missing_ok=True)
    return settings.url


def _password_body(username: str, password: str) -> bytes:
    """The message holds the password as a secret, which prints as stars; here it is meant to be sent."""
    return json.dumps({"username": username, "password": password}).encode()
