"""Making a Site: a directory here and a registration at the service that belong together.

Both can't be made in one step, so the intent is written first and `.balsam-site` last (S11). Run again after an
interruption, `init_site` completes what was begun; when it fails it takes back what it made.
"""

import contextlib
import json
import shlex
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from balsam.client.credentials import SERVICE_FILE, balsam_home
from balsam.client.errors import BalsamError, Forbidden, NotFound, ServiceUnavailable, Unauthorized
from balsam.client.settings import ClientSettings
from balsam.client.transport import Transport
from balsam.platform.machines import job_template_text, settings_text
from balsam.site.directory import SiteDirectory, SiteError, SiteIdentity, write_json, write_text
from balsam.site.run import site_offer
from balsam.site.service import follow_local_service, write_credentials
from balsam.site.services.script import JobTemplate
from balsam.site.settings_file import load_settings
from balsam.wire.base import VersionReply
from balsam.wire.sites import SiteCreate, SiteCreated, SiteFilter, SitesPage, SiteToken, SiteView

JOB_TEMPLATE = "job-template.sh"
DIRECTORIES = ("data", "log", "qsubmit")
_OURS = {".balsam-site", ".balsam-init.json", "settings.yml", JOB_TEMPLATE, "credentials.json", *DIRECTORIES}
CALL_SEC = 30.0
REACH_SEC = 10.0


@dataclass(frozen=True, slots=True)
class InitializedSite:
    """A Site that is ready to be started."""

    id: int
    name: str
    path: Path


@dataclass(slots=True)
class _Intent:
    """What an interrupted init needs to go on. `registering`: the service may have registered the Site by now."""

    name: str
    url: str
    key: str
    hostname: str
    registering: bool = False


def init_site(
    path: Path,
    name: str | None = None,
    machine: str = "local",
    transport: Transport | None = None,
    step: Callable[[str], None] = lambda name: None,
) -> InitializedSite:
    """Make `path` a Site called `name` (default: the directory's name) of the service you are logged in at.

    Safe to repeat: a complete Site is left as it is, only a token the service does not accept any more is replaced.
    `machine` names the shipped settings to begin with. `step` is called between all steps (tests interrupt there).
    Raises SiteError, SettingsError, ScriptError, or what the service answers.
    """
    site = SiteDirectory(path.expanduser().resolve())
    own = transport or Transport(ClientSettings.load())
    try:
        if site.marker.exists():
            return _check_complete(site, name, own)
        # Before anything is made: the usual failure is that no service runs.
        own.request("GET", "/version", reply=VersionReply, deadline_sec=REACH_SEC)
        return _Making(site, own, step).make(name or site.root.name, machine)
    finally:
        if transport is None:
            own.close()


def _check_complete(site: SiteDirectory, name: str | None, transport: Transport) -> InitializedSite:
    identity = site.identity()
    if name is not None and name != identity.name:
        raise SiteError(f"{site.root} is the Site {identity.name!r} already; leave out the name, or take another path")
    for directory in DIRECTORIES:
        (site.root / directory).mkdir(mode=0o700, exist_ok=True)
    if not _token_works(site, identity.id):
        token = transport.request(
            "POST", f"/sites/{identity.id}/token", reply=SiteToken, safe_to_repeat=True, deadline_sec=CALL_SEC
        )
        write_credentials(site.credentials, transport.url, token.token, _followed(transport))
    return InitializedSite(identity.id, identity.name, site.root)


def _token_works(site: SiteDirectory, site_id: int) -> bool:
    try:
        follow_local_service(site.credentials)
        own = Transport(ClientSettings.load_from_file(site.credentials))
    except BalsamError:
        return False
    try:
        own.request("GET", f"/sites/{site_id}", reply=SiteView, deadline_sec=CALL_SEC)
    except (Unauthorized, Forbidden, NotFound, ServiceUnavailable):
        return False
    finally:
        own.close()
    return True


