"""What `balsam doctor` and `balsam site doctor` found: one line for each check, and what to do about it."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import click

from balsam.cli.output import plain, print_json

_MARKS = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}
_INDENT = " " * 9


@dataclass(frozen=True, slots=True)
class Finding:
    """One check; `fix` says what to do."""

    check: str
    status: Literal["ok", "warning", "problem"]
    message: str
    fix: str = ""


Check = Callable[[], Iterator[Finding]]


def guarded(name: str, check: Check) -> Iterator[Finding]:
    """The findings of a check; one that fails is a finding, whatever it raised."""
    try:
        yield from check()
    except Exception as error:
        yield Finding(name, "problem", f"{type(error).__name__}: {error}")


def show(findings: list[Finding], *, as_json: bool) -> None:
    """Print them. Exits with 1 when something does not work."""
    if as_json:
        print_json([asdict(finding) for finding in findings])
    for finding in findings if not as_json else ():
        message = plain(finding.message).replace("\n", f"\n{_INDENT}")
        click.echo(f"{_MARKS[finding.status]}  {finding.check}: {message}")
        if finding.fix:
            click.echo(f"{_INDENT}-> {plain(finding.fix)}")
    if any(finding.status == "problem" for finding in findings):
        raise click.exceptions.Exit(1)
