"""Client: one service with one token, and the model classes that belong to it.

`balsam.api` uses the default client, which is made when it is first needed. Programs that talk to several services make
their own: `Client(ClientSettings(url, token)).Job.objects.all()`.
"""

import os
import threading
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, cast

from balsam.client.model import Model
from balsam.client.models.app import App, AppDirectory
from balsam.client.models.job import Job
from balsam.client.models.site import Site
from balsam.client.origin import OriginKey
from balsam.client.settings import ClientSettings
from balsam.domain.clock import Clock

if TYPE_CHECKING:
    from balsam.client.collector import Collector
    from balsam.client.models.application import ApplicationDefinition
    from balsam.client.models.batch_job import BatchJob
    from balsam.client.models.event import EventLog
    from balsam.client.models.session import Session
    from balsam.client.models.transfer import TransferItem
    from balsam.client.transport import Transport
    from balsam.client.watcher import Watcher
    from balsam.wire.auth import UserView, WhoAmI
    from balsam.wire.base import VersionReply

M = TypeVar("M", bound=Model)


class Client:
    """Access to one service. Threads may share it, forked children may go on using it.

    >>> client = Client(ClientSettings(url="http://127.0.0.1:8000", token="blsm_user_x"))
    >>> client.Job.objects.filter(state="RUNNING")
    <Job query: state='RUNNING'>
    """

    def __init__(
        self,
        settings: ClientSettings | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        *,
        transport: "Transport | None" = None,
    ) -> None:
        """Settings default to this user's, see ClientSettings.load; raises NotConfigured when there are none."""
        self.transport: Transport = transport or _transport(settings or ClientSettings.load(), clock, random)
        self.apps = AppDirectory(self)
        self._bound: dict[type[Any], type[Any]] = {}
        self._sites: dict[str, int] = {}
        self._pythons: dict[int, str | None] = {}
        self._watcher: Watcher | None = None
        self._collector: Collector | None = None
        self.origin = OriginKey()

    @property
    def settings(self) -> ClientSettings:
        """Address and token, as they are now."""
        return self.transport.settings

    @property
    def url(self) -> str:
        """Address of the service."""
        return self.transport.url

    @property
    def Job(self) -> type[Job]:  # noqa: N802 - it is a class
        return self.bound(Job)

    @property
    def Site(self) -> type[Site]:  # noqa: N802
        return self.bound(Site)

    @property
    def App(self) -> type[App]:  # noqa: N802
        return self.bound(App)

    @property
    def BatchJob(self) -> "type[BatchJob]":  # noqa: N802
        from balsam.client.models.batch_job import BatchJob

        return self.bound(BatchJob)

    @property
    def Session(self) -> "type[Session]":  # noqa: N802
        from balsam.client.models.session import Session

        return self.bound(Session)

    @property
    def TransferItem(self) -> "type[TransferItem]":  # noqa: N802
        from balsam.client.models.transfer import TransferItem

        return self.bound(TransferItem)

    @property
    def EventLog(self) -> "type[EventLog]":  # noqa: N802
        from balsam.client.models.event import EventLog

        return self.bound(EventLog)

    @property
    def ApplicationDefinition(self) -> "type[ApplicationDefinition]":  # noqa: N802
        """Base for Apps of this client."""
        from balsam.client.models.application import ApplicationDefinition

        return cast("type[ApplicationDefinition]", self._bind(ApplicationDefinition))

    def bound(self, base: type[M]) -> type[M]:
        """The model class that works on this client's service.

        >>> default_client().bound(Job).objects.get(id=job.id) == job
        True
        """
        return cast("type[M]", self._bind(base))

    def _bind(self, base: type[Any]) -> type[Any]:
        if base not in self._bound:
            new: Any = type(base)
            place = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
            self._bound[base] = new(base.__name__, (base,), place, bound_to=self)
        return self._bound[base]

    @property
    def watcher(self) -> "Watcher":
        """What waits for Jobs."""
        if self._watcher is None:
            from balsam.client.watcher import Watcher

            self._watcher = Watcher(self)
        return self._watcher

    @property
    def collector(self) -> "Collector":
        """What brings results home; a forked child has one of its own."""
        if self._collector is None or self._collector.pid != os.getpid():
            from balsam.client.collector import Collector

            self._collector = Collector(self)
        return self._collector

    def watcher_epoch(self) -> int | None:
        """The connection of the Jobs stream; None while there is none. Starts nothing.

        >>> Client(ClientSettings(url="http://127.0.0.1:8000")).watcher_epoch() is None
        True
        """
        return None if self._watcher is None else self._watcher.epoch

    def site_id(self, name: str) -> int:
        """The id of the Site of this name, looked up once. Raises ValidationFailed that names the nearest.

        >>> default_client().site_id(site.name) == site.id
        True
        """
        if name not in self._sites:
            from balsam.client.registration import site_id_of

            self._sites[name] = site_id_of(self, name)
        return self._sites[name]

    def python_of(self, site_id: int) -> str | None:
        """major.minor of the Python that runs Apps at the Site, looked up until it is known; None: nobody has told.

        >>> default_client().python_of(site.id) == site.python
        True
        """
        if self._pythons.get(site_id) is None:
            found = self.Site.objects.filter(id=[site_id])
            self._pythons[site_id] = next((site.python for site in found), None)
        return self._pythons[site_id]

    def forget_names(self) -> None:
        """Look Sites and Apps up again when they are next needed.

        >>> default_client().forget_names()
        """
        self._sites.clear()
        self._pythons.clear()
        self.apps.forget()

    def version(self) -> "VersionReply":
        """Which service answers, and which wire versions it speaks.

        >>> reply = default_client().version()
        >>> reply.wire_min <= 1 <= reply.wire_max
        True
        """
        from balsam.wire.base import VersionReply

        return self.transport.request("GET", "/version", reply=VersionReply, deadline_sec=10.0)

    def who_am_i(self) -> "WhoAmI":
        """The account behind the token. Raises Unauthorized.

        >>> default_client().who_am_i().username == site.owner
        True
        """
        from balsam.wire.auth import WhoAmI

        return self.transport.request("GET", "/auth/me", reply=WhoAmI, deadline_sec=10.0)

    def create_user(self, username: str, password: str, *, is_admin: bool = False) -> "UserView":
        """Create a password account; only an administrator may. Raises Forbidden, Conflict, ValidationFailed.

        >>> default_client().create_user("grace", "a long pass phrase").username
        'grace'
        """
        from balsam.client.values import checked
        from balsam.wire.auth import UserCreate, UserView

        fields = {"username": username, "password": password, "is_admin": is_admin}
        body = checked(UserCreate, "", fields)
        secret = body.model_dump() | {"password": body.password.get_secret_value()}
        # Not repeated after an unclear end: the service keeps no hash of a password, and would find the name taken.
        return self.transport.request("POST", "/users", body=_json(secret), reply=UserView)

    def close(self) -> None:
        """Stop waiting and close the connections.

        >>> client = Client()
        >>> client.close()
        """
        if self._watcher is not None:
            self._watcher.close()
        if self._collector is not None:
            self._collector.close()
        self.transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return client_for, (self.settings,)


