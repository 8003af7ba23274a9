"""Registering Apps: from a class to the definition the service keeps, and back to a class.

`ApplicationDefinition` calls it. A definition is checked here with the rules that the service checks it by, so that a
fault shows where the class stands; a class with methods of its own (`run()`, hooks) travels pickled, beside its source.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from balsam.client.errors import Problem, ValidationFailed
from balsam.client.models.application import ApplicationDefinition
from balsam.client.models.job import Job
from balsam.client.models.site import Site
from balsam.client.pickling import NotPicklable, python_version, seal_class
from balsam.client.values import checked, json_copy, nearest
from balsam.domain.app import AppParameter, AppSpec, LaunchMethod, PythonCode, with_template_parameters
from balsam.domain.envelope import BadEnvelope
from balsam.domain.lifecycle import Hook
from balsam.domain.template import ParameterError, TemplateError
from balsam.wire.apps import AppSync

if TYPE_CHECKING:
    from balsam.client.client import Client

Definition = type[ApplicationDefinition]


def sync(app: Definition, rename_from: str | None) -> None:
    """Register the App, or replace its definition. A class that was loaded is what the service has already."""
    if app._state.loaded is None:
        _send(app, definition(app), rename_from)


def ensure_synced(app: Definition) -> int:
    """The App's id, after a sync when the definition changed since the last one of this process."""
    state, url = app._state, app._client().url
    known_here = state.app_id is not None and state.synced is not None and state.synced[0] == url
    if known_here and (state.loaded is not None or state.synced == (url, _fingerprint(app))):
        return cast("int", state.app_id)
    return _send(app, definition(app))


def new_job(app: Definition, workdir: str, parameters: Mapping[str, Any], given: Mapping[str, Any]) -> Job:
    """A Job that is not saved; `given` are its other fields. What is as the service would set it is left out."""
    kind = Job if app._bound_client is None else app._bound_client.Job
    fields = kind._fields
    told = {name: it for name, it in given.items() if it is not None and not fields[name].is_default(it)}
    job = kind(app_id=app, workdir=workdir, parameters=parameters, **told)
    check_parameters(app, parameters)
    return job


def check_parameters(app: Definition, given: Mapping[str, Any]) -> None:
    """Raises ValidationFailed that names every missing and every unknown parameter."""
    found = spec(app)
    # run() takes values of any kind, which are looked at when they are sent.
    named = dict.fromkeys(given) if found.runs_python else json_copy(given, "parameters")
    try:
        found.check_parameters(named)
    except ParameterError as error:
        raise ValidationFailed(str(error), details=[Problem("parameters", str(error))]) from None


def load_by_site(base: Definition, site: str | int | Site) -> dict[str, Definition]:
    """The Apps of a Site as classes, by name."""
    client = base._client()
    rows = client.App.objects.filter(site_id=resolve_site(client, site))
    return {row.name: load_by_id(base, row.id) for row in rows}


def load_by_id(base: Definition, app_id: int) -> Definition:
    """The App of this id as a class. Raises `App.DoesNotExist`."""
    client = base._client()
    view = client.apps.view(app_id)
    parent = ApplicationDefinition if base._bound_client is None else base._bound_client.ApplicationDefinition
    attributes: dict[str, Any] = {
        "__doc__": view.description or None,
        "site": view.site_id,
        "command_template": view.command_template,
        "parameters": {name: parameter.model_dump() for name, parameter in view.parameters.items()},
        "environment_variables": dict(view.environment_variables),
        "transfers": {name: slot.model_dump() for name, slot in view.transfers.items()},
        "cleanup_files": list(view.cleanup_files),
        "monitors": {name: monitor.model_dump(mode="json") for name, monitor in view.monitors.items()},
        "python_exe": None if view.code is None else view.code.python_exe,
    }
    loaded = cast("Definition", type(view.name, (parent,), attributes))
    state = loaded._state
    state.app_id, state.loaded, state.synced = view.id, view, (client.url, view.content_hash)
    return loaded


def site_id(app: Definition) -> int:
    """The id of the App's Site. Raises ValidationFailed when there is no such Site, naming the nearest."""
    return resolve_site(app._client(), _checked_site(app))


def spec(app: Definition) -> AppSpec:
    """The definition in the domain's form, without source. Raises ValidationFailed."""
    state = app._state
    if state.loaded is not None:
        return state.loaded.spec()
    given = repr((app.__name__, app.command_template, app.parameters, _methods(app)))
    if state.checked is None or state.checked[0] != given:
        state.checked = (given, _new_spec(app))
    return state.checked[1]


