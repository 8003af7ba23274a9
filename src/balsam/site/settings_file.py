"""Reading settings.yml: one complete message that names every fault with its line and what to write instead.

Called by the agent at start, by `balsam site init` and by `balsam doctor`.
"""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from balsam.platform.registry import MPIRUNS, NODES, SCHEDULERS, BackEndBroken, BackEnds, UnknownBackEnd
from balsam.site.settings import GONE, OFF_BY_NULL, Settings
from balsam.site.settings_scaling import scaling_faults
from balsam.wire.faults import nearest_word

MAX_SIZE_BYTES = 1024 * 1024
Where = tuple[str | int, ...]
_ALLOWED = "Input should be"


class SettingsError(ValueError):
    """settings.yml can't be used; the text names file, line, fault and remedy of each fault."""


@dataclass(frozen=True, slots=True)
class LocatedSettings:
    """Checked settings, and for each key that the file has the line where it stands."""

    settings: Settings
    lines: dict[Where, int]


@dataclass(frozen=True, slots=True)
class _Fault:
    line: int
    text: str


def load_settings(path: Path) -> Settings:
    """Read and check a settings file. Raises SettingsError.

    >>> load_settings(Path("/my/site/settings.yml")).scheduler.sync_period    # doctest: +SKIP
    10.0
    """
    return read_settings(path).settings


def read_settings(path: Path) -> LocatedSettings:
    """As `load_settings`, and where each setting stands. Raises SettingsError."""
    tree, lines = _parse(path, _read(path))
    faults = [_Fault(line, text) for line, text in _gone(tree, lines)]
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(_without_gone(tree))
    except ValidationError as error:
        faults += [_Fault(_line_of(lines, fault["loc"]), _sentence(fault)) for fault in error.errors()]
    if settings is not None:
        faults += _unknown_back_ends(settings, lines) or _unknown_options(settings, lines)
        faults += [_Fault(_line_of(lines, key), f"{'.'.join(key)} {why}") for key, why in scaling_faults(settings)]
    if faults or settings is None:
        said = "\n".join(f"  line {fault.line}: {fault.text}" for fault in sorted(faults, key=lambda one: one.line))
        raise SettingsError(f"{path} can't be used:\n{said}")
    return LocatedSettings(settings, lines)


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}") from error
    if len(data) > MAX_SIZE_BYTES:
        raise SettingsError(f"{path} has {len(data)} bytes; at most {MAX_SIZE_BYTES} are read")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from error


