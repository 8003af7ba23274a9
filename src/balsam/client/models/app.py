"""App: a registered application as the service has it, and how a Job's `app_id` is found out.

Users define `ApplicationDefinition` classes; this is the row behind one.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Unpack, overload

from balsam.client.errors import MultipleObjectsReturned, NotFound, Problem, ValidationFailed
from balsam.client.fields import INSTANT, Field, Write
from balsam.client.model import Model
from balsam.client.objects import Manager, Objects
from balsam.client.values import checked, nearest
from balsam.wire.kinds import APP_FIELDS

if TYPE_CHECKING:
    from balsam.client.client import Client
    from balsam.client.query import Query
    from balsam.client.signatures import AppFilters
    from balsam.wire.apps import AppSync, AppView
    from balsam.wire.base import Message


class AppManager(Manager["App"]):
    """Filters: id, site_id, name, site_name, site_path (a part of it).

    >>> App.objects.filter(site_id=site.id, name__startswith="Hel").count()
    1
    """

    path = "/apps"
    plain_lists: ClassVar[Mapping[str, type]] = dict.fromkeys(("id", "site_id"), int)
    plain_values: ClassVar[Mapping[str, type]] = dict.fromkeys(("name", "site_name", "site_path"), str)
    lookups = APP_FIELDS

    if TYPE_CHECKING:  # the names of the filters, for editors; any look-up may come beside them

        @overload
        def filter(self, **filters: Unpack["AppFilters"]) -> Query["App"]: ...
        @overload
        def filter(self, **filters: Any) -> Query["App"]: ...
        def filter(self, **filters: Any) -> Query["App"]: ...
        @overload
        def get(self, **filters: Unpack["AppFilters"]) -> "App": ...
        @overload
        def get(self, **filters: Any) -> "App": ...
        def get(self, **filters: Any) -> "App": ...

    @staticmethod
    def _filter_type() -> "type[Message]":
        from balsam.wire.apps import AppFilter

        return AppFilter

    def _create(self, instance: "App") -> None:
        raise TypeError("an App is registered by its class: class MyApp(ApplicationDefinition): ...; MyApp.sync()")


class App(Model):
    """A registered application. Read only: change the class and `sync` it.

    >>> App.objects.get(name="Hello", site_name="local").command_template
    'echo Hello, {{ name }}'
    """

    site_id = Field[int](None, write=Write.NEVER)
    name = Field[str](None, write=Write.NEVER)
    command_template = Field[str | None](None, write=Write.NEVER)
    parameters = Field[dict[str, dict[str, Any]]]({}, write=Write.NEVER)
    environment_variables = Field[dict[str, str]]({}, write=Write.NEVER)
    transfers = Field[dict[str, dict[str, Any]]]({}, write=Write.NEVER)
    cleanup_files = Field[list[str]]([], write=Write.NEVER)
    hooks = Field[list[str]]([], write=Write.NEVER)
    monitors = Field[dict[str, dict[str, Any]]]({}, write=Write.NEVER)
    code = Field[dict[str, Any] | None](None, write=Write.NEVER)
    description = Field[str]("", write=Write.NEVER)
    source_code = Field[str]("", write=Write.NEVER)
    content_hash = Field[str](None, write=Write.NEVER)
    synced_at = Field[datetime](None, write=Write.NEVER, parse=INSTANT)
    synced_by = Field[str](None, write=Write.NEVER)

    objects = Objects(AppManager)
    _shown = ("id", "name", "site_id")
    _columns = (*_shown, "command_template", "description", "synced_at")


class AppDirectory:
    """Apps that one client has met: by id, and ids by name. A name is looked up once per process."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._by_id: dict[int, AppView] = {}
        self._ids: dict[tuple[str, str | None], int] = {}

    def sync(self, definition: "AppSync", rename_from: str | None = None) -> "AppView":
        """Register a definition, or replace the one of that Site and name, which may have been another one."""
        from balsam.wire.apps import AppRename, AppView

        rename = None if rename_from is None else checked(AppRename, "sync", {"rename_from": rename_from})
        view = self._client.transport.request("PUT", AppManager.path, body=definition, query=rename, reply=AppView)
        if rename_from is not None:
            self._ids.clear()
        self._by_id[view.id] = view
        return view

    def same(self, definition: "AppSync") -> "AppView | None":
        """The registered App that differs from this definition in its source at most."""
        from balsam.wire.apps import AppFilter, AppsPage

        where = AppFilter(name=definition.name, site_id=[definition.site_id])
        found = self._client.transport.request("GET", AppManager.path, query=where, reply=AppsPage)
        for view in found.results:
            known = view.model_dump(exclude={"id", "content_hash", "synced_at", "synced_by", "source_code"})
            if known == definition.model_dump(exclude={"source_code"}):
                self._by_id[view.id] = view
                return view
        return None

    def forget(self) -> None:
        """Look everything up again: something that was known is gone."""
        self._by_id.clear()
        self._ids.clear()

    def view(self, app_id: int) -> "AppView":
        """The App with this id. Raises `App.DoesNotExist`."""
        from balsam.wire.apps import AppView

        found = self._by_id.get(app_id)
        if found is None:
            try:
                found = self._client.transport.request("GET", f"{AppManager.path}/{app_id}", reply=AppView)
            except NotFound as error:
                raise App.DoesNotExist(f"App {app_id} does not exist", code=error.code) from None
            self._by_id[app_id] = found
        return found

    def met(self, app_id: int) -> "AppView | None":
        """The App with this id when it was met before; asks nothing."""
        return self._by_id.get(app_id)

    def id_of(self, name: str, site_name: str | None) -> int:
        """The id of the App with this name. Raises ValidationFailed when there is none, or more than one."""
        key = (name, site_name)
        if key not in self._ids:
            filters = {"name": name} if site_name is None else {"name": name, "site_name": site_name}
            try:
                self._ids[key] = self._client.App.objects.get(**filters).id
            except MultipleObjectsReturned:
                raise _wrong_app(f"App {name!r} exists at several Sites; say which with site_name=") from None
            except NotFound:
                raise _wrong_app(self._no_such_app(name, site_name)) from None
        return self._ids[key]

    def _no_such_app(self, name: str, site_name: str | None) -> str:
        if site_name is not None:
            self._client.site_id(site_name)  # no such Site: that is what is wrong, and it is said there
        where = {} if site_name is None else {"site_name": site_name}
        known = {app.name for app in self._client.App.objects.filter(**where)}
        place = "" if site_name is None else f" at Site {site_name!r}"
        return f"there is no App {name!r}{place}{nearest(name, known) if known else '; sync() its class first'}"


def _wrong_app(message: str) -> ValidationFailed:
    return ValidationFailed(message, code="validation", details=[Problem("app_id", message)])
