"""`balsam config show`: what is in effect, and where it comes from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from balsam.platform.machines import settings_text
from tests.cli.commands import balsam


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Site that no service knows."""
    monkeypatch.setenv("BALSAM_HOME", str(tmp_path / "home"))
    for name in ("BALSAM_URL", "BALSAM_TOKEN", "BALSAM_CLIENT_PATH", "BALSAM_SITE_PATH", "BALSAM_RETRY_FOR_SEC"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    root = tmp_path / "site"
    (root / "data").mkdir(parents=True)
    (root / ".balsam-site").write_text(json.dumps({"id": 1, "name": "one", "url": "http://127.0.0.1:9"}))
    (root / "settings.yml").write_text(settings_text("local"))
    monkeypatch.chdir(root / "data")
    return root


def test_each_setting_comes_with_its_origin(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (site / "settings.yml").read_text().splitlines()
    number = next(index for index, line in enumerate(lines, 1) if line.strip().startswith("sync_period"))
    found = {one["name"]: one for one in balsam(monkeypatch, "config", "show", "--json").json()}
    assert found["scheduler.sync_period"]["value"] == 10.0
    assert found["scheduler.sync_period"]["origin"] == f"{site / 'settings.yml'}:{number}"
    assert found["launcher.kill_grace_sec"]["origin"] == "default"
    assert found["site"] == {"name": "site", "value": str(site), "origin": "the directory you stand in"}
    assert found["home"]["origin"] == "BALSAM_HOME"
    assert (found["service.retry_for_sec"]["value"], found["service.retry_for_sec"]["origin"]) == (30.0, "default")
    assert found["service.url"] == {"name": "service.url", "value": None, "origin": "default"}


def test_variables_go_before_files(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site.parent / "home").mkdir(mode=0o700)
    kept = site.parent / "home" / "client.yml"
    kept.touch(mode=0o600)
    kept.write_text("url: http://127.0.0.1:7\ntoken: blsm_user_x\n")
    found = {one["name"]: one for one in balsam(monkeypatch, "config", "show", "--json").json()}
    assert (found["service.url"]["value"], found["service.url"]["origin"]) == ("http://127.0.0.1:7", str(kept))
    variables = {"BALSAM_URL": "http://127.0.0.1:8", "BALSAM_TOKEN": "secret-canary", "BALSAM_LOG_LEVEL": "error"}
    for name, value in {**variables, "BALSAM_RETRY_FOR_SEC": "5", "BALSAM_SITE_PATH": str(site)}.items():
        monkeypatch.setenv(name, value)
    done = balsam(monkeypatch, "config", "show", "--json")
    found = {one["name"]: (one["value"], one["origin"]) for one in done.json()}
    assert found["service.url"] == ("http://127.0.0.1:8", "BALSAM_URL")
    assert found["service.retry_for_sec"] == (5.0, "BALSAM_RETRY_FOR_SEC")
    assert found["logging.level"] == ("ERROR", "BALSAM_LOG_LEVEL")
    assert found["site"] == (str(site), "BALSAM_SITE_PATH")
    assert "secret-canary" not in done.out


def test_set_leaves_out_defaults(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "settings.yml").write_text("scheduler:\n  sync_period: 3\n")
    shown = balsam(monkeypatch, "config", "show", "--set", str(site)).out.splitlines()
    assert [line.split()[0] for line in shown] == ["Setting", "home", "site", "scheduler.sync_period"]
    assert shown[-1].split() == ["scheduler.sync_period", "3.0", f"{site}/settings.yml:2"]
    assert shown[2].endswith("  PATH")


def test_faults_are_told_with_their_lines(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "settings.yml").write_text("apps:\n  accept: pined\nscheduler:\n  alowed_queues: {}\n")
    done = balsam(monkeypatch, "config", "show")
    assert done.code == 1
    assert f"{site / 'settings.yml'} can't be used:" in done.err
    assert "line 2: apps.accept is 'pined'; it must be 'owner' or 'pinned'; did you mean 'pinned'?" in done.err
    assert "line 4: unknown key scheduler.alowed_queues; did you mean allowed_queues?" in done.err


def test_outside_of_a_site_there_are_those_of_the_user(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site.parent)
    done = balsam(monkeypatch, "config", "show")
    assert done.code == 0 and "stand in no Site" in done.err
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == ["home", "service.url", "service.retry_for_sec"]
    assert os.environ.pop("BALSAM_RETRY_FOR_SEC") == "30"
