"""Asking a person: before something is done that can't be taken back, and for what was not given. Always on stderr."""

import os
import sys
from typing import Any, NoReturn

import click

yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def confirm(question: str, *, yes: bool, as_json: bool) -> None:
    """Go on after a yes. Raises Abort after a no or Ctrl-C, UsageError where nobody can be asked."""
    if yes:
        return
    if as_json:
        raise click.UsageError(f"{question} With --json nobody is asked; add --yes when you mean it")
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort as abort:
        _nobody(abort, f"{question} There is nobody to ask; add --yes when you mean it")
    if not agreed:
        click.echo("Nothing was changed.", err=True)
        raise click.Abort


def ask(what: str, instead: str, **options: Any) -> str:
    """What a person answers. Raises Abort after Ctrl-C, UsageError that names what to give `instead`."""
    if not _has_terminal():
        options["hide_input"] = False  # nothing can be seen, and Python would warn that it could
    try:
        return str(click.prompt(what, err=True, **options))
    except click.Abort as abort:
        _nobody(abort, f"there is nobody to ask for the {what.lower()}; give {instead}")


def _has_terminal() -> bool:
    if sys.stdin.isatty():
        return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))  # where passwords are asked when stdin is a file
    except OSError:
        return False
    return True


def _nobody(abort: click.Abort, instead: str) -> NoReturn:
    if sys.stdin.isatty() or not isinstance(abort.__context__, EOFError):
        raise abort
    click.echo(err=True)  # after the question that stands there
    raise click.UsageError(instead) from None
