"""What an App is: a named command template with parameters, and the hash by which a Site can pin it.

The service checks an App when it is synced; the Site computes the hash again from what it was sent before it runs
anything (S15: a service that lies can't swap an approved App).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from balsam.domain.envelope import BadEnvelope, Envelope, is_envelope
from balsam.domain.globs import BadPattern, Glob
from balsam.domain.lifecycle import Hook
from balsam.domain.monitors import Monitor
from balsam.domain.monitors import problems_of as monitor_problems
from balsam.domain.template import CommandTemplate, ParameterError, TemplateError, check_parameters
from balsam.domain.transfers import local_path_problem

MAX_NAME_LENGTH = 200


@dataclass(frozen=True, slots=True)
class AppParameter:
    """One parameter: required, or with a default.

    >>> AppParameter(required=False, default="1000", help="steps to take").default
    '1000'
    """

    required: bool = True
    default: str | None = None
    help: str = ""


@dataclass(frozen=True, slots=True)
class TransferSlot:
    """A file that a Job of the App takes in or gives out. `local_path` is relative to the workdir.

    >>> TransferSlot(required=True, direction="out", local_path="result.h5").direction
    'out'
    """

    required: bool
    direction: str  # "in" or "out"
    local_path: str
    description: str = ""
    recursive: bool = False


class LaunchMethod(StrEnum):
    """Methods of an App that decide how its Jobs are started; they run at the Site just before the start."""

    SHELL_PREAMBLE = "shell_preamble"
    GET_ARG_STR = "get_arg_str"
    GET_ENVIRON_VARS = "get_environ_vars"


@dataclass(frozen=True, slots=True)
class PythonCode:
    """The class of an App that has methods of its own, pickled.

    `runs`: it has `run()`, which is what its Jobs run. `python_exe`: the interpreter for that, None for the Site's own.
    `accepts_any`: `run()` takes parameters of any name (`**kwargs`).
    """

    envelope: Envelope
    runs: bool = False
    python_exe: str | None = None
    launch_methods: frozenset[LaunchMethod] = frozenset()
    accepts_any: bool = False

    def as_content(self) -> dict[str, Any]:
        """What is hashed of it: the payload is there by its own hash."""
        header = (self.envelope.python, self.envelope.pickler, self.envelope.sha256)
        return {
            "envelope": header,
            "runs": self.runs,
            "python_exe": self.python_exe,
            "launch_methods": sorted(self.launch_methods),
            "accepts_any": self.accepts_any,
        }


@dataclass(frozen=True, slots=True)
class AppSpec:
    """Everything about an App that decides what runs: a command template, or Python code with `run()`."""

    name: str
    command_template: str | None = None
    parameters: dict[str, AppParameter] = field(default_factory=dict)
    environment_variables: dict[str, str] = field(default_factory=dict)
    transfers: dict[str, TransferSlot] = field(default_factory=dict)
    cleanup_files: tuple[str, ...] = ()
    hooks: frozenset[Hook] = frozenset()
    source_code: str = ""
    code: PythonCode | None = None
    monitors: dict[str, Monitor] = field(default_factory=dict)

    @classmethod
    def from_view(cls, view: Mapping[str, Any]) -> "AppSpec":
        """Out of an App as the service tells it: JSON, whose other fields decide nothing. The service's own hash is
        not looked at."""
        return cls(
            name=view["name"],
            command_template=view["command_template"],
            parameters={name: AppParameter(**given) for name, given in view["parameters"].items()},
            environment_variables=dict(view["environment_variables"]),
            transfers={name: TransferSlot(**given) for name, given in view["transfers"].items()},
            cleanup_files=tuple(view["cleanup_files"]),
            hooks=frozenset(Hook(name) for name in view["hooks"]),
            source_code=view["source_code"],
            code=_code_of(view.get("code")),
            monitors={name: Monitor.from_view(given) for name, given in view.get("monitors", {}).items()},
        )

    @property
    def content_hash(self) -> str:
        """SHA-256 over all that decides what runs, as 64 hex digits."""
        content = asdict(replace(self, code=None))
        content["hooks"] = sorted(self.hooks)
        if self.code is None:
            del content["code"]
        else:
            content["code"] = self.code.as_content()
        if not self.monitors:  # so that Apps without keep the hash by which they were approved
            del content["monitors"]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def runs_python(self) -> bool:
        """Whether its Jobs run `run()` rather than a command."""
        return self.code is not None and self.code.runs

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods of its class that launchers call at the Site."""
        return () if self.code is None else ("run",) * self.code.runs + tuple(sorted(self.code.launch_methods))

    def check_parameters(self, given: Mapping[str, object]) -> None:
        """Raises ParameterError that names every missing and every unknown parameter of a submission."""
        if self.runs_python:
            _check_names(self, given)
            _check_envelopes(given)
        else:
            check_parameters(self.required_parameters, self.optional_parameters, given, self.name)

    @property
    def required_parameters(self) -> frozenset[str]:
        return frozenset(name for name, spec in self.parameters.items() if spec.required)

    @property
    def optional_parameters(self) -> frozenset[str]:
        return frozenset(name for name, spec in self.parameters.items() if not spec.required)

    @property
    def defaults(self) -> dict[str, str]:
        return {name: spec.default for name, spec in self.parameters.items() if spec.default is not None}

    def problems(self) -> Iterator[tuple[str, str]]:
        """(where, what is wrong) with the definition, one sentence each."""
        if not self.name.isidentifier() or len(self.name) > MAX_NAME_LENGTH:
            yield "name", f"App name {self.name!r} must be a Python identifier of at most {MAX_NAME_LENGTH} characters"
        yield from self._parameter_problems()
        for name, slot in self.transfers.items():
            if why := local_path_problem(slot.local_path):
                yield f"transfers.{name}.local_path", why
        yield from self._pattern_problems()
        yield from monitor_problems(self.monitors)
        if self.hooks and self.code is None:
            yield "code", f"hooks ({', '.join(sorted(self.hooks))}) are declared and the code of the class is missing"
        if self.runs_python:
            if self.command_template is not None:
                yield "command_template", "command_template and run() are both there; an App has one of them"
            if self.code is not None and LaunchMethod.GET_ARG_STR in self.code.launch_methods:
                yield (
                    "code",
                    "get_arg_str() and run() are both there; get_arg_str() is for Apps with a command_template",
                )
            return
        yield from self._template_problems()

    def _parameter_problems(self) -> Iterator[tuple[str, str]]:
        for name, spec in self.parameters.items():
            where = f"parameters.{name}"
            if not name.isidentifier():
                yield where, f"parameter name {name!r} must be a Python identifier"
            if spec.required and spec.default is not None:
                yield where, f"parameter {name!r} is required and has a default; choose one"
            if not spec.required and spec.default is None and not self.runs_python:
                yield where, f"parameter {name!r} is optional and needs a default"

    def _pattern_problems(self) -> Iterator[tuple[str, str]]:
        for pattern in self.cleanup_files:
            try:
                Glob.parse(pattern)
            except BadPattern as error:
                yield "cleanup_files", str(error)

    def _template_problems(self) -> Iterator[tuple[str, str]]:
        where = "command_template"
        if self.command_template is None:
            yield where, "command_template is missing, and so is run(); an App needs one of them"
            return
        try:
            used = CommandTemplate.parse(self.command_template).parameters
        except TemplateError as error:
            yield where, str(error)
            return
        if unused := sorted(self.parameters.keys() - set(used)):
            yield "parameters", f"parameters not used in command_template: {', '.join(unused)}"


