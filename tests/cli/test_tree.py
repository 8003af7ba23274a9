"""What every command of `balsam` has in common, by walking them all."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from tests.cli.commands import balsam, command_at, leaves

LEAVES = sorted(leaves())
NAMES = [" ".join(path) for path in LEAVES]
# These start a service: what they print is in tests/system/test_command.py and test_command_server.py.
STAY = {("up",), ("server", "up"), ("server", "deploy")}
SELECTORS = {"--id", "--state", "--exclude-state", "--failure", "--tag", "--workdir", "--app", "--since", "--site"}


def options(path: tuple[str, ...]) -> set[str]:
    return {name for param in command_at(path).params for name in (*param.opts, *param.secondary_opts)}


@pytest.mark.parametrize("path", LEAVES, ids=NAMES)
def test_every_command_has_json_and_says_what_it_does(path: tuple[str, ...]) -> None:
    assert "--json" in options(path)
    command = command_at(path)
    assert command.help and command.get_short_help_str(200)
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            described = param.help or isinstance(param.type, click.Choice)
            assert described, f"balsam {' '.join(path)} {param.opts[0]} has no help"


@pytest.mark.parametrize("path", LEAVES, ids=NAMES)
def test_the_line_in_the_group_and_the_help_of_the_command_agree_on_the_name(path: tuple[str, ...]) -> None:
    assert command_at(path).name == path[-1]


@pytest.mark.parametrize("path", LEAVES, ids=NAMES)
def test_wrong_usage_is_one_json_value(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    done = balsam(monkeypatch, *path, "--no-such-option", "--json")
    assert done.code == 2
    assert done.json()["exit_code"] == 2 and "no-such-option" in done.json()["error"]["message"].lower()
    assert done.err == ""


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in STAY], ids=" ".join)
def test_without_a_service_and_a_site_there_is_one_json_value(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BALSAM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BALSAM_PASSWORD", "correct horse")
    monkeypatch.setenv("BALSAM_RETRY_FOR_SEC", "0")
    monkeypatch.chdir(tmp_path)
    done = balsam(monkeypatch, *path, *dummies(path, tmp_path), "--json")
    found = done.json()
    assert done.code in (0, 1, 2)
    if done.code and path not in (("doctor",), ("server", "doctor")):  # whose findings are its answer
        assert found["exit_code"] == done.code and found["error"]["message"] and found["error"]["type"]


def dummies(path: tuple[str, ...], tmp_path: Path) -> list[str]:
    """Something for each required argument and option."""
    words: list[str] = []
    for param in command_at(path).params:
        if not param.required:
            continue
        if isinstance(param.type, click.Choice):
            value = str(next(iter(param.type.choices)))
        elif isinstance(param.type, click.Path):
            value = str(tmp_path / "x")
        else:
            value = "http://127.0.0.1:9" if param.name == "url" else "1"
        words += [param.opts[-1], value] if isinstance(param, click.Option) else [value]
    return words


@pytest.mark.parametrize("verb", ["ls", "wait", "cancel", "retry", "rm", "modify", "logs", "events", "explain"])
def test_every_verb_on_jobs_has_the_same_selectors(verb: str) -> None:
    assert options(("job", verb)) >= SELECTORS


@pytest.mark.parametrize("path", [("job", "ls"), ("queue", "ls"), ("site", "ls"), ("job", "events")], ids=" ".join)
def test_every_list_can_be_watched(path: tuple[str, ...]) -> None:
    assert options(path) >= {"--watch", "--every"}


@pytest.mark.parametrize(
    ("path", "known"),
    [
        (("job", "create"), "-w -a -tag -p -n -rpn -tpr -tpc -g -npc -lp -t -pid -s -y --site --param --parent-id"),
        (("job", "ls"), "-t -s -ns --id --by-state -w -a --site -v --tag --state --exclude-state"),
        (("job", "modify"), "-i --id -t --tag -s --state"),
        (("job", "rm"), "-i --id -t --tag -s --state -ns --site -y --all"),
        (("queue", "submit"), "-n -t -q -A -j -tag -p -x --site --part --extra-param --job-mode"),
        (("queue", "ls"), "-n --num -h --history -v --site --scheduler_id"),
        (("app", "ls"), "-v -s --site"),
        (("app", "rm"), "-n --name -s --site -a --all"),
        (("site", "ls"), "-v"),
        (("site", "init"), "-n --name"),
        (("site", "rm"), "-f --force"),
        (("login",), "-u --url -f --force"),
        (("register",), "-a --address -u --username"),
        (("server", "deploy"), "-p --path"),
        (("server", "up"), "-p --path --log --no-log"),
        (("server", "down"), "-p --path"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_of_balsam_0_7_are_understood(path: tuple[str, ...], known: str) -> None:
    assert options(path) >= set(known.split())


def test_a_typo_is_answered_with_the_nearest_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "did you mean 'explain'?" in balsam(monkeypatch, "job", "explian").err
    assert "did you mean 'queue'?" in balsam(monkeypatch, "qeue", "ls", "--json").json()["error"]["message"]
    assert "there are: ls," in balsam(monkeypatch, "job", "xyzzy").err


@pytest.mark.parametrize("words", [("up",), ("up", "--background"), ("deploy", "-p", "nowhere")], ids=" ".join)
def test_a_password_among_the_arguments_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("BALSAM_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    done = balsam(monkeypatch, "server", *words, "--database", "postgresql://ann:canary@h/db", "--json")
    assert done.code == 2 and "can be read by others" in done.json()["error"]["message"]
    assert "canary" not in done.out and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("group", ["job", "queue", "site", "app"])
def test_list_is_ls(group: str) -> None:
    assert command_at((group, "list")) is command_at((group, "ls"))


def test_the_guide_names_every_command() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "command.md").read_text()
    rows = re.findall(r"^\| `(balsam(?: [a-z]+)?)` \| (.*) \|$", guide, re.MULTILINE)
    told = {(*group.split()[1:], verb) for group, verbs in rows for verb in re.findall(r"`([a-z-]+)`", verbs)}
    assert told == set(LEAVES)