def definition(app: Definition) -> AppSync:
    """What is sent to the service. Raises ValidationFailed with every fault."""
    if app._state.loaded is not None:
        return AppSync.model_validate(app._state.loaded.model_dump(include=set(AppSync.model_fields)))
    found = spec(app)
    fields = {
        "site_id": site_id(app),
        "name": found.name,
        "command_template": found.command_template,
        "parameters": {key: vars_of(value) for key, value in found.parameters.items()},
        "environment_variables": {str(key): str(value) for key, value in app.environment_variables.items()},
        "transfers": {key: dict(value) for key, value in app.transfers.items()},
        "cleanup_files": list(app.cleanup_files),
        "hooks": sorted(found.hooks),
        "description": inspect.cleandoc(app.__dict__.get("__doc__") or ""),
        "source_code": app.source_code,
        "code": _code_fields(app, found),
    }
    if app.monitors:  # not told otherwise: a service before them would not know the word
        fields["monitors"] = {key: dict(value) for key, value in app.monitors.items()}
    content = checked(AppSync, f"App {found.name}", fields)
    _check(content.spec())
    return content


def _check(spec: AppSpec) -> None:
    """Raises ValidationFailed with every fault and its place, as the service would."""
    problems = [Problem(where, why) for where, why in spec.problems()]
    if problems:
        said = "; ".join(it.message if it.where in it.message else f"{it.where}: {it.message}" for it in problems)
        raise ValidationFailed(f"App {spec.name}: {said}", code="validation", details=problems)


def vars_of(parameter: AppParameter) -> dict[str, Any]:
    """A parameter as a mapping."""
    return {"required": parameter.required, "default": parameter.default, "help": parameter.help}


def site_id_of(client: "Client", name: str) -> int:
    """The id of the Site of this name; a shared one may be called `owner/name`, and must be when several have the name.

    Raises ValidationFailed that names the nearest.
    """
    found = list(client.Site.objects.all())
    named = [site for site in found if name in (site.name, f"{site.owner}/{site.name}")]
    if len(named) > 1:
        named = [site for site in named if site.owner == client.who_am_i().username] or named
    if len(named) == 1:
        return int(named[0].id)
    names = {site.name for site in found}
    if named:
        message = f"several Sites are named {name!r}: " + ", ".join(f"{site.owner}/{site.name}" for site in named)
    else:
        known = nearest(name, names) if names else "; create one with `balsam site init`, or start `balsam up`"
        message = f"there is no Site {name!r}{known}"
    raise ValidationFailed(message, code="validation", details=[Problem("site", message)])


def _send(app: Definition, content: AppSync, rename_from: str | None = None) -> int:
    client, view = app._client(), None
    check_python(client, content)
    if (
        not content.source_code and rename_from is None
    ):  # from a prompt, or rebuilt in a worker process: keep the source that is there
        view = client.apps.same(content)
    if view is None:
        view = client.apps.sync(content, rename_from)
    app._state.app_id, app._state.synced = view.id, (client.url, _fingerprint(app))
    return view.id


def check_python(client: "Client", content: AppSync) -> None:
    """Pickled code is good for one minor version of Python. What `python_exe` is, only the Site can know.

    Raises ValidationFailed that names both versions.
    """
    code = content.code
    if code is None or (code.python_exe is not None and not content.hooks and not code.launch_methods):
        return
    there = client.python_of(content.site_id)
    if there is not None and there != python_version():
        why = (
            f"was pickled by Python {python_version()} here, and its Site runs Python {there}; the two must have the "
            f"same minor version: use Python {there} here, or set python_exe to a Python {python_version()} of the Site"
        )
        raise _faulty(content.name, "class", why)


def _methods(app: Definition) -> tuple[str, ...]:
    """The methods of the class that run at the Site. Those of the base class do nothing of their own."""
    names = ("run", *Hook, *LaunchMethod)
    return tuple(str(name) for name in names if _is_own(app, name))


def _is_own(app: Definition, name: str) -> bool:
    method = getattr(app, name, None)
    return callable(method) and method is not getattr(ApplicationDefinition, name, None)


