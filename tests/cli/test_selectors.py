"""Which Jobs and Sites a command line means: parsing, and the filters that come of it."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from balsam.cli import selectors
from balsam.cli.selectors import JobChoice, SiteScope, job_selectors, one_site, site_scope
from balsam.domain.failure import Failure
from balsam.domain.states import DONE_STATES, JobState

EVERYWHERE = SiteScope((), None)


def choice(*words: str) -> JobChoice:
    found: list[JobChoice] = []

    @click.command()
    @job_selectors()
    def verb(choice: JobChoice) -> None:
        found.append(choice)

    done = CliRunner().invoke(verb, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return found[0]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", {}),
        ("5-7,33 40", {"id": [5, 6, 7, 33, 40]}),
        ("--id 5 -i 6 7", {"id": [7, 5, 6]}),
        ("-t kind=x -tag a=b --tag c=d=e", {"tags": {"kind": "x", "a": "b", "c": "d=e"}}),
        ("-s FAILED --state running", {"state": [JobState.FAILED, JobState.RUNNING]}),
        ("--failure exit_code --failure TIMEOUT", {"failure": [Failure.EXIT_CODE, Failure.TIMEOUT]}),
        ("-a Say -w runs/", {"app_name": "Say", "workdir__contains": "runs/"}),
        ("--app 12", {"app_id": 12}),
        ("--since 2026-11-26T05:00Z", {"last_update_after": datetime(2026, 11, 26, 5, tzinfo=UTC)}),
        ("-s FAILED -ns FAILED", {"state": []}),
    ],
)
def test_selectors_become_filters(words: str, wanted: dict[str, Any]) -> None:
    assert choice(*words.split()).filter(EVERYWHERE) == wanted


def test_excluded_states_are_all_the_others() -> None:
    states = choice("-ns", "JOB_FINISHED", "--exclude-state", "failed").filter(EVERYWHERE)["state"]
    assert set(states) == set(JobState) - {JobState.JOB_FINISHED, JobState.FAILED}


@pytest.mark.parametrize("words", ["--tag kind", "--tag =x", "--state DONE", "--id x", "--since soon", "5-"])
def test_what_can_not_be_understood_is_refused(words: str) -> None:
    command = click.command()(job_selectors()(lambda choice: None))
    done = CliRunner().invoke(command, words.split())
    assert done.exit_code == 2, done.output


def test_a_site_alone_chooses_no_jobs() -> None:
    assert choice("--site", "all").is_open and choice().is_open
    assert not choice("5").is_open and not choice("--since", "1h").is_open


def test_only_keeps_what_was_asked_for() -> None:
    open_states = [state for state in JobState if state not in DONE_STATES]
    assert choice("-s", "FAILED", "-s", "RUNNING").only(open_states).wanted_states == [JobState.RUNNING]
    assert choice("-s", "FAILED").only(open_states).wanted_states == []
    assert choice("-t", "a=b").only(open_states).wanted_states == open_states


def test_ids_only() -> None:
    assert choice("5-6").has_ids_only and choice("-i", "5").has_ids_only
    for words in (["5", "-t", "a=b"], ["5", "--site", "laptop"], []):
        assert not choice(*words).has_ids_only


@pytest.fixture
def sites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three Sites, two with an active agent; you stand in none."""
    rows = [
        SimpleNamespace(id=1, name="polaris", path="/lus/one", is_active=True),
        SimpleNamespace(id=2, name="laptop", path="/home/ann/site", is_active=False),
        SimpleNamespace(id=3, name="aurora", path="/lus/two", is_active=True),
    ]
    monkeypatch.setattr("balsam.api.Site.objects", SimpleNamespace(all=lambda: rows))
    monkeypatch.setattr("balsam.site.directory.current_site_id", lambda: None)


@pytest.mark.usefixtures("sites")
@pytest.mark.parametrize(
    ("selector", "ids"),
    [
        (None, (1, 3)),
        ("active", (1, 3)),
        ("all", None),
        ("laptop", (2,)),
        ("2,polaris", (2, 1)),
        ("/lus", (1, 3)),
        ("1,1", (1,)),
    ],
)
def test_sites_that_are_meant(selector: str | None, ids: tuple[int, ...] | None) -> None:
    assert site_scope(selector).ids == ids


@pytest.mark.usefixtures("sites")
def test_the_site_you_stand_in_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balsam.site.directory.current_site_id", lambda: 2)
    assert site_scope(None).ids == site_scope("this").ids == (2,)
    assert choice("--state", "FAILED").scope().ids == (2,)
    assert one_site(None).name == "laptop"


@pytest.mark.usefixtures("sites")
def test_jobs_named_by_their_ids_are_found_anywhere() -> None:
    assert choice("5").scope().ids is None
    assert choice("--state", "FAILED").scope().ids == (1, 3)


@pytest.mark.usefixtures("sites")
def test_sites_that_were_left_out_are_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    site_scope(None).mention_left_out()
    assert "1 Site not looked at" in capsys.readouterr().err
    site_scope("active").mention_left_out()  # as was asked for
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("sites")
@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("nowhere", "no Site 'nowhere'; there are: polaris"),
        ("this", "not in a Site directory"),
        ("", "polaris, aurora"),
    ],
)
def test_a_site_that_is_not_clear_is_refused(selector: str, message: str) -> None:
    with pytest.raises(click.BadParameter, match=message):
        one_site(selector or None)


@pytest.mark.usefixtures("sites")
def test_an_app_that_nothing_is_known_of_is_named_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Jobs of a campaign are shown to people who may not see its Apps."""
    apps = [SimpleNamespace(id=7, name="Simulate")]

    def that_have(*known: dict[str, Any]) -> Any:
        return lambda **of: SimpleNamespace(exists=lambda: of in known)

    of_apps = that_have({"name": "Simulate"}, {"id": 7})
    monkeypatch.setattr("balsam.api.App.objects", SimpleNamespace(all=lambda: apps, filter=of_apps))
    monkeypatch.setattr("balsam.api.Job.objects", SimpleNamespace(filter=that_have({"app_name": "Theirs"})))
    for known in ("Simulate", "7", "Theirs"):
        assert choice("--app", known).scope().ids == (1, 3)
    for unknown, hint in (("Simulat", "did you mean 'Simulate'"), ("8", "there are: Simulate")):
        with pytest.raises(click.BadParameter, match=f"no App '{unknown}'; {hint}"):
            choice("--app", unknown).scope()
    apps.clear()
    with pytest.raises(click.BadParameter, match=r"no App '8'; MyApp\.sync\(\) registers one"):
        choice("--app", "8").scope()


@pytest.mark.usefixtures("sites")
def test_every_site_active_needs_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [SimpleNamespace(id=1, name="a", path="/a", is_active=True)]
    monkeypatch.setattr("balsam.api.Site.objects", SimpleNamespace(all=lambda: rows))
    assert site_scope(None) == SiteScope(tuple(rows), None)  # type: ignore[arg-type]
    assert one_site(None).name == "a"


def test_names_of_sites_that_can_not_be_asked_for_complete_to_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from balsam.cli.completion import site_names

    monkeypatch.setenv("BALSAM_HOME", str(tmp_path))
    assert [item.value for item in site_names("a")] == ["all", "active"]
    assert [item.value for item in site_names("x,")] == []
    assert selectors.complete_site(click.Context(click.Command("x")), click.Option(["--site"]), "th")[0].value == "this"
