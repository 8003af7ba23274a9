"""Every setting of a Site that is in effect, with where its value comes from. Read by `balsam config show`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from balsam.site.settings_environment import in_effect
from balsam.site.settings_file import Where, read_settings

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class SettingInEffect:
    """One setting: `value` as it was understood; `origin` is a file with its line, a variable, or `default`."""

    name: str
    value: object
    origin: str

    @property
    def is_default(self) -> bool:
        return self.origin == DEFAULT


def settings_in_effect(path: Path, environ: Mapping[str, str]) -> list[SettingInEffect]:
    """All settings of a settings.yml, in the order in which they are documented. Raises SettingsError."""
    located = read_settings(path)
    settings, from_variables = in_effect(located.settings, environ)
    return [
        SettingInEffect(".".join(where), value, from_variables.get(where) or _origin(path, located.lines, where))
        for where, value in _leaves(settings, ())
    ]


def _origin(path: Path, lines: Mapping[Where, int], where: Where) -> str:
    return f"{path}:{lines[where]}" if where in lines else DEFAULT


def _leaves(value: object, where: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    """What has no settings of its own below it; an empty section of names counts as a value."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _leaves(getattr(value, name), (*where, name))
    elif isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(item, (*where, str(name)))
    else:
        yield where, value
