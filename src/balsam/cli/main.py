"""Entry point of `balsam`: the table of sub-commands and the one place where errors become exit codes.

Exit codes: 0 well, 1 refused or failed, 2 wrong usage, 3 partly done, 130 interrupted or not confirmed. With `--json`
an error is the one JSON value on stdout. docs/guides/command.md is the page for users.
"""

import os
import sys
from typing import Any

import click

from balsam import __version__
from balsam.cli.group import PATIENCE_IS_GIVEN, Group

FAILED, INTERRUPTED = 1, 130
# A person who waits for an answer gives up sooner than a program that runs for days.
PATIENCE_SEC = "30"
_COMMANDS = {
    "up": ("balsam.cli.up:up", "Service and local site in this terminal: all a laptop needs."),
    "server": ("balsam.cli.server:server", "Run a service, and manage its accounts."),
    "login": ("balsam.cli.login:login", "Log in to a service."),
    "open": ("balsam.cli.open_pages:open_pages", "Open the pages of the service in a browser, logged in."),
    "logout": ("balsam.cli.login:logout", "Forget the login, here and at the service."),
    "token": ("balsam.cli.token:token", "Tokens for programs and agents: list, make, revoke, rotate."),
    "admin": ("balsam.cli.admin:admin", "Accounts, quotas and the audit log of a service, as its administrator."),
    "password": ("balsam.cli.login:change_password", "Change the password of your account."),
    "register": ("balsam.cli.login:register", "Create an account, as an administrator."),
    "site": ("balsam.cli.site:site", "Create, start, change, move and remove Sites."),
    "app": ("balsam.cli.app:app", "Create, list, show, approve and remove Apps."),
    "job": ("balsam.cli.job:job", "Create, list, watch, explain, change and end Jobs."),
    "transfer": ("balsam.cli.transfer:transfer", "See which files are on their way to and from Sites."),
    "queue": ("balsam.cli.queue:queue", "Request, list and end allocations (BatchJobs)."),
    "config": ("balsam.cli.config:config", "Show settings, and where they come from."),
    "doctor": ("balsam.cli.doctor:doctor", "Check this machine, the login, the service and the Site."),
    "completion": ("balsam.cli.completion:completion", "Print a script that completes commands in your shell."),
}


class Root(Group):
    """`balsam` itself."""

    def invoke(self, ctx: click.Context) -> Any:
        ctx.meta[PATIENCE_IS_GIVEN] = bool(os.environ.get("BALSAM_RETRY_FOR_SEC"))
        os.environ.setdefault("BALSAM_RETRY_FOR_SEC", PATIENCE_SEC)
        try:
            answer = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # `balsam job ls | head` is no error; stdout must not be flushed again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        return answer


@click.group(
    cls=Root,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="balsam")
def cli() -> None:
    """Run simulations on machines elsewhere: define Apps, request allocations, submit Jobs, get the results."""


def main() -> None:
    """Run the command line. Never shows a traceback for an expected error, unless BALSAM_CLI_TRACEBACK=1."""
    try:
        code = cli(prog_name="balsam", standalone_mode=False)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code, error)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", INTERRUPTED, None)
    except Exception as error:
        if _is_expected(error):
            _fail(str(error), FAILED, error)
        from balsam.cli import output

        if output.json_wanted(sys.argv):
            output.print_error(type(error).__name__, f"a fault of the program: {error}", FAILED)
        raise
    else:
        sys.exit(code)


def _is_expected(error: Exception) -> bool:
    """Errors that carry their own explanation: classes of ours, and what the operating system or the network said.

    Anything else is a fault in the program, whose traceback is the only explanation there is.
    """
    if os.environ.get("BALSAM_CLI_TRACEBACK") == "1":
        return False
    is_ours = any(kind.__module__.partition(".")[0] == "balsam" for kind in type(error).__mro__)
    # A bare OSError says nothing; its subclasses (no such file in a workdir, time is over) are raised to be read.
    return is_ours or (isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError))


def _fail(message: str, code: int, error: Exception | None) -> None:
    from balsam.cli import output

    if output.json_wanted(sys.argv):
        output.print_error(type(error).__name__ if error else "Interrupted", message, code)
    elif isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(message, err=True)  # the whole help
    elif error is not None:
        context = getattr(error, "ctx", None)
        if context is not None:
            click.echo(context.get_usage(), err=True)
        click.echo(f"balsam: {output.plain(message)}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
