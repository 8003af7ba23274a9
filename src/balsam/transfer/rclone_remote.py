"""From the URL of a location to what rclone wants to know of it, in its environment.

Secrets are read from files when rclone is started, so a new password is taken up without a restart.
"""

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from balsam.transfer.base import PeerRefused
from balsam.transfer.program import missing
from balsam.transfer.rsync import SshAddress, url_options

_NAME = "BALSAM"
_TWIN = "BALSAMTWIN"
_OBSCURE_SEC = 20


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote of rclone's. `settings` are its own; `secrets` those that are in files, with how each is read."""

    name: str
    path: str
    settings: Mapping[str, str]
    secrets: Mapping[str, tuple[Path, Callable[[str], str]]]
    config: str = "/dev/null"
    push_problem: str = ""
    can_rename: bool = False
    shows_whole: bool = False  # what is not whole has no name there
    rename_replaces: bool = False  # WebDAV's MOVE puts a file in the place of a directory and all that is in it

    @property
    def target(self) -> str:
        return f"{self.name}:{self.path}"

    @property
    def twin_target(self) -> str:
        """The same by another name: rclone moves nothing within what it takes for one remote."""
        return f"{_TWIN}:{self.path}"

    def below(self, place: str) -> str:
        return f"{self.target.rstrip('/')}/{place}" if self.path else f"{self.target}{place}"

    def environment(self) -> dict[str, str]:
        """Raises PeerRefused when a secret can't be read."""
        found = {"RCLONE_CONFIG": self.config}
        if bundle := os.environ.get("AWS_CA_BUNDLE"):  # rclone fails with it, and has a setting of its own
            found |= {"AWS_CA_BUNDLE": "", "RCLONE_CA_CERT": os.environ.get("RCLONE_CA_CERT", bundle)}
        settings = dict(self.settings)
        for key, (path, as_wanted) in self.secrets.items():
            try:
                secret = path.read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                raise PeerRefused(f"{path} can't be read: {error}", is_final=False) from None
            settings[key] = as_wanted(secret)
        names = (self.name, _TWIN) if self.can_rename else (self.name,)
        return found | {f"RCLONE_CONFIG_{name}_{key}": value for name in names for key, value in settings.items()}


def _obscured(secret: str) -> str:
    """rclone takes passwords in this form only; it hides them from a glance, not from anybody else."""
    try:
        done = subprocess.run(
            ["rclone", "obscure", "-"], input=secret, capture_output=True, text=True, timeout=_OBSCURE_SEC, check=True
        )
    except FileNotFoundError:
        raise missing("rclone") from None
    except subprocess.SubprocessError as error:
        raise PeerRefused(f"rclone can't take the password: {error}", is_final=False) from None
    return done.stdout.strip()


def _sftp(url: str) -> Remote:
    address = SshAddress.parse(url)
    if not address.identity_file:
        raise ValueError(f"{url!r} needs the file of a key: ?identity_file=/path")
    known_hosts = address.known_hosts or str(Path("~/.ssh/known_hosts").expanduser())
    settings = {
        "TYPE": "sftp",
        "HOST": address.host,
        "USER": address.user,
        "PORT": str(address.port or 22),
        "KEY_FILE": address.identity_file,
        "KNOWN_HOSTS_FILE": known_hosts,
        "SET_MODTIME": "false",
    }
    return Remote(_NAME, address.path, {key: value for key, value in settings.items() if value}, {}, can_rename=True)


def _s3(url: str) -> Remote:
    parts = _without_password(url)
    options = url_options(url, ("endpoint", "region", "profile", "credentials_file"))
    if not parts.hostname:
        raise ValueError(f"{url!r} must have the form s3://BUCKET/PREFIX")
    settings = {"TYPE": "s3", "PROVIDER": "Other" if "endpoint" in options else "AWS", "ENV_AUTH": "true"}
    settings |= {"NO_CHECK_BUCKET": "true", "REGION": options.get("region", ""), "PROFILE": options.get("profile", "")}
    settings |= {"ENDPOINT": options.get("endpoint", "")}
    if "credentials_file" in options:
        settings["SHARED_CREDENTIALS_FILE"] = _file(url, options["credentials_file"])
    path = f"{parts.netloc}{unquote(parts.path)}".rstrip("/")
    return Remote(_NAME, path, {key: value for key, value in settings.items() if value}, {}, shows_whole=True)


def _webdav(url: str) -> Remote:
    parts = _without_password(url)
    options = url_options(url, ("password_file", "token_file", "vendor"))
    settings = {"TYPE": "webdav", "URL": _web_address(url, parts, "https" if parts.scheme == "webdavs" else "http")}
    settings |= {"VENDOR": options.get("vendor", "other"), **({"USER": parts.username} if parts.username else {})}
    secrets: dict[str, tuple[Path, Callable[[str], str]]] = {}
    if "password_file" in options:
        secrets["PASS"] = (Path(_file(url, options["password_file"])), _obscured)
    if "token_file" in options:
        secrets["BEARER_TOKEN"] = (Path(_file(url, options["token_file"])), str)
    return Remote(_NAME, "", settings, secrets, can_rename=True, rename_replaces=True)


def _http(url: str) -> Remote:
    parts = _without_password(url)
    options = url_options(url, ("token_file",))
    settings = {"TYPE": "http", "URL": _web_address(url, parts, parts.scheme)}
    secrets: dict[str, tuple[Path, Callable[[str], str]]] = {}
    if "token_file" in options:
        secrets["HEADERS"] = (Path(_file(url, options["token_file"])), "Authorization,Bearer {}".format)
    return Remote(_NAME, "", settings, secrets, push_problem="not supported: http: and https: locations are only read")


def _configured(url: str) -> Remote:
    parts = _without_password(url)
    options = url_options(url, ("config",))
    name = parts.netloc
    if not name.replace("_", "").replace("-", "").isalnum() or name.startswith("-"):
        raise ValueError(f"{url!r} must have the form rclone://REMOTE/PATH, with a remote of rclone's configuration")
    config = (
        _file(url, options["config"]) if "config" in options else str(Path("~/.config/rclone/rclone.conf").expanduser())
    )
    return Remote(name, unquote(parts.path).rstrip("/"), {}, {}, config=config)


REMOTES: Mapping[str, Callable[[str], Remote]] = {
    "sftp": _sftp,
    "s3": _s3,
    "webdav": _webdav,
    "webdavs": _webdav,
    "http": _http,
    "https": _http,
    "rclone": _configured,
}


def _without_password(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.password is not None:
        raise ValueError(f"{parts.scheme}: has a password in it; put it into a file and name that, as the guide says")
    return parts


def _web_address(url: str, parts: SplitResult, scheme: str) -> str:
    if not parts.hostname:
        raise ValueError(f"{url!r} must have the form {parts.scheme}://HOST[:PORT]/PATH")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{scheme}://{host}{port}{parts.path.rstrip('/')}/"


def _file(url: str, path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"{url!r}: {path!r} must be an absolute path")
    return path
