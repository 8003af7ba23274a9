"""Settings in effect, each with where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from balsam.platform.machines import settings_text
from balsam.site.directory import SiteDirectory
from balsam.site.run import Plan
from balsam.site.settings import Settings
from balsam.site.settings_environment import in_effect
from balsam.site.settings_file import SettingsError
from balsam.site.settings_view import settings_in_effect

TEXT = """\
filter_tags: {batch: a}
logging:
  level: WARNING
scheduler:
  sync_period: 3
  allowed_queues:
    debug:
      max_nodes: 4
transfers: null
launcher:
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "settings.yml"
    found.write_text(TEXT)
    return found


def test_each_setting_has_its_value_and_its_line(path: Path) -> None:
    found = {one.name: (one.value, one.origin) for one in settings_in_effect(path, {})}
    assert found["filter_tags.batch"] == ("a", f"{path}:1")
    assert found["logging.level"] == ("WARNING", f"{path}:3")
    assert found["scheduler.sync_period"] == (3.0, f"{path}:5")
    assert found["scheduler.allowed_queues.debug.max_nodes"] == (4, f"{path}:8")
    assert found["scheduler.allowed_queues.debug.max_walltime"] == (60, "default")
    assert found["transfers"] == (None, f"{path}:9")
    assert found["launcher.idle_ttl_sec"] == (60.0, "default")
    assert found["scheduler.scheduler_options"] == ({}, "default")


def test_a_variable_goes_before_the_file(path: Path) -> None:
    found = {one.name: (one.value, one.origin) for one in settings_in_effect(path, {"BALSAM_LOG_LEVEL": "debug"})}
    assert found["logging.level"] == ("DEBUG", "BALSAM_LOG_LEVEL")
    settings, decided = in_effect(Settings(), {"BALSAM_LOG_LEVEL": ""})
    assert settings == Settings() and decided == {}


def test_a_variable_that_can_not_be_used_is_named(path: Path) -> None:
    with pytest.raises(SettingsError, match="BALSAM_LOG_LEVEL is 'loud'; it must be DEBUG, INFO"):
        settings_in_effect(path, {"BALSAM_LOG_LEVEL": "loud"})


def test_no_setting_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "settings.yml"
    path.write_text(settings_text("local"))
    found = settings_in_effect(path, {})
    sections = {one.name.partition(".")[0] for one in found}
    assert sections == set(Settings.model_fields)
    lines = path.read_text().splitlines()
    for one in found:
        if not one.is_default:
            key = lines[int(one.origin.rpartition(":")[2]) - 1].strip().partition(":")[0]
            assert key == one.name.rpartition(".")[2]


def test_an_agent_obeys_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".balsam-site").write_text(json.dumps({"id": 1, "name": "one", "url": "http://127.0.0.1:9"}))
    (tmp_path / "settings.yml").write_text("logging: {level: INFO}\n")
    (tmp_path / "job-template.sh").write_text("{{ launcher_cmd }}\n")
    assert Plan.read(SiteDirectory(tmp_path)).settings.logging.level == "INFO"
    monkeypatch.setenv("BALSAM_LOG_LEVEL", "debug")
    assert Plan.read(SiteDirectory(tmp_path)).settings.logging.level == "DEBUG"
