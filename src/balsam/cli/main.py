"""Entry point of `balsam`: the table of sub-commands and the one place where errors become exit codes.

Sub-commands are imported when they are called, so that `balsam --help` stays quick on slow file systems. Exit codes:
0 well, 1 refused or failed, 2 wrong usage, 3 partly done, 130 interrupted.
"""

import importlib
import os
import sys

import click

from balsam import __version__

_COMMANDS = {
    "up": ("balsam.cli.up:up", "Service and local site in this terminal: all a laptop needs."),
    "server": ("balsam.cli.server:server", "Run a service, and manage its accounts."),
    "login": ("balsam.cli.login:login", "Log in to a service."),
    "logout": ("balsam.cli.login:logout", "Forget the login, here and at the service."),
    "site": ("balsam.cli.site:site", "Create, start and stop Sites."),
    "app": ("balsam.cli.app:app", "List, show and approve Apps."),
    "job": ("balsam.cli.job:job", "List, watch, explain and cancel Jobs."),
    "queue": ("balsam.cli.queue:queue", "Request, list and end allocations (BatchJobs)."),
    "doctor": ("balsam.cli.doctor:doctor", "Check this machine, the login, the service and the Site."),
}


class LazyGroup(click.Group):
    """A group that knows names and one-line helps, and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="balsam")
def cli() -> None:
    """Run simulations on machines elsewhere: define Apps, request allocations, submit Jobs, get the results."""


def main() -> None:
    """Run the command line. Never shows a traceback for an expected error, unless BALSAM_CLI_TRACEBACK=1."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code, error)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # `balsam job ls | head` is no error; stdout must not be flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if not _is_expected(error):
            raise
        _fail(str(error), 1, error)


def _is_expected(error: Exception) -> bool:
    """Errors that carry their own explanation: classes of ours, and what the operating system or the network said.

    Anything else is a fault in the program, whose traceback is the only explanation there is.
    """
    if os.environ.get("BALSAM_CLI_TRACEBACK") == "1":
        return False
    is_ours = any(kind.__module__.partition(".")[0] == "balsam" for kind in type(error).__mro__)
    # A bare OSError says nothing; its subclasses (no such file in a workdir, time is over) are raised to be read.
    return is_ours or (isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError))


def _fail(message: str, code: int, error: Exception) -> None:
    if "--json" in sys.argv:
        from balsam.cli.output import print_json

        print_json({"error": {"type": type(error).__name__, "message": message}, "exit_code": code})
    else:
        context = getattr(error, "ctx", None)
        if context is not None:
            click.echo(context.get_usage(), err=True)
        click.echo(f"balsam: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