def _transport(settings: ClientSettings, clock: Clock | None, random: Random | None) -> "Transport":
    # Only now: a program that imports balsam.api and never calls the service needs no HTTP and no TLS.
    from balsam.client.transport import Transport

    return Transport(settings, clock, random)


def _json(content: dict[str, Any]) -> bytes:
    import json

    return json.dumps(content).encode()


_lock = threading.Lock()
_default: tuple[tuple[str | None, ...], Client] | None = None
_by_settings: dict[tuple[str, str], Client] = {}
_PLACES = ("BALSAM_URL", "BALSAM_TOKEN", "BALSAM_CLIENT_PATH", "BALSAM_HOME", "HOME")


def default_client() -> Client:
    """The client of this user's settings, made at first use; another one when the environment names other settings.

    Raises NotConfigured when no service is known, saying what to do.

    >>> default_client() is default_client()
    True
    """
    global _default
    places = tuple(os.environ.get(name) for name in _PLACES)
    current = _default
    if current is None or current[0] != places:
        made = Client()
        with _lock:
            if _default is None or _default[0] != places:
                _default = (places, made)
            current = _default
    return current[1]


def client_for(settings: ClientSettings) -> Client:
    """The client of this process for these settings: the default one, one made before, or a new one."""
    if _default is not None and _default[1].settings == settings:
        return _default[1]
    key = (settings.url, settings.token)
    with _lock:
        if key not in _by_settings:
            _by_settings[key] = Client(settings)
        return _by_settings[key]


def _new_lock_in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock_in_child)
