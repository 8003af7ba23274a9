"""What an App is: a named command template with parameters, and the hash by which a Site can pin it.

The service checks an App when it is synced; the Site computes the hash again from what it was sent before it runs
anything (S15: a service that lies can't swap an approved App).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from balsam.domain.lifecycle import Hook
from balsam.domain.template import CommandTemplate, TemplateError

MAX_NAME_LENGTH = 200


@dataclass(frozen=True, slots=True)
class AppParameter:
    """One parameter: required, or with a default."""

    required: bool = True
    default: str | None = None
    help: str = ""


@dataclass(frozen=True, slots=True)
class TransferSlot:
    """A file that a Job of the App takes in or gives out. `local_path` is relative to the workdir."""

    required: bool
    direction: str  # "in" or "out"
    local_path: str
    description: str = ""
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class AppSpec:
    """Everything about an App that decides what runs."""

    name: str
    command_template: str | None = None
    parameters: dict[str, AppParameter] = field(default_factory=dict)
    environment_variables: dict[str, str] = field(default_factory=dict)
    transfers: dict[str, TransferSlot] = field(default_factory=dict)
    cleanup_files: tuple[str, ...] = ()
    hooks: frozenset[Hook] = frozenset()
    source_code: str = ""

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
        )

    @property
    def content_hash(self) -> str:
        """SHA-256 over all that decides what runs, as 64 hex digits."""
        content = asdict(self)
        content["hooks"] = sorted(self.hooks)
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def required_parameters(self) -> frozenset[str]:
        return frozenset(name for name, spec in self.parameters.items() if spec.required)

    @property
    def optional_parameters(self) -> frozenset[str]:
        return frozenset(name for name, spec in self.parameters.items() if not spec.required)

    @property
    def defaults(self) -> dict[str, str]:
        return {name: spec.default for name, spec in self.parameters.items() if spec.default is not None}

    def problems(self) -> Iterator[str]:
        """What is wrong with the definition, one sentence each."""
        if not self.name.isidentifier() or len(self.name) > MAX_NAME_LENGTH:
            yield f"App name {self.name!r} must be a Python identifier of at most {MAX_NAME_LENGTH} characters"
        for name, spec in self.parameters.items():
            if not name.isidentifier():
                yield f"parameter name {name!r} must be a Python identifier"
            if spec.required and spec.default is not None:
                yield f"parameter {name!r} is required and has a default; choose one"
            if not spec.required and spec.default is None:
                yield f"parameter {name!r} is optional and needs a default"
        if self.command_template is None:
            yield "command_template is missing; an App needs the command to run"
            return
        try:
            used = CommandTemplate.parse(self.command_template).parameters
        except TemplateError as error:
            yield str(error)
            return
        if unused := sorted(self.parameters.keys() - set(used)):
            yield f"parameters not used in command_template: {', '.join(unused)}"


def with_template_parameters(template: str, declared: dict[str, AppParameter]) -> dict[str, AppParameter]:
    """Declared parameters, plus every other name the template uses as a required one. Raises TemplateError."""
    used = CommandTemplate.parse(template).parameters
    return {**{name: AppParameter() for name in used if name not in declared}, **declared}
