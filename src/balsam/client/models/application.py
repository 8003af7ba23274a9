"""ApplicationDefinition: an App is a class; its name and Site are its identity.

`sync` sends the definition, `submit` makes Jobs of it, `load_by_site` turns registered Apps back into classes.
"""

import inspect
import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from balsam.client.errors import BalsamError, Problem, ValidationFailed
from balsam.client.models.app import App
from balsam.client.models.site import Site
from balsam.client.values import checked, json_copy, nearest
from balsam.domain.app import AppParameter, AppSpec, with_template_parameters
from balsam.domain.template import ParameterError, TemplateError, check_parameters
from balsam.wire.apps import AppSync, AppView

if TYPE_CHECKING:
    from balsam.client.client import Client
    from balsam.client.models.job import Job

HOOKS = ("preprocess", "postprocess", "handle_error", "handle_timeout", "shell_preamble")
NOT_YET = (
    "App {name} defines {what}: Python Apps and hooks are not part of this release. "
    "Write the command as command_template; values are filled in as {{{{ name }}}}"
)


class Unsupported(BalsamError, NotImplementedError):
    """The definition uses a part of Balsam that this release does not have yet."""


class _SourceCode:
    """Source of the class as it was written, or as the service keeps it; empty when it can't be had."""

    def __get__(self, instance: object, owner: type["ApplicationDefinition"]) -> str:
        if owner._loaded is not None:
            return owner._loaded.source_code
        try:
            return textwrap.dedent(inspect.getsource(owner))
        except (OSError, TypeError):  # typed at a prompt, or made by exec
            return ""


