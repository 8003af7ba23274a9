"""Where a command gets a password from: --password-stdin, BALSAM_PASSWORD, or the person at the terminal.

Never from an argument, which every user of the machine can read. Used by `balsam login`, `register` and `server
add-user`; the command gets `password`, a Password that reads it when it is needed.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import click

from balsam.cli.asking import ask

VARIABLE = "BALSAM_PASSWORD"
Command = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Password:
    """A password that is not read yet; `is_new`: a person types it twice."""

    from_stdin: bool
    is_new: bool

    @property
    def is_given(self) -> bool:
        """Whether nobody need be asked."""
        return self.from_stdin or bool(os.environ.get(VARIABLE))

    def read(self) -> str:
        """The password. Raises UsageError when there is none."""
        if self.from_stdin:
            password = sys.stdin.readline().rstrip("\r\n")
            if not password:
                raise click.UsageError("--password-stdin: there is no password on standard input")
            return password
        given = os.environ.get(VARIABLE)
        instead = f"{VARIABLE} or --password-stdin"
        return given or ask("Password", instead, hide_input=True, confirmation_prompt=self.is_new)


def _options(command: Command, *, is_new: bool) -> Command:
    @click.option("--password-stdin", is_flag=True, help="Read the password from standard input, one line.")
    @wraps(command)
    def with_password(*words: Any, password_stdin: bool, **options: Any) -> Any:
        return command(*words, password=Password(password_stdin, is_new), **options)

    return with_password


password_options = partial(_options, is_new=False)
new_password_options = partial(_options, is_new=True)
