"""Where a command gets a password from: --password-stdin, BALSAM_PASSWORD, or the person at the terminal.

Never from an argument, which every user of the machine can read. Used by `balsam login` and `balsam server add-user`;
the command gets `password`.
"""

import os
import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import click

VARIABLE = "BALSAM_PASSWORD"
Command = Callable[..., Any]


def _options(command: Command, *, confirm: bool) -> Command:
    @click.option("--password-stdin", is_flag=True, help="Read the password from standard input, one line.")
    @wraps(command)
    def with_password(*words: Any, password_stdin: bool, **options: Any) -> Any:
        return command(*words, password=_password(password_stdin, confirm), **options)

    return with_password


password_options = partial(_options, confirm=False)
new_password_options = partial(_options, confirm=True)


def _password(from_stdin: bool, confirm: bool) -> str:
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            raise click.UsageError("--password-stdin: there is no password on standard input")
        return password
    given = os.environ.get(VARIABLE)
    if given:
        return given
    # On stderr: stdout may be for a program that reads one JSON value.
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True))
