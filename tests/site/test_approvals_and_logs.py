"""Approved Apps are the Site's own word (S15); the log is bounded and its disk may fill."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from balsam.site.approvals import approve_app, approved_apps
from balsam.site.crash_points import CRASH_POINTS, crash_point
from balsam.site.directory import SiteDirectory, SiteError
from balsam.site.launcher_config import launcher_config_maker
from balsam.site.logs import start_logging
from balsam.site.settings import AppsSettings, LoggingSettings, Settings
from tests.site.test_script import batch_job


@pytest.fixture
def quiet_root() -> Iterator[None]:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.raiseExceptions)
    yield
    for handler in root.handlers:
        if handler not in before[0]:
            with contextlib.suppress(OSError):
                handler.close()
    root.handlers, root.level, logging.raiseExceptions = before


def pinned(site: SiteDirectory, accept: str) -> list[str] | None:
    settings = Settings(apps=AppsSettings(accept=accept))
    text = launcher_config_maker(site, settings, 1)(batch_job(), site.root / "qsubmit")
    return json.loads(text)["pinned_apps"]


def test_pinned_sites_run_what_was_approved_here_and_nothing_else_s15(tmp_path: Path) -> None:
    site = SiteDirectory(tmp_path)
    assert pinned(site, "owner") is None
    assert pinned(site, "pinned") == []
    approve_app(site, "aa" * 32, "Hello")
    approve_app(site, "bb" * 32, "World")
    assert pinned(site, "pinned") == ["aa" * 32, "bb" * 32]
    assert approved_apps(site)["aa" * 32] == "Hello"


@pytest.mark.parametrize("content", ["{torn", "[]", '{"a": 1}'])
def test_approvals_that_can_not_be_understood_approve_nothing_s15(tmp_path: Path, content: str) -> None:
    site = SiteDirectory(tmp_path)
    (tmp_path / "approved-apps.json").write_text(content)
    with pytest.raises(SiteError, match=r"approved-apps\.json"):
        approved_apps(site)


def test_the_log_is_rotated(tmp_path: Path, quiet_root: None) -> None:
    site = SiteDirectory(tmp_path)
    start_logging(site, LoggingSettings(max_bytes=2000, backup_count=2), terminal=False)
    for number in range(200):
        logging.getLogger("balsam.test").info("line %d", number)
    names = sorted(path.name for path in site.log.iterdir())
    assert names == ["agent.log", "agent.log.1", "agent.log.2"]
    assert all(path.stat().st_size <= 2000 for path in site.log.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_costs_log_lines_and_nothing_else_f10(tmp_path: Path, quiet_root: None) -> None:
    site = SiteDirectory(tmp_path)
    site.log.mkdir()
    (site.log / "agent.log").symlink_to("/dev/full")
    start_logging(site, LoggingSettings(), terminal=False)
    logging.getLogger("balsam.test").warning("goes nowhere")


def test_crash_points_do_nothing_in_production_and_are_all_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BALSAM_CRASH_POINT", raising=False)
    for point in CRASH_POINTS:
        crash_point(point)
    with pytest.raises(ValueError, match="not listed"):
        crash_point("somewhere")
