"""What the executor needs of a registered App: its checks, its run line, and its way into worker processes.

Used by `BalsamExecutor` only. Everything here works on the class the user wrote (or loaded from the service) and sends
no request.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from libensemble.executors.executor import Application, ExecutorException

from balsam.api import ApplicationDefinition
from balsam.domain.app import AppParameter, with_template_parameters
from balsam.domain.template import CommandTemplate, ParameterError, TemplateError, check_parameters

_DEFINITION = (
    "site",
    "command_template",
    "parameters",
    "environment_variables",
    "transfers",
    "cleanup_files",
)


def name_of(app: Any) -> str:
    """The class name of an App, also of one that is an instance."""
    return str(getattr(app, "__name__", type(app).__name__))


def class_of(app: Any) -> Any:
    """The App's class, also when an instance was given: libEnsemble's page speaks of one."""
    return type(app) if isinstance(app, ApplicationDefinition) else app


def check_definition(app: Any) -> None:
    """Raises ExecutorException when the App lacks what a submission needs, or its template can't be used."""
    if isinstance(app, str):
        raise ExecutorException(
            f"register_app takes an App, a class made from balsam.api.ApplicationDefinition, not {app!r}; "
            "programs are named in the App's command_template"
        )
    for attribute in ("site", "command_template"):
        if not getattr(app, attribute, None):
            raise ExecutorException(
                f"App {name_of(app)} has no {attribute}; BalsamExecutor runs Apps whose class sets both "
                "site and command_template"
            )
    try:
        CommandTemplate.parse(app.command_template)
    except TemplateError as error:
        raise ExecutorException(f"App {name_of(app)}: {error}") from error


def checked_parameters(app: Any, app_args: object) -> dict[str, Any]:
    """`app_args` as plain JSON values; raises ExecutorException that names what is missing or extra."""
    if app_args is not None and not isinstance(app_args, Mapping):
        raise ExecutorException(
            f"app_args must be a dict of the parameters of App {name_of(app)}, not {type(app_args).__name__}; "
            'for example app_args={"my_name": "World"}'
        )
    given = {str(name): _plain(value) for name, value in (app_args or {}).items()}
    for name, value in given.items():
        try:
            json.dumps(value, allow_nan=False, default=_jsonable)
        except (TypeError, ValueError) as error:
            raise ExecutorException(
                f"app_args of App {name_of(app)}: {name}={value!r} can't be sent: {error}"
            ) from error
    declared = _declared(app)
    required = frozenset(name for name, spec in declared.items() if spec.required)
    try:
        check_parameters(required, frozenset(declared) - required, given, name_of(app))
    except ParameterError as error:
        raise ExecutorException(str(error)) from error
    return given


def run_line(app: Any, parameters: Mapping[str, Any]) -> str:
    """The command as the site's shell will get it, each parameter one quoted word."""
    defaults = {name: spec.default for name, spec in _declared(app).items() if spec.default is not None}
    return CommandTemplate.parse(app.command_template).render({**defaults, **parameters}).shell


def _declared(app: Any) -> dict[str, AppParameter]:
    own = getattr(app, "parameters", None) or {}
    return with_template_parameters(app.command_template, {name: _parameter(spec) for name, spec in own.items()})


def _parameter(spec: Any) -> AppParameter:
    fields = spec if isinstance(spec, Mapping) else {"required": spec.required, "default": spec.default}
    default = fields.get("default")
    return AppParameter(required=bool(fields.get("required", default is None)), default=default)


def _plain(value: Any) -> Any:
    """Rows of H hold numpy scalars and arrays, which JSON does not know; both answer to tolist()."""
    to_python = getattr(value, "tolist", None)
    return to_python() if callable(to_python) else value


def _jsonable(value: Any) -> Any:
    """For what json does not know and a Job does all the same."""
    if isinstance(value, (set, frozenset)):
        return list(value)
    plain = str(value) if isinstance(value, PurePath) else _plain(value)
    if plain is value:
        raise TypeError(f"a {type(value).__name__} is no JSON value; use text, numbers, lists and dicts")
    return plain


_STATE = "_state"


def packed(app: Any) -> dict[str, Any]:
    """An App in a form that pickle carries anywhere: where its class is found, and its definition for where not."""
    place = (getattr(app, "__module__", ""), getattr(app, "__qualname__", ""))
    return {
        "place": place if _found(*place) is app else None,
        "name": name_of(app),
        "attributes": {
            "__module__": place[0],
            "__doc__": getattr(app, "__doc__", None),
            **{key: getattr(app, key) for key in _DEFINITION if hasattr(app, key)},
        },
        # Which App of which service it is, so that another process need not send it again.
        "state": getattr(app, _STATE, None),
    }


def unpacked(form: Mapping[str, Any]) -> Any:
    """The App again: the very class where it can be reached by name, else an equal one built from its definition.

    Classes that were loaded from the service, or defined in a function or under `if __name__ == "__main__"`, can't be
    reached by name in a worker process that was spawned.
    """
    app = _found(*form["place"]) if form["place"] is not None else None
    if app is None:
        app = type(form["name"], (ApplicationDefinition,), form["attributes"])
        if form["state"] is not None:
            setattr(app, _STATE, form["state"])
    return app


def packed_application(application: Application) -> dict[str, Any]:
    """libEnsemble's record of a registered App, its class packed."""
    return {**vars(application), "pyobj": packed(application.pyobj)}


def unpacked_application(form: Mapping[str, Any]) -> Application:
    """libEnsemble's record again."""
    application = Application.__new__(Application)
    application.__dict__.update(form, pyobj=unpacked(form["pyobj"]))
    return application


def _found(module: str, qualname: str) -> Any:
    """What stands at this place of a module, imported if need be; None when nothing does."""
    try:
        found: Any = importlib.import_module(module)
    except (ImportError, ValueError):
        return None
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