def _check_kinds(app: Definition) -> None:
    """A text is a sequence, too: a pattern alone would be taken for a list of its letters."""
    for attribute in ("parameters", "environment_variables", "transfers", "monitors"):
        value = getattr(app, attribute)
        if not isinstance(value, Mapping):
            raise _faulty(app.__name__, attribute, f"must be a dict, not {value!r}")
    for attribute in ("transfers", "monitors"):
        for name, value in getattr(app, attribute).items():
            if isinstance(value, str) or not isinstance(value, Iterable):  # a slot made as a TransferSlot is one
                raise _faulty(app.__name__, f"{attribute}.{name}", f"must be a dict, not {value!r}")
    template = app.command_template
    if template is not None and not isinstance(template, str):
        raise _faulty(app.__name__, "command_template", f"must be text, not {template!r}")
    patterns = app.cleanup_files
    if isinstance(patterns, str) or not isinstance(patterns, Iterable):
        raise _faulty(app.__name__, "cleanup_files", f"must be a list of patterns, not {patterns!r}")


def _new_spec(app: Definition) -> AppSpec:
    _check_kinds(app)
    name, methods = app.__name__, _methods(app)
    declared = {key: _parameter(name, key, value) for key, value in dict(app.parameters).items()}
    accepts_any = False
    if "run" in methods:
        declared, accepts_any = _run_parameters(app, declared)
    elif isinstance(app.command_template, str):
        try:
            declared = with_template_parameters(app.command_template, declared)
        except TemplateError as error:
            raise _faulty(name, "command_template", str(error)) from None
    made = AppSpec(
        name,
        app.command_template,
        declared,
        hooks=frozenset(hook for hook in Hook if hook in methods),
        code=_code(app, methods, accepts_any) if methods else None,
    )
    if app.python_exe is not None and "run" not in methods:
        raise _faulty(
            name, "python_exe", "is the interpreter for run(), which it has not: commands and hooks ignore it"
        )
    _check(made)
    return made


def _run_parameters(app: Definition, declared: Mapping[str, AppParameter]) -> tuple[dict[str, AppParameter], bool]:
    """The parameters of `run()`, with the help texts that were declared for them; and whether it takes any others."""
    run: Any = getattr(app, "run", None)
    parameters: dict[str, AppParameter] = {}
    accepts_any = False
    for name, parameter in list(inspect.signature(run).parameters.items())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            accepts_any = True
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            why = f"takes {name!r} by position; values are passed by name, so give it a name: run(self, {name})"
            raise _faulty(app.__name__, "run()", why)
        else:
            help_text = declared[name].help if name in declared else ""
            parameters[name] = AppParameter(parameter.default is parameter.empty, None, help_text)
    if unknown := sorted(declared.keys() - parameters.keys()) if not accepts_any else []:
        raise _faulty(app.__name__, "parameters", f"{', '.join(unknown)}: run() has no parameter of that name")
    return parameters, accepts_any


def _code(app: Definition, methods: tuple[str, ...], accepts_any: bool) -> PythonCode:
    try:
        envelope = seal_class(app)
    except (NotPicklable, BadEnvelope) as error:
        raise _faulty(app.__name__, "class", f"can't be sent to its Site: {error}") from None
    launch = frozenset(method for method in LaunchMethod if method in methods)
    return PythonCode(envelope, "run" in methods, app.python_exe, launch, accepts_any)


def _code_fields(app: Definition, found: AppSpec) -> dict[str, Any] | None:
    if found.code is None:
        return None
    # Anew: what the class uses of its module may have changed since it was checked.
    code = _code(app, _methods(app), found.code.accepts_any)
    return {
        "envelope": code.envelope.as_json(),
        "runs": code.runs,
        "python_exe": code.python_exe,
        "launch_methods": sorted(code.launch_methods),
        "accepts_any": code.accepts_any,
    }


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


def _fingerprint(app: Definition) -> str:
    """Changes whenever what `sync` would send changes."""
    site = _checked_site(app)
    place = site.id if isinstance(site, Site) else site
    dicts = (app.parameters, app.environment_variables, app.transfers, app.monitors)
    methods = _methods(app)
    code = _code(app, methods, False).envelope.sha256 if methods else ""
    return repr((place, app.command_template, *dicts, list(app.cleanup_files), app.__doc__, app.python_exe, code))


def _checked_site(app: Definition) -> str | int | Site:
    site = getattr(app, "site", None)
    if site is None or site == "":
        raise _faulty(app.__name__, "site", "is missing; set it to the name or id of a Site (`balsam site ls`)")
    return cast("str | int | Site", site)


def resolve_site(client: "Client", site: str | int | Site) -> int:
    """The id of a Site. Raises ValidationFailed when there is none of that name, naming the nearest."""
    if isinstance(site, Site):
        return site._saved_id()
    if isinstance(site, int):
        return site
    return client.site_id(site)