class ApplicationDefinition:
    """Base of Apps. Class attributes are the definition; the docstring is its description.

    `site`: name, id or Site. `command_template`: shell text in which each `{{ name }}` becomes one quoted word.
    `parameters`: `{name: {"required": bool, "default": str, "help": str}}`; names that only the template has are
    required.
    `environment_variables`, `transfers`, `cleanup_files`: as in the guide.

    >>> class Hello(ApplicationDefinition):
    ...     site = "local"
    ...     command_template = "echo Hello, {{ name }}"
    >>> job = Hello.submit(workdir="hello/1", name="World")  # doctest: +SKIP
    >>> job.wait(timeout=60)  # doctest: +SKIP
    True
    """

    site: ClassVar[str | int | Site]
    command_template: ClassVar[str | None] = None
    parameters: ClassVar[Mapping[str, Any]] = {}
    environment_variables: ClassVar[Mapping[str, str]] = {}
    transfers: ClassVar[Mapping[str, Any]] = {}
    cleanup_files: ClassVar[Iterable[str]] = ()
    source_code = _SourceCode()

    _bound_client: ClassVar["Client | None"] = None
    _app_id: ClassVar[int | None] = None
    _synced: ClassVar[tuple[str, str] | None] = None  # (service, hash) of what was sent last
    _loaded: ClassVar[AppView | None] = None  # it came from the service
    _checked: ClassVar[tuple[str, AppSpec] | None] = None  # the definition that was found sound last

    def __init_subclass__(cls, bound_to: "Client | None" = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._app_id = cls._synced = cls._loaded = cls._checked = None  # never those of a parent class
        if bound_to is not None:
            cls._bound_client = bound_to

    @classmethod
    def sync(cls, rename_from: str | None = None) -> None:
        """Register the App at its Site, or replace its definition. Every save of a Job does so when it changed.

        Raises ValidationFailed with every fault of the definition, Unsupported for Python Apps and for `rename_from`.
        """
        if rename_from is not None:
            raise Unsupported(
                f"{cls.__name__}.sync(rename_from={rename_from!r}): an App can't be renamed in this release; "
                "sync it under its new name, Jobs of the old one go on"
            )
        if cls._loaded is None:
            cls._send(cls._definition())

    @classmethod
    def submit(
        cls,
        workdir: str,
        *,
        tags: Mapping[str, str] | None = None,
        data: Mapping[str, Any] | None = None,
        num_nodes: int = 1,
        ranks_per_node: int = 1,
        threads_per_rank: int = 1,
        threads_per_core: int = 1,
        gpus_per_rank: float = 0.0,
        node_packing_count: int = 1,
        wall_time_min: int = 0,
        launch_params: Mapping[str, str] | None = None,
        parent_ids: Iterable[Any] | None = None,
        transfers: Mapping[str, Any] | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
        save: bool = True,
        **app_params: Any,
    ) -> "Job":
        """Make a Job of this App; `app_params` are its parameters. `save=False` leaves saving to you.

        `workdir` is relative to the Site's data directory. Raises ValidationFailed for parameters that do not match.
        """
        from balsam.client.models.job import Job

        given: dict[str, Any] = {
            "tags": tags,
            "data": data,
            "num_nodes": num_nodes,
            "ranks_per_node": ranks_per_node,
            "threads_per_rank": threads_per_rank,
            "threads_per_core": threads_per_core,
            "gpus_per_rank": gpus_per_rank,
            "node_packing_count": node_packing_count,
            "wall_time_min": wall_time_min,
            "launch_params": launch_params,
            "parent_ids": parent_ids,
            "transfers": transfers,
            "priority": priority,
            "max_attempts": max_attempts,
        }
        kind = Job if cls._bound_client is None else cls._bound_client.Job
        fields = kind._fields
        told = {name: it for name, it in given.items() if it is not None and not fields[name].is_default(it)}
        job = kind(app_id=cls, workdir=workdir, parameters=app_params, **told)
        cls.check_parameters(app_params)
        if save:
            job.save()
        return job

    @classmethod
    def check_parameters(cls, given: Mapping[str, Any]) -> None:
        """Raises ValidationFailed that names every missing and every unknown parameter."""
        spec = cls._spec()
        try:
            check_parameters(
                spec.required_parameters, spec.optional_parameters, json_copy(given, "parameters"), cls.__name__
            )
        except ParameterError as error:
            raise ValidationFailed(str(error), details=[Problem("parameters", str(error))]) from None

    @classmethod
    def load_by_site(cls, site: "str | int | Site") -> dict[str, type["ApplicationDefinition"]]:
        """The Apps of a Site as classes, by name.

        >>> apps = ApplicationDefinition.load_by_site("local")  # doctest: +SKIP
        >>> apps["Hello"].submit(workdir="hello/2", name="again").state.value  # doctest: +SKIP
        'PREPROCESSED'
        """
        client = cls._client()
        rows = client.App.objects.filter(site_id=_site_id(client, site))
        return {app.name: cls.load_by_id(app.id) for app in rows}

    @classmethod
    def load_by_name(cls, name: str, site_name: str | None = None) -> type["ApplicationDefinition"]:
        """The App of this name as a class. Raises ValidationFailed when there is none, or several."""
        return cls.load_by_id(cls._client().apps.id_of(name, site_name))

    @classmethod
    def load_by_id(cls, app_id: int) -> type["ApplicationDefinition"]:
        """The App of this id as a class; its site is the Site's id. Raises `App.DoesNotExist`."""
        client = cls._client()
        view = client.apps.view(app_id)
        base = ApplicationDefinition if cls._bound_client is None else cls._bound_client.ApplicationDefinition
        attributes: dict[str, Any] = {
            "__doc__": view.description or None,
            "site": view.site_id,
            "command_template": view.command_template,
            "parameters": {name: parameter.model_dump() for name, parameter in view.parameters.items()},
            "environment_variables": dict(view.environment_variables),
            "transfers": {name: slot.model_dump() for name, slot in view.transfers.items()},
            "cleanup_files": list(view.cleanup_files),
        }
        loaded = cast("type[ApplicationDefinition]", type(view.name, (base,), attributes))
        loaded._app_id, loaded._loaded = view.id, view
        loaded._synced = (client.url, view.content_hash)
        return loaded

    @classmethod
    def resolve_site_id(cls) -> int:
        """The id of the App's Site. Raises ValidationFailed when there is no such Site, naming the nearest."""
        return _site_id(cls._client(), cls._checked_site())

    @classmethod
    def to_dict(cls) -> dict[str, Any]:
        """The definition as it is sent to the service."""
        return cls._definition().model_dump(mode="json")

    @classmethod
    def _client(cls) -> "Client":
        if cls._bound_client is not None:
            return cls._bound_client
        from balsam.client.client import default_client

        return default_client()

    @classmethod
    def _checked_site(cls) -> "str | int | Site":
        site = getattr(cls, "site", None)
        if site is None or site == "":
            raise _faulty(cls.__name__, "site", "is missing; set it to the name or id of a Site (`balsam site ls`)")
        return cast("str | int | Site", site)

    @classmethod
    def _ensure_synced(cls) -> int:
        """The App's id, after a sync when the definition changed since the last one of this process."""
        client = cls._client()
        known_here = cls._app_id is not None and cls._synced is not None and cls._synced[0] == client.url
        if known_here and (cls._loaded is not None or cls._synced == (client.url, _fingerprint(cls))):
            return cast("int", cls._app_id)
        return cls._send(cls._definition())

    @classmethod
    def _send(cls, definition: AppSync) -> int:
        client = cls._client()
        view = None
        if not definition.source_code:  # from a prompt, or rebuilt in a worker process: keep the source that is there
            view = client.apps.same(definition)
        if view is None:
            view = client.apps.sync(definition)
        cls._app_id = view.id
        cls._synced = (client.url, _fingerprint(cls))
        return view.id

    @classmethod
    def _spec(cls) -> AppSpec:
        """The definition in the domain's form, without source. Raises ValidationFailed or Unsupported."""
        name = cls.__name__
        given = repr((name, cls.command_template, cls.parameters))
        if cls._checked is not None and cls._checked[0] == given:
            return cls._checked[1]
        spec = cls._new_spec(name)
        cls._checked = (given, spec)
        return spec

    @classmethod
    def _new_spec(cls, name: str) -> AppSpec:
        defined = [hook for hook in ("run", *HOOKS) if callable(getattr(cls, hook, None))]
        if defined:
            raise Unsupported(NOT_YET.format(name=name, what=", ".join(f"{hook}()" for hook in defined)))
        template = cls.command_template
        if not isinstance(template, str):
            raise _faulty(name, "command_template", "is missing; write the command to run")
        declared = {key: _parameter(name, key, value) for key, value in dict(cls.parameters).items()}
        try:
            parameters = with_template_parameters(template, declared)
        except TemplateError as error:
            raise _faulty(name, "command_template", str(error)) from None
        spec = AppSpec(name, template, parameters)
        problems = list(spec.problems())
        if problems:
            raise _faulty(name, "command_template", "; ".join(problems))
        return spec

    @classmethod
    def _definition(cls) -> AppSync:
        spec = cls._spec()
        fields = {
            "site_id": cls.resolve_site_id(),
            "name": spec.name,
            "command_template": spec.command_template,
            "parameters": {key: vars_of(value) for key, value in spec.parameters.items()},
            "environment_variables": {str(key): str(value) for key, value in cls.environment_variables.items()},
            "transfers": {key: dict(value) for key, value in cls.transfers.items()},
            "cleanup_files": list(cls.cleanup_files),
            "description": inspect.cleandoc(cls.__dict__.get("__doc__") or ""),
            "source_code": cls.source_code,
        }
        return checked(AppSync, f"App {spec.name}", fields)


def vars_of(parameter: AppParameter) -> dict[str, Any]:
    """A parameter as a mapping."""
    return {"required": parameter.required, "default": parameter.default, "help": parameter.help}


def _parameter(app: str, name: str, given: Any) -> AppParameter:
    fields = dict(given) if isinstance(given, Mapping) else vars_of(given)
    unknown = sorted(fields.keys() - {"required", "default", "help"})
    if unknown:
        raise _faulty(app, f"parameters.{name}", f"unknown keys: {', '.join(unknown)}; known: default, help, required")
    default = fields.get("default")
    required = bool(fields.get("required", default is None))
    return AppParameter(required, None if default is None else str(default), str(fields.get("help") or ""))


def _faulty(app: str, where: str, message: str) -> ValidationFailed:
    text = f"App {app}: {where} {message}" if not message.startswith(where) else f"App {app}: {message}"
    return ValidationFailed(text, code="validation", details=[Problem(where, message)])


def _fingerprint(app: type[ApplicationDefinition]) -> str:
    """Changes whenever what `sync` would send changes."""
    site = app._checked_site()
    place = site.id if isinstance(site, Site) else site
    dicts = (app.parameters, app.environment_variables, app.transfers)
    return repr((place, app.command_template, *dicts, list(app.cleanup_files), app.__doc__))


def _site_id(client: "Client", site: "str | int | Site") -> int:
    if isinstance(site, Site):
        return site._saved_id()
    if isinstance(site, int):
        return site
    return client.site_id(site)


def site_id_of(client: "Client", name: str) -> int:
    """The id of the Site of this name. Raises ValidationFailed that names the nearest."""
    sites = {site.name: site.id for site in client.Site.objects.all()}
    if name not in sites:
        known = nearest(name, sites) if sites else "; create one with `balsam site init`, or start `balsam up`"
        message = f"there is no Site {name!r}{known}"
        raise ValidationFailed(message, code="validation", details=[Problem("site", message)])
    return sites[name]


__all__ = ["App", "ApplicationDefinition", "Unsupported"]
