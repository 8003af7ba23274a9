"""Logging in to a service and out again: a password for a token, which is kept in `$BALSAM_HOME/client.yml` (0600)."""

from dataclasses import dataclass

from balsam.client.credentials import CLIENT_FILE, balsam_home, read_mapping
from balsam.client.errors import NotFound, Unauthorized
from balsam.client.settings import ClientSettings
from balsam.client.transport import Transport
from balsam.client.values import checked
from balsam.wire.auth import Login, PasswordLogin, WhoAmI

DEADLINE_SEC = 30.0


@dataclass(frozen=True, slots=True)
class KeptLogin:
    """The login in `$BALSAM_HOME/client.yml`."""

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
    """The login that is kept here; None when there is none. Raises CredentialsError when the file can't be trusted."""
    path = balsam_home() / CLIENT_FILE
    return KeptLogin(ClientSettings.load_from_file(path)) if path.exists() else None


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
    expires_at = "" if done.expires_at is None else done.expires_at.isoformat()
    ClientSettings(url=url, token=done.token).save_to_file(username=done.username, expires_at=expires_at)
    return done


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
    import json

    return json.dumps({"username": username, "password": password}).encode()
