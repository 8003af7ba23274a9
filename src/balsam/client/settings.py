"""Where the service is, with which token, and how long to be patient.

`ClientSettings.load()` looks, in this order, at BALSAM_URL + BALSAM_TOKEN, the file `$BALSAM_CLIENT_PATH`,
`$BALSAM_HOME/client.yml` (written by `balsam login`) and `$BALSAM_HOME/service.json` (written by a local service).
BALSAM_RETRY_FOR_SEC sets the patience.
Settings that came from a file can be read again: a local service that was restarted has another port and token.
"""

import os
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from balsam.client.credentials import CLIENT_FILE, SERVICE_FILE, balsam_home, read_mapping, write_secret_file
from balsam.client.errors import CredentialsError, NotConfigured

if TYPE_CHECKING:
    from balsam.client.client import Client

ALLOW_PLAIN_HTTP = "BALSAM_ALLOW_PLAIN_HTTP"
RETRY_FOR_SEC = "BALSAM_RETRY_FOR_SEC"
NO_SERVICE = (
    "no Balsam service is configured: start one here with `balsam up`, or log in to one with `balsam login URL` "
    "(looked at BALSAM_URL + BALSAM_TOKEN, BALSAM_CLIENT_PATH, {home}/client.yml, {home}/service.json)"
)


@dataclass(frozen=True)
class ClientSettings:
    """Address, token and patience of a client. Immutable; times in seconds.

    `retry_for_sec`: how long a call without a deadline of its own is repeated while the service can't be reached.
    `source`: the file it came from, read again when the service refuses the connection or the token. `api_root` is
    Balsam's name of `url`.

    >>> ClientSettings(url="http://127.0.0.1:8000/", token="blsm_user_x").url
    'http://127.0.0.1:8000'

    Raises NotConfigured for an address that is none, or that would send the token unencrypted over a network.
    """

    url: str = ""
    token: str = field(default="", repr=False)
    connect_timeout_sec: float = 6.2
    read_timeout_sec: float = 120.0
    retry_for_sec: float = 1800.0
    source: Path | None = None
    api_root: InitVar[str | None] = None

    def __post_init__(self, api_root: str | None) -> None:
        object.__setattr__(self, "url", normal_url(self.url or api_root or ""))

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> "ClientSettings":
        """The settings of this user on this machine.

        Raises NotConfigured when there are none, CredentialsError when a file can't be trusted.

        >>> ClientSettings.load({"BALSAM_URL": "https://balsam.example.org", "BALSAM_TOKEN": "blsm_user_x"}).url
        'https://balsam.example.org'
        """
        environ = os.environ if environ is None else environ
        found = cls._found(environ)
        return replace(found, retry_for_sec=_patience_sec(environ, found.retry_for_sec))

    @classmethod
    def _found(cls, environ: Mapping[str, str]) -> "ClientSettings":
        from_environment = _from_environment(environ)
        if from_environment is not None:
            return from_environment
        home = balsam_home(environ)
        explicit = environ.get("BALSAM_CLIENT_PATH")
        if explicit:
            return cls.load_from_file(Path(explicit).expanduser())
        for path in (home / CLIENT_FILE, home / SERVICE_FILE):
            found = _from_file(path)
            if found is not None:
                return found
        raise NotConfigured(NO_SERVICE.format(home=home))

    @classmethod
    def load_from_file(cls, path: Path | None = None) -> "ClientSettings":
        """The settings in one file; without a path those of this user, as `load` finds them.

        Raises NotConfigured when there are none.

        >>> settings = ClientSettings("http://127.0.0.1:8000", "blsm_user_x")
        >>> path = settings.save_to_file(scratch / "one.yml")
        >>> ClientSettings.load_from_file(path).url
        'http://127.0.0.1:8000'
        """
        if path is None:
            return cls.load()
        found = _from_file(path)
        if found is None:
            raise NotConfigured(f"{path} does not exist; log in with `balsam login URL`, or start `balsam up`")
        return found

    def save_to_file(self, path: Path | None = None, *, username: str = "", expires_at: str = "") -> Path:
        """Write address and token with mode 0600 (default: `$BALSAM_HOME/client.yml`) and return the path.

        >>> settings = ClientSettings("http://127.0.0.1:8000", "blsm_user_x")
        >>> path = settings.save_to_file(scratch / "two.yml")
        >>> oct(path.stat().st_mode & 0o777)
        '0o600'
        """
        import yaml

        path = balsam_home() / CLIENT_FILE if path is None else path
        content = {"url": self.url, "token": self.token, "username": username, "expires_at": expires_at}
        write_secret_file(path, yaml.safe_dump({key: value for key, value in content.items() if value}))
        return path

    def reloaded(self) -> "ClientSettings | None":
        """What the source says now, or None when it says nothing new.

        >>> ClientSettings("http://127.0.0.1:8000", "blsm_user_x").reloaded() is None
        True
        """
        if self.source is None:
            return None
        try:
            found = _from_file(self.source)
        except (CredentialsError, NotConfigured):  # half gone while the service restarts; the old ones stay
            return None
        if found is None or (found.url, found.token) == (self.url, self.token):
            return None
        return replace(self, url=found.url, token=found.token)

    def build_client(self) -> "Client":
        """A client of its own for these settings: `settings.build_client().Job.objects.all()`.

        >>> ClientSettings(url="http://127.0.0.1:8000", token="blsm_user_x").build_client().url
        'http://127.0.0.1:8000'
        """
        from balsam.client.client import Client

        return Client(self)


