"""Which errors the command line explains in one line, and which show their traceback."""

from __future__ import annotations

import errno
import json
import socket
import sys
from collections.abc import Callable

import click
import pytest

from balsam.cli import main, output
from balsam.client.errors import Conflict, NotConfigured, ValidationFailed
from balsam.domain.paths import BadPath
from balsam.domain.template import ParameterError, TemplateError
from balsam.platform.registry import BackEndBroken, UnknownBackEnd
from balsam.platform.scheduler.base import SchedulerUnavailable
from balsam.server.settings import SettingsError as ServiceSettingsError
from balsam.site.directory import SiteError
from balsam.site.services.script import ScriptError
from balsam.site.settings_file import SettingsError
from tests.cli.commands import balsam

OURS = (
    *(NotConfigured, ValidationFailed, Conflict, SiteError, SettingsError, ServiceSettingsError, ScriptError),
    *(BadPath, TemplateError, ParameterError, UnknownBackEnd, BackEndBroken, SchedulerUnavailable),
)
SYSTEMS = (
    FileNotFoundError(errno.ENOENT, "No such file or directory", "settings.yml"),
    PermissionError(errno.EACCES, "Permission denied"),
    FileNotFoundError("there is no 'x' in the workdir"),
    TimeoutError("3 of 4 Jobs are not done after 5 s"),
    ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
)
FAULTS = (
    ValueError("invalid literal for int() with base 10: 'x'"),
    json.JSONDecodeError("Expecting value", "", 0),
    KeyError("id"),
    TypeError("unsupported operand"),
    AttributeError("no attribute"),
    OSError("raised by hand"),
    LookupError("x"),
)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Runs the command line with a command that raises."""

    def run(error: Exception) -> None:
        @click.command()
        def broken() -> None:
            raise error

        monkeypatch.setattr(sys, "argv", ["balsam"])
        monkeypatch.setattr(main, "cli", broken)
        main.main()

    return run


@pytest.mark.parametrize("error", [kind("what is wrong") for kind in OURS] + list(SYSTEMS), ids=repr)
def test_explained(error: Exception, failing: Callable[[Exception], None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        failing(error)
    assert end.value.code == 1
    assert capsys.readouterr().err == f"balsam: {error}\n"


@pytest.mark.parametrize("words", [(), ("job",)], ids=str)
def test_a_group_without_a_command_shows_its_help(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    done = balsam(monkeypatch, *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"Usage: {' '.join(['balsam', *words])} [OPTIONS] COMMAND")
    assert done.err.count("Usage:") == 1
    assert "Commands:" in done.err


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_a_fault_of_the_program_keeps_its_traceback(error: Exception, failing: Callable[[Exception], None]) -> None:
    with pytest.raises(type(error)) as shown:
        failing(error)
    assert shown.value is error


def test_a_fault_of_the_program_is_one_json_value_beside_its_traceback(
    failing: Callable[[Exception], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "json_wanted", lambda words: True)
    monkeypatch.setattr(output, "_printed", False)
    with pytest.raises(KeyError):
        failing(KeyError("id"))
    told = {"error": {"type": "KeyError", "message": "a fault of the program: 'id'"}, "exit_code": 1}
    assert json.loads(capsys.readouterr().out) == told


def test_a_traceback_can_be_asked_for(failing: Callable[[Exception], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALSAM_CLI_TRACEBACK", "1")
    with pytest.raises(SiteError):
        failing(SiteError("what is wrong"))


@pytest.mark.parametrize("given", ["x", "x=y", "=client:/a", "x=client:here"])
def test_the_place_of_a_file_is_refused_with_an_example(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    done = balsam(monkeypatch, "job", "create", "-w", "a", "-a", "Hello", "-s", given)
    assert done.code == 2
    assert "is not SLOT=ALIAS:/ABSOLUTE/PATH, as in --stage-data input=client:/home/me/in.dat" in done.err
