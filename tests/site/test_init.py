"""`site init`: complete, repeatable, interrupted anywhere, and nothing half-done after a failure (S11)."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from balsam.client.errors import BalsamError
from balsam.client.settings import ClientSettings
from balsam.client.transport import Transport
from balsam.site.directory import SiteDirectory, SiteError, current_site_id, find_site, require_site
from balsam.site.init import init_site
from tests.site.fake_service import USER_TOKEN, FakeService

STEPS = ["begun", "settings.yml", "job-template.sh", "before-register", "registered", "credentials", "marker"]


class Interrupted(BaseException):
    """A kill, as far as init can tell."""


def test_a_new_site_is_complete(tmp_path: Path, user: Transport, service: FakeService) -> None:
    old = os.umask(0)
    try:
        made = init_site(tmp_path / "deep" / "site", transport=user)
    finally:
        os.umask(old)
    assert (made.id, made.name, made.path) == (1, "site", tmp_path / "deep" / "site")
    assert sorted(item.name for item in made.path.iterdir()) == [
        ".balsam-site", "credentials.json", "data", "job-template.sh", "log", "qsubmit", "settings.yml",
    ]  # fmt: skip
    site = SiteDirectory(made.path)
    assert site.identity().id == 1
    assert stat.S_IMODE(site.credentials.stat().st_mode) == 0o600
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o700 for one in (made.path, site.data, site.log, site.qsubmit))
    assert service.sites[1].path == str(made.path)


def test_a_relative_path_and_a_name(tmp_path: Path, user: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = init_site(Path("here"), "my laptop", transport=user)
    assert (made.name, made.path) == ("my laptop", tmp_path / "here")


def test_running_it_again_changes_nothing(tmp_path: Path, user: Transport, service: FakeService) -> None:
    first = init_site(tmp_path / "site", transport=user)
    (first.path / "settings.yml").write_text("filter_tags: {a: b}\n")
    before = (first.path / "credentials.json").read_text()
    assert init_site(tmp_path / "site", transport=user) == first
    assert service.creates == 1
    assert (first.path / "credentials.json").read_text() == before
    assert (first.path / "settings.yml").read_text() == "filter_tags: {a: b}\n"
    with pytest.raises(SiteError, match="is the Site 'site' already"):
        init_site(tmp_path / "site", "other", transport=user)


def test_running_it_again_replaces_a_token_that_is_no_longer_accepted(
    tmp_path: Path, user: Transport, service: FakeService
) -> None:
    made = init_site(tmp_path / "site", transport=user)
    path = made.path / "credentials.json"
    service.tokens.discard(json.loads(path.read_text())["token"])
    init_site(tmp_path / "site", transport=user)
    assert json.loads(path.read_text())["token"] in service.tokens


@pytest.mark.parametrize("step", STEPS)
def test_interrupted_at_any_step_it_is_completed_by_running_it_again_s11(
    tmp_path: Path, user: Transport, service: FakeService, step: str
) -> None:
    def interrupt(name: str) -> None:
        if name == step:
            raise Interrupted

    with pytest.raises(Interrupted):
        init_site(tmp_path / "site", transport=user, step=interrupt)
    made = init_site(tmp_path / "site", transport=user)
    assert (service.creates, len(service.sites)) == (1, 1)
    assert made.id == 1
    assert SiteDirectory(made.path).identity().name == "site"
    assert json.loads((made.path / "credentials.json").read_text())["token"] in service.tokens
    if step != "marker":
        assert not (made.path / ".balsam-init.json").exists()


def test_a_lost_reply_does_not_make_two_sites_s2(tmp_path: Path, user: Transport, service: FakeService) -> None:
    def lose(name: str) -> None:
        service.lose_replies = 1 if name == "before-register" else 0

    made = init_site(tmp_path / "site", transport=user, step=lose)
    assert (service.creates, made.id) == (1, 1)
    assert service.requests.count("POST /sites") == 2


def test_a_service_that_goes_away_in_the_middle_leaves_what_the_next_run_completes_s11(
    tmp_path: Path, user: Transport, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go_away(name: str) -> None:
        service.away = name == "before-register"

    monkeypatch.setattr("balsam.site.init.CALL_SEC", 0.3)
    with pytest.raises(BalsamError, match="balsam site init"):
        init_site(tmp_path / "site", "mine", transport=user, step=go_away)
    with pytest.raises(SiteError, match="is not a Site directory"):
        SiteDirectory(tmp_path / "site").identity()
    service.away = False
    assert init_site(tmp_path / "site", "mine", transport=user).id == 1
    assert service.creates == 1


def test_completed_after_the_service_forgot_the_key_it_is_still_one_site_s2(
    tmp_path: Path, user: Transport, service: FakeService
) -> None:
    def interrupt(name: str) -> None:
        if name == "registered":
            raise Interrupted

    with pytest.raises(Interrupted):
        init_site(tmp_path / "site", transport=user, step=interrupt)
    service.answered.clear()
    assert init_site(tmp_path / "site", transport=user).id == 1
    assert service.creates == 1


def test_begun_under_one_name_it_is_not_completed_under_another(
    tmp_path: Path, user: Transport, service: FakeService
) -> None:
    def interrupt(name: str) -> None:
        if name == "registered":
            raise Interrupted

    with pytest.raises(Interrupted):
        init_site(tmp_path / "site", "one", transport=user, step=interrupt)
    with pytest.raises(SiteError, match="was begun as Site 'one'"):
        init_site(tmp_path / "site", "two", transport=user)
    assert init_site(tmp_path / "site", "one", transport=user).name == "one"


def test_a_failure_while_completing_can_be_completed_later(
    tmp_path: Path, user: Transport, service: FakeService
) -> None:
    def stop_at(step: str, error: BaseException) -> Callable[[str], None]:
        def stop(name: str) -> None:
            if name == step:
                raise error

        return stop

    with pytest.raises(Interrupted):
        init_site(tmp_path / "site", transport=user, step=stop_at("registered", Interrupted()))
    with pytest.raises(OSError, match="full"):
        init_site(tmp_path / "site", transport=user, step=stop_at("credentials", OSError(28, "full")))
    assert service.sites == {}
    made = init_site(tmp_path / "site", transport=user)
    assert list(service.sites) == [made.id]


@pytest.mark.parametrize("there_before", [False, True])
def test_a_failure_leaves_nothing_half_done(
    tmp_path: Path, user: Transport, service: FakeService, there_before: bool
) -> None:
    service.add_site("taken", "/elsewhere")
    path = tmp_path / "new" / "site"
    if there_before:
        path.mkdir(parents=True)
    with pytest.raises(BalsamError, match="there is a Site 'taken' already"):
        init_site(path, "taken", transport=user)
    assert list(tmp_path.rglob("*")) == ([tmp_path / "new", path] if there_before else [])


@pytest.mark.slow
def test_without_a_service_nothing_is_made(tmp_path: Path) -> None:
    transport = Transport(ClientSettings(url="http://127.0.0.1:9", token=USER_TOKEN, retry_for_sec=0.1))
    with pytest.raises(BalsamError, match="can't be reached"):
        init_site(tmp_path / "site", transport=transport)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_full_at_the_end_takes_the_registration_back(
    tmp_path: Path, user: Transport, service: FakeService
) -> None:
    def full(name: str) -> None:
        if name == "credentials":
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        init_site(tmp_path / "site", transport=user, step=full)
    assert service.sites == {}
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_directory_is_left_alone(tmp_path: Path, user: Transport, service: FakeService) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(SiteError, match=r"not empty \(it has 'thesis.tex'\)"):
        init_site(tmp_path, transport=user)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(SiteError, match="is a file"):
        init_site(tmp_path / "thesis.tex", transport=user)
    assert service.creates == 0


def test_finding_the_site_you_stand_in(tmp_path: Path, user: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    made = init_site(tmp_path / "site", transport=user)
    deep = made.path / "data" / "a"
    deep.mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_site() is None and current_site_id() is None
    with pytest.raises(SiteError, match="you are not in a Site directory"):
        require_site()
    with pytest.raises(SiteError, match="is not in a Site directory"):
        find_site(tmp_path)
    monkeypatch.chdir(deep)
    assert require_site().root == made.path
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BALSAM_SITE_PATH", str(made.path))
    assert current_site_id() == 1
    monkeypatch.setenv("BALSAM_SITE_PATH", str(tmp_path))
    with pytest.raises(SiteError, match="BALSAM_SITE_PATH is"):
        current_site_id()


def test_a_marker_that_can_not_be_understood_says_what_to_do(tmp_path: Path, user: Transport) -> None:
    made = init_site(tmp_path / "site", transport=user)
    (made.path / ".balsam-site").write_text("7\n")
    with pytest.raises(SiteError, match="can't be understood"):
        SiteDirectory(made.path).identity()
