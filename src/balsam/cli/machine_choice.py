"""Whose settings a new Site begins with, where nobody said it: asked at a terminal, `local` everywhere else."""

import os
import shutil
import sys
from pathlib import Path

import click

from balsam.cli.asking import ask
from balsam.cli.param_types import MachineName


def chosen_machine(path: Path, *, as_json: bool) -> str:
    """The machine for a Site in `path`. Nobody is asked for one that has its settings already. Raises Abort."""
    from balsam.platform.machines import machine_names
    from balsam.platform.machines.likely import likely_machine

    alone = as_json or not (sys.stdin.isatty() and sys.stderr.isatty())
    if alone or (path.expanduser() / "settings.yml").exists():
        return "local"
    likely = likely_machine(os.uname().nodename, os.environ, lambda command: shutil.which(command) is not None)
    click.echo(f"Settings are shipped for: {', '.join(machine_names())}", err=True)
    return ask("Whose to begin with", "--machine", default=likely, type=MachineName())