def normal_url(url: str) -> str:
    """The address without trailing slash. Raises NotConfigured for one that can't be used."""
    try:
        parts = urlsplit(url.strip())
        parts.port  # noqa: B018 - the property checks the number
    except ValueError as error:
        raise NotConfigured(f"{url!r} is no address of a service: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise NotConfigured(f"{url!r} is no address of a service; it looks like https://balsam.example.org")
    if parts.scheme == "http" and not is_loopback(parts.hostname) and os.environ.get(ALLOW_PLAIN_HTTP) != "1":
        raise NotConfigured(
            f"{url} would carry the token unencrypted over the network; use https, "
            f"or set {ALLOW_PLAIN_HTTP}=1 where the network itself is protected"
        )
    return _join(parts)


def is_loopback(host: str) -> bool:
    """Whether a host name means this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _join(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}".removesuffix("/api")


def _from_environment(environ: Mapping[str, str]) -> ClientSettings | None:
    url, token = environ.get("BALSAM_URL", ""), environ.get("BALSAM_TOKEN", "")
    if not url and not token:
        return None
    if not url or not token:
        there, missing = ("BALSAM_URL", "BALSAM_TOKEN") if url else ("BALSAM_TOKEN", "BALSAM_URL")
        raise NotConfigured(f"{there} is set and {missing} is not; set both, or none to use the files")
    return ClientSettings(url=url, token=token)


def _patience_sec(environ: Mapping[str, str], default: float) -> float:
    text = environ.get(RETRY_FOR_SEC)
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise NotConfigured(f"{RETRY_FOR_SEC} is {text!r}; it must be a number of seconds, 0 or more")
    return seconds


def _from_file(path: Path) -> ClientSettings | None:
    content = read_mapping(path)
    if content is None:
        return None
    url, token = _text(content, "url"), _text(content, "token")
    if not url and "api_root" in content:
        raise CredentialsError(f"{path} is of Balsam 0.7, whose tokens mean nothing here; run `balsam login URL`")
    if not url or not token:
        raise CredentialsError(f"{path} has no {'token' if url else 'url'}; remove it and run `balsam login URL`")
    return ClientSettings(url=url, token=token, source=path)


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    return value if isinstance(value, str) else ""
