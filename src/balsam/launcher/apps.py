"""The Apps a launcher was sent, checked before anything of them runs (S15).

The hash is computed again from the definition that came: a service that lies can't give an approved hash to another
command. With pinned Apps, only those run whose hash was approved at the Site.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from balsam.domain.app import AppSpec
from balsam.domain.envelope import BadEnvelope
from balsam.domain.template import CommandTemplate, RenderedCommand, TemplateError


class AppRefused(Exception):
    """This App does not run here; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class RunnableApp:
    """An App that may run: its parsed template, the defaults of its parameters, its environment variables."""

    template: CommandTemplate
    defaults: Mapping[str, str]
    environment: Mapping[str, str]

    def render(self, parameters: Mapping[str, Any]) -> RenderedCommand:
        """The command for these parameters. Raises ParameterError."""
        return self.template.render({**self.defaults, **parameters})


class AppShelf:
    """The Apps by id, in the newest definition that was sent."""

    def __init__(self, pinned: Iterable[str] | None = None) -> None:
        self._pinned = None if pinned is None else frozenset(pinned)
        self._apps: dict[int, RunnableApp | AppRefused] = {}
        self.known: dict[int, str] = {}  # app id -> content hash, which the service need not send again

    def add(self, view: Mapping[str, Any]) -> None:
        """Take a definition: the JSON of a `wire.apps.AppView`."""
        self.known[view["id"]] = view["content_hash"]
        try:
            self._apps[view["id"]] = self._checked(view)
        except AppRefused as refused:
            self._apps[view["id"]] = refused

    def get(self, app_id: int) -> RunnableApp:
        """The App of a Job. Raises AppRefused."""
        app = self._apps.get(app_id)
        if app is None:
            raise AppRefused(f"the service sent no definition of App {app_id}")
        if isinstance(app, AppRefused):
            raise app
        return app

    def _checked(self, view: Mapping[str, Any]) -> RunnableApp:
        try:
            spec = AppSpec.from_view(view)
        except BadEnvelope as error:
            raise AppRefused(f"App {view['name']}: {error}") from error
        if spec.content_hash != view["content_hash"]:
            raise AppRefused(f"App {spec.name} is not what its hash says: the service sent another definition")
        if self._pinned is not None and spec.content_hash not in self._pinned:
            raise AppRefused(
                f"this definition of App {spec.name} is not approved at this Site (apps.accept is pinned); its owner "
                f"can allow it for later allocations, there: balsam app approve {spec.name}"
            )
        if spec.command_template is None:
            raise AppRefused(f"App {spec.name} has no command_template; Python Apps do not run in this version")
        try:
            template = CommandTemplate.parse(spec.command_template)
        except TemplateError as error:
            raise AppRefused(f"App {spec.name}: {error}") from error
        return RunnableApp(template, spec.defaults, spec.environment_variables)
