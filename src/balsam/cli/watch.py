"""`--watch`: show a list again and again until Ctrl-C.

On a terminal it is drawn in place, cut to the height of the screen. Piped, it is written again, below the time, when it
changed. While the service can't be reached the last list stays in sight and the reason stands below it.
"""

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

import click

from balsam.cli.output import plain

DEFAULT_SEC = 2.0
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def watch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--watch`, `--every SEC`: the command gets `watch` and `every_sec`."""
    for option in (
        click.option("--watch", is_flag=True, help="Show it again and again until Ctrl-C."),
        click.option(
            *("--every", "every_sec"),
            type=click.FloatRange(min=0.2),
            default=DEFAULT_SEC,
            show_default=True,
            help="Seconds between two looks of --watch.",
        ),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class View:
    """A list as it is now, and what there is to say of it, in whoever's words (on stderr, when it is shown once)."""

    text: str
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "note", plain(self.note))


def show(look: Callable[[], View], empty: str, *, watch: bool, every_sec: float, as_json: bool) -> None:
    """Print a list, `empty` on stderr when nothing is in it; with `watch` again and again."""
    if watch and as_json:
        raise click.UsageError("--watch is for people; with --json ask again when you want to know again")
    now = look()
    if watch:
        draw = _draw_in_place if sys.stdout.isatty() else _write_when_changed
        draw(look, now, empty, every_sec)
    click.echo(now.text or empty, err=not now.text)
    if now.note:
        click.echo(now.note, err=True)


def _draw_in_place(look: Callable[[], View], now: View, empty: str, every_sec: float) -> NoReturn:
    trouble = ""
    while True:
        lines = (now.text or empty).split("\n")
        room = max(1, shutil.get_terminal_size().lines - 4)
        if len(lines) > room:
            lines[room:] = [f"... and {len(lines) - room} more lines"]
        lines += [
            "",
            now.note,
            trouble or f"{datetime.now().astimezone():%H:%M:%S}, every {every_sec:g} s; Ctrl-C ends",
        ]
        sys.stdout.write(_HOME + "".join(f"{line}{_REST_OF_LINE}\n" for line in lines) + _REST_OF_SCREEN)
        sys.stdout.flush()
        time.sleep(every_sec)
        now, trouble = _next(look, now)


def _write_when_changed(look: Callable[[], View], now: View, empty: str, every_sec: float) -> NoReturn:
    written = None
    while True:
        if now != written:
            note = f"# {now.note}\n" if now.note else ""
            click.echo(f"# {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n{now.text or empty}\n{note}")
            written = now
        time.sleep(every_sec)
        now, trouble = _next(look, now)
        if trouble:
            click.echo(f"balsam: {trouble}", err=True)


def _next(look: Callable[[], View], before: View) -> tuple[View, str]:
    from balsam.client.errors import BalsamError

    try:
        return look(), ""
    except BalsamError as error:
        return before, f"{plain(str(error))}; trying again"
