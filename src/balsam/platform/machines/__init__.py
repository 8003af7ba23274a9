"""Facts about known machines, as data: for each a `NAME.yml` (the Site's settings) and a `NAME.job-template.sh`.

`balsam site init` copies the pair of the chosen machine into the new Site's directory as settings.yml and
job-template.sh. A machine is added by adding two files.
"""

import difflib
from importlib.resources import files

_SETTINGS = ".yml"
_TEMPLATE = ".job-template.sh"


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
    """Text of settings.yml for the machine. Raises UnknownMachine."""
    return _read(machine, _SETTINGS)


def job_template_text(machine: str) -> str:
    """Text of job-template.sh (Jinja2) for the machine. Raises UnknownMachine."""
    return _read(machine, _TEMPLATE)


def _read(machine: str, ending: str) -> str:
    known = machine_names()
    if machine not in known:
        near = difflib.get_close_matches(machine, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise UnknownMachine(f"no machine is named {machine!r}; {hint}")
    return files(__name__).joinpath(machine + ending).read_text(encoding="utf-8")