def _parse(path: Path, text: str) -> tuple[dict[str, Any], dict[Where, int]]:
    """The content, and for each key the line where it stands."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 1
        raise SettingsError(f"{path} can't be used:\n  line {line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from error
    if root is None:
        return {}, {(): 1}
    if not isinstance(content, dict):
        raise SettingsError(
            f"{path} can't be used:\n  line 1: must be `key: value` lines, not a {type(content).__name__}"
        )
    lines: dict[Where, int] = {(): 1}
    twice = _walk(root, (), lines)
    if twice:
        said = "\n".join(f"  line {line}: {name} is set a second time" for line, name in twice)
        raise SettingsError(f"{path} can't be used:\n{said}")
    return content, lines


def _walk(node: yaml.Node, where: Where, lines: dict[Where, int], depth: int = 0) -> list[tuple[int, str]]:
    twice: list[tuple[int, str]] = []
    if depth > 8:  # deeper than any setting; also ends a document that contains itself
        return twice
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*where, str(key.value))
            if here in lines:
                twice.append((key.start_mark.line + 1, ".".join(map(str, here))))
            lines[here] = key.start_mark.line + 1
            twice += _walk(value, here, lines, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*where, index)] = item.start_mark.line + 1
            twice += _walk(item, (*where, index), lines, depth + 1)
    return twice


def _gone(tree: dict[str, Any], lines: dict[Where, int]) -> list[tuple[int, str]]:
    found = []
    for name, reason in GONE.items():
        section, _, key = name.partition(".")
        if isinstance(tree.get(section), dict) and key in tree[section]:
            found.append((lines[(section, key)], f"{name} is no setting any more ({reason}); remove the line"))
    return found


def _without_gone(tree: dict[str, Any]) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    for name, value in tree.items():
        # A section that is named and left empty means its defaults, but for those that `null` switches off.
        if value is None and name in Settings.model_fields and name not in ("mpirun", *OFF_BY_NULL):
            continue
        rest[name] = {k: v for k, v in value.items() if f"{name}.{k}" not in GONE} if isinstance(value, dict) else value
    return rest


def _line_of(lines: dict[Where, int], where: Where) -> int:
    while where not in lines:
        where = where[:-1]
    return lines[where]


def _sentence(fault: ErrorDetails) -> str:
    where = tuple(part for part in fault["loc"] if part != "[key]")
    name = ".".join(str(part) for part in where if not _is_union_arm(part))
    if fault["type"] == "extra_forbidden":
        return f"unknown key {name}; {_nearest(where)}"
    if fault["type"] == "missing":
        return f"{name} is missing"
    if fault["type"] == "value_error":
        # The text after "Value error, " is a sentence of ours.
        return f"{name} {fault['msg'].removeprefix('Value error, ')}".strip()
    what = f"{name} is {_shown(fault['input'])}"
    if fault["msg"].startswith(_ALLOWED):
        known = re.findall(r"'([^']*)'", str(fault.get("ctx", {}).get("expected", "")))
        return f"{what}; it must be{fault['msg'].removeprefix(_ALLOWED)}{nearest_word(fault['input'], known)}"
    return f"{what}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _is_union_arm(part: str | int) -> bool:
    return isinstance(part, str) and ("[" in part or part in ("int", "none"))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _nearest(where: Where) -> str:
    model: type[BaseModel] | None = Settings
    for part in where[:-1]:
        model = _section_type(model, part) if model is not None else None
    known = sorted(model.model_fields) if model is not None else []
    elsewhere = [name for name in _all_keys() if name.rpartition(".")[2] == where[-1]]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    near = difflib.get_close_matches(str(where[-1]), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"


def _section_type(model: type[BaseModel], part: str | int) -> type[BaseModel] | None:
    """The model of what stands under a key; keys of a dict of sections (queue names) lead to the section's model."""
    field = model.model_fields.get(str(part))
    if field is None:
        return model
    candidates = (field.annotation, *get_args(field.annotation))
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _all_keys() -> list[str]:
    names = []
    for name in Settings.model_fields:
        section = _section_type(Settings, name)
        if section is not None:
            names += [f"{name}.{key}" for key in section.model_fields]
    return names


def _unknown_back_ends(settings: Settings, lines: dict[Where, int]) -> list[_Fault]:
    wanted: list[tuple[Where, BackEnds, str]] = [
        (("scheduler", "scheduler_class"), SCHEDULERS, settings.scheduler.scheduler_class),
    ]
    if settings.launcher.compute_node is not None:
        wanted.append((("launcher", "compute_node"), NODES, settings.launcher.compute_node))
    if settings.mpirun_name != "auto":
        key: Where = ("mpirun",) if settings.mpirun else ("launcher", "mpi_app_launcher")
        wanted.append((key, MPIRUNS, settings.mpirun_name))
    faults = []
    for where, group, name in wanted:
        try:
            group.load(name)
        except (UnknownBackEnd, BackEndBroken) as error:
            faults.append(_Fault(_line_of(lines, where), f"{'.'.join(map(str, where))}: {error}"))
    return faults


def _unknown_options(settings: Settings, lines: dict[Where, int]) -> list[_Fault]:
    """Of a scheduler that can be loaded; what their values must be it says itself when the agent starts."""
    scheduler = settings.scheduler
    known = SCHEDULERS.load(scheduler.scheduler_class).options
    faults = []
    for name in scheduler.scheduler_options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known) or 'none'}"
            where = ("scheduler", "scheduler_options", name)
            faults.append(_Fault(_line_of(lines, where), f"unknown key {'.'.join(where)}; {hint}"))
    return faults
