"""The shipped units and the container image: what they name exists, and systemd finds nothing wrong with the units."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from balsam.cli.main import cli

PACKAGING = Path(__file__).parents[2] / "packaging"
UNITS = sorted((PACKAGING / "systemd").iterdir())
SECTIONS = {"Unit", "Service", "Socket", "Install"}


def values(path: Path) -> dict[str, list[str]]:
    """Each key of a unit file with its values. A line that is none of its forms fails."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if section := re.fullmatch(r"\[(\w+)\]", line):
            assert section[1] in SECTIONS, line
            continue
        key, equals, value = line.partition("=")
        assert equals and re.fullmatch(r"[A-Za-z]+", key), line
        found.setdefault(key, []).append(value)
    return found


def check_command(words: list[str]) -> None:
    """The command exists, and takes the options that the file gives it."""
    command: click.Command = cli
    context = click.Context(command, info_name="balsam")
    for word in words:
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.get_command(context, word)
            assert found is not None, f"there is no command {word!r}"
            command = found
        elif word.startswith("--"):
            assert word in {opt for param in command.params for opt in param.opts}, f"{command.name} has no {word}"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_says_what_systemd_understands_and_balsam_does(path: Path, tmp_path: Path) -> None:
    for line in values(path).get("ExecStart", []):
        program, *words = shlex.split(line)
        assert program.endswith("/bin/balsam")
        check_command([word for word in words if not word.startswith(("$", "%"))])
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return  # the parser above is all that can be asked here
    for unit in UNITS:  # they name one another, and programs that are not installed here
        text = re.sub(r"^ExecStart=\S+/bin/balsam", f"ExecStart={sys.executable}", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name.replace("@.", "@site.")).write_text(text)
    done = subprocess.run(
        [analyze, "verify", str(tmp_path / path.name.replace("@.", "@site."))],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_signal_of_a_reload_is_the_one_that_the_service_hears() -> None:
    assert values(PACKAGING / "systemd" / "balsam.service")["ExecReload"] == ["/bin/kill -USR2 $MAINPID"]


def test_the_container_copies_what_is_there_and_starts_what_exists() -> None:
    text = (PACKAGING / "container" / "Containerfile").read_text()
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (PACKAGING.parent / source).exists(), source
    entry = re.search(r"^ENTRYPOINT \[(.*)\]$", text, re.MULTILINE)
    assert entry is not None
    program, *words = [word.strip(' "') for word in entry[1].split(",")]
    assert program == "balsam"
    check_command([word for word in words if re.match(r"--|[a-z]+$", word)])
