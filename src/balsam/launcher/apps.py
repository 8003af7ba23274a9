"""The Apps a launcher was sent, checked before anything of them runs (S15).

The hash is computed again from the definition that came: a service that lies can't give an approved hash to another
command. With pinned Apps, only those run whose hash was approved at the Site. Python code is refused here where the
Site wants none; where it does, it is passed on to workers as it is, and never opened in the launcher's own process.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from balsam.domain.app import AppSpec, LaunchMethod, PythonCode
from balsam.domain.monitors import Monitor
from balsam.domain.template import CommandTemplate, RenderedCommand, TemplateError

# An App that says this name has MPI started in its process, which has to be one of its own.
_MPI = b"mpi4py"


class AppRefused(Exception):
    """This App does not run here; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class RunnableCode:
    """Python code that may be loaded in a worker. `app` is what a worker is told of the App."""

    app: Mapping[str, Any]
    runs: bool
    python_exe: str | None
    methods: tuple[LaunchMethod, ...]
    uses_mpi: bool

    @classmethod
    def of(cls, name: str, code: PythonCode) -> "RunnableCode":
        return cls(
            app={"name": name, "envelope": code.envelope.as_json()},
            runs=code.runs,
            python_exe=code.python_exe,
            methods=tuple(sorted(code.launch_methods)),
            uses_mpi=_MPI in code.envelope.payload,
        )


@dataclass(frozen=True, slots=True)
class RunnableApp:
    """An App that may run: its parsed template or `run()`, the defaults of its parameters, its environment, and the
    rules on what it writes."""

    name: str
    content_hash: str
    template: CommandTemplate | None
    defaults: Mapping[str, str]
    environment: Mapping[str, str]
    code: RunnableCode | None
    monitors: Mapping[str, Monitor] = field(default_factory=dict)

    @property
    def runs_python(self) -> bool:
        """Whether its Jobs run `run()`."""
        return self.code is not None and self.code.runs

    def render(self, parameters: Mapping[str, Any]) -> RenderedCommand:
        """The command for these parameters. Raises ParameterError."""
        if self.template is None:
            raise AppRefused(f"App {self.name} has no command_template")
        return self.template.render({**self.defaults, **parameters})


class AppShelf:
    """The Apps by id, in the newest definition that was sent. `python`: the Site lets their Python code be loaded."""

    def __init__(self, pinned: Iterable[str] | None = None, python: bool = True) -> None:
        self._pinned = None if pinned is None else frozenset(pinned)
        self._python = python
        self._apps: dict[int, RunnableApp | AppRefused] = {}
        self._views: dict[int, Mapping[str, Any]] = {}
        self.known: dict[int, str] = {}  # app id -> content hash, which the service need not send again

    def add(self, view: Mapping[str, Any]) -> None:
        """Take a definition: the JSON of a `wire.apps.AppView`."""
        self.known[view["id"]] = view["content_hash"]
        self._views[view["id"]] = view
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

    def monitors(self, app_id: int) -> Mapping[str, Monitor]:
        """The rules on what Jobs of this App write; none of one that does not run here."""
        app = self._apps.get(app_id)
        return app.monitors if isinstance(app, RunnableApp) else {}

    def view(self, app_id: int) -> Mapping[str, Any] | None:
        """The definition as it came, for other nodes, which check it themselves."""
        return self._views.get(app_id)

    def _checked(self, view: Mapping[str, Any]) -> RunnableApp:
        try:
            spec = AppSpec.from_view(view)
        except ValueError as error:
            raise AppRefused(f"App {view['name']}: {error}") from error
        if spec.content_hash != view["content_hash"]:
            raise AppRefused(f"App {spec.name} is not what its hash says: the service sent another definition")
        if self._pinned is not None and spec.content_hash not in self._pinned:
            raise AppRefused(
                f"this definition of App {spec.name} is not approved at this Site (apps.accept is pinned); its owner "
                f"can allow it for later allocations, there: balsam app approve {spec.name}"
            )
        if spec.methods and not self._python:
            raise AppRefused(
                f"App {spec.name} has Python code that runs at the Site ({', '.join(spec.methods)}), and this Site "
                "loads none (apps.python is false in its settings.yml)"
            )
        return RunnableApp(
            name=spec.name,
            content_hash=spec.content_hash,
            template=_template(spec),
            defaults=spec.defaults,
            environment=spec.environment_variables,
            code=RunnableCode.of(spec.name, spec.code) if spec.code is not None and spec.methods else None,
            monitors=spec.monitors,
        )


def _template(spec: AppSpec) -> CommandTemplate | None:
    if spec.runs_python:
        return None
    if spec.command_template is None:
        raise AppRefused(f"App {spec.name} has neither a command_template nor run()")
    try:
        return CommandTemplate.parse(spec.command_template)
    except TemplateError as error:
        raise AppRefused(f"App {spec.name}: {error}") from error