def _check_names(app: AppSpec, given: Mapping[str, object]) -> None:
    """Of a function, which takes values of any kind."""
    missing = sorted(app.required_parameters - given.keys())
    takes_any = app.code is not None and app.code.accepts_any
    extra = [] if takes_any else sorted(given.keys() - app.parameters.keys())
    if missing or extra:
        said = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(extra)}"] * bool(extra)
        known = ", ".join(sorted(app.parameters)) or "none"
        text = f"parameters of App {app.name!r}: {'; '.join(said)} (run() takes: {known})"
        raise ParameterError(text, tuple(missing), tuple(extra))


def _check_envelopes(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if isinstance(value, Mapping) and is_envelope(value):
            try:
                Envelope.from_json(value)
            except BadEnvelope as error:
                raise ParameterError(f"parameter {name!r}: {error}") from None


def _code_of(view: Mapping[str, Any] | None) -> PythonCode | None:
    if view is None:
        return None
    return PythonCode(
        envelope=Envelope.from_json(view["envelope"]),
        runs=view["runs"],
        python_exe=view["python_exe"],
        launch_methods=frozenset(map(LaunchMethod, view["launch_methods"])),
        accepts_any=view["accepts_any"],
    )


def with_template_parameters(template: str, declared: dict[str, AppParameter]) -> dict[str, AppParameter]:
    """Declared parameters, plus every other name the template uses as a required one. Raises TemplateError."""
    used = CommandTemplate.parse(template).parameters
    return {**{name: AppParameter() for name in used if name not in declared}, **declared}
