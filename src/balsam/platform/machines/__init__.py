"""Facts about known machines, as data: for each a `NAME.yml` and a `NAME.job-template.sh`.

`balsam site init` writes them into the new Site's directory as settings.yml and job-template.sh. `local` has every
section of settings; the others have those in which the machine differs, and get the rest from it. A machine is added by
adding two files: docs/guides/add-your-machine.md.
"""

import difflib
import re
from importlib.resources import files

_SETTINGS = ".yml"
_TEMPLATE = ".job-template.sh"
_COMPLETE = "local"
_SECTION = re.compile(r"^([a-z_]+):", re.MULTILINE)


class UnknownMachine(LookupError):
    """No machine of this name is shipped; the text names the nearest one."""


def machine_names() -> list[str]:
    """Machines that a Site can be set up for, sorted.

    >>> "local" in machine_names()
    True
    """
    return sorted(
        entry.name.removesuffix(_SETTINGS) for entry in files(__name__).iterdir() if entry.name.endswith(_SETTINGS)
    )


def settings_text(machine: str) -> str:
    """Text of settings.yml for the machine, with every section. Raises UnknownMachine."""
    own = _sections(_read(machine, _SETTINGS))
    every = _sections(_read(_COMPLETE, _SETTINGS))
    return "\n\n".join(own.get(name, text) for name, text in every.items()) + "\n"


def job_template_text(machine: str) -> str:
    """Text of job-template.sh (Jinja2) for the machine. Raises UnknownMachine."""
    return _read(machine, _TEMPLATE)


def _sections(text: str) -> dict[str, str]:
    """The paragraphs of a settings file by the key each one sets; the head, which sets none, is under ""."""
    found = {}
    for paragraph in re.split(r"\n{2,}", text.strip("\n")):
        key = _SECTION.search(paragraph)
        found[key[1] if key else ""] = paragraph
    return found


def _read(machine: str, ending: str) -> str:
    known = machine_names()
    if machine not in known:
        near = difflib.get_close_matches(machine, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise UnknownMachine(f"no machine is named {machine!r}; {hint}")
    return files(__name__).joinpath(machine + ending).read_text(encoding="utf-8")