class _Making:
    """One run of init on a directory that is not a Site yet."""

    def __init__(self, site: SiteDirectory, transport: Transport, step: Callable[[str], None]) -> None:
        self._site = site
        self._transport = transport
        self._step = step
        self._made: list[Path] = []

    def make(self, name: str, machine: str) -> InitializedSite:
        template = self._site.root / JOB_TEMPLATE
        texts = {self._site.settings: settings_text(machine), template: job_template_text(machine)}
        intent = self._begin(name)
        try:
            self._fill(texts)
            created = self._register(intent)
        except (BalsamError, OSError, ValueError) as error:
            if intent.registering and isinstance(error, ServiceUnavailable):
                raise SiteError(f"{error}. Complete it later with: {self._again(intent)}") from error
            self._take_back()
            raise
        try:
            self._finish(created)
        except (BalsamError, OSError):
            self._unregister(created.site.id)
            self._take_back()
            raise
        return InitializedSite(created.site.id, created.site.name, self._site.root)

    def _begin(self, name: str) -> _Intent:
        """The intent of an interrupted run, or a new one, which is written down before the service is asked."""
        root = self._site.root
        if root.exists() and not root.is_dir():
            raise SiteError(f"{root} is a file; name a directory")
        missing = [one for one in (root, *root.parents) if not one.exists()]
        for directory in reversed(missing):
            directory.mkdir(mode=0o700)
            self._made.append(directory)
        intent = self._earlier_intent(name)
        foreign = sorted(item.name for item in root.iterdir() if not _is_ours(item.name))
        if foreign:
            raise SiteError(f"{root} is not empty (it has {foreign[0]!r}); a Site needs a new or empty directory")
        self._step("begun")
        return intent or _Intent(name, self._transport.url, self._transport.new_key(), socket.gethostname())

    def _earlier_intent(self, name: str) -> _Intent | None:
        try:
            intent = _Intent(**json.loads(self._site.intent.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise SiteError(f"{self._site.intent} can't be understood ({error}); remove {self._site.root}") from error
        if (intent.name, intent.url) != (name, self._transport.url):
            raise SiteError(
                f"{self._site.root} was begun as Site {intent.name!r} of {intent.url}; "
                f"complete it there: {self._again(intent)}"
            )
        intent.registering = True
        return intent

    def _fill(self, texts: dict[Path, str]) -> None:
        for name in DIRECTORIES:
            directory = self._site.root / name
            if not directory.exists():
                directory.mkdir(mode=0o700)
                self._made.append(directory)
        for path, text in texts.items():
            if not path.exists():
                write_text(path, text)
                self._made.append(path)
            self._step(path.name)
        JobTemplate.read(self._site.root / JOB_TEMPLATE)

    def _register(self, intent: _Intent) -> SiteCreated:
        offer = site_offer(self._site, load_settings(self._site.settings))
        if intent.registering:
            earlier = self._registered_before(intent)
            if earlier is not None:
                return earlier
        write_json(self._site.intent, asdict(intent))  # S11
        intent.registering = True
        self._step("before-register")
        # The host of the first run: a repeat must be the same request, wherever it is made.
        body = SiteCreate(name=intent.name, **{**offer.model_dump(exclude_unset=True), "hostname": intent.hostname})
        created = self._transport.request(
            "POST", "/sites", reply=SiteCreated, body=body, idempotency_key=intent.key, deadline_sec=CALL_SEC
        )
        self._step("registered")
        return created

    def _registered_before(self, intent: _Intent) -> SiteCreated | None:
        """What an interrupted run has registered: the Site of that name with this very path."""
        query = SiteFilter(name=intent.name, path=str(self._site.root))
        page = self._transport.request("GET", "/sites", reply=SitesPage, query=query, deadline_sec=CALL_SEC)
        for found in page.results:
            if (found.path, found.hostname) == (str(self._site.root), intent.hostname):
                token = self._transport.request(
                    "POST", f"/sites/{found.id}/token", reply=SiteToken, safe_to_repeat=True, deadline_sec=CALL_SEC
                )
                return SiteCreated(site=found, token=token)
        return None

    def _finish(self, created: SiteCreated) -> None:
        site = self._site
        write_credentials(site.credentials, self._transport.url, created.token.token, _followed(self._transport))
        self._step("credentials")
        identity = SiteIdentity(id=created.site.id, name=created.site.name, url=self._transport.url)
        write_json(site.marker, asdict(identity))
        self._step("marker")
        site.intent.unlink(missing_ok=True)

    def _unregister(self, site_id: int) -> None:
        with contextlib.suppress(BalsamError):
            self._transport.request("DELETE", f"/sites/{site_id}", deadline_sec=CALL_SEC)

    def _take_back(self) -> None:
        """Leave nothing half-done. What was there before this run stays: somebody may have worked on it since."""
        for path in (self._site.intent, self._site.credentials, *reversed(self._made)):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)

    def _again(self, intent: _Intent) -> str:
        return shlex.join(["balsam", "site", "init", str(self._site.root), "-n", intent.name])


def _is_ours(name: str) -> bool:
    """Files of a Site, and what writing them leaves when it is interrupted."""
    return name in _OURS or any(name.startswith(f".{own}.") for own in _OURS)


def _followed(transport: Transport) -> Path | None:
    """The file of a local service, whose address changes when it is started again."""
    source = transport.settings.source
    local = balsam_home() / SERVICE_FILE
    return local if source == local else None
