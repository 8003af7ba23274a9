"""`balsam site sync`: a running agent takes up new settings, and nothing that runs notices."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

import pytest

from balsam.site.control import site_status, sync_site
from balsam.site.directory import SiteDirectory, SiteError
from balsam.site.lock import read_status
from balsam.site.reload import FILE, ask_to_reload, pending_request, wait_for_answer
from balsam.site.services.script import ScriptError
from balsam.site.settings_file import SettingsError
from tests.services import RunningService
from tests.site.conftest import ask_for_allocation, end, running_agent, settings_text, starts, wait_for

pytestmark = pytest.mark.slow

NEW_SETTINGS = """
scheduler:
  sync_period: 1
  allowed_queues: {debug: {max_nodes: 3, max_walltime: 30, max_queued_jobs: 5}}
  allowed_projects: [other]
"""


def until(look: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def is_up(place: SiteDirectory) -> bool:
    status = site_status(place.root)
    return status is not None and status.state == "running"


def test_a_running_agent_begins_anew_and_its_allocation_lives(place: SiteDirectory, real: RunningService) -> None:
    with running_agent(place) as agent, real.client() as client:
        number = ask_for_allocation(client)
        wait_for(client, number, "running")
        before = read_status(place)
        place.settings.write_text(NEW_SETTINGS)
        synced = sync_site(place.root)
        assert synced.agent is not None and before is not None
        assert (synced.agent.pid, synced.agent.instance) == (agent.pid, before.instance)
        assert synced.agent.state == "running"
        until(lambda: "debug" in client.get("/api/sites/1").json()["allowed_queues"], "the service was not told")
        assert client.get("/api/sites/1").json()["allowed_projects"] == ["other"]
        assert client.get(f"/api/batch-jobs/{number}").json()["state"] == "running"
        client.patch(f"/api/batch-jobs/{number}", json={"state": "pending_deletion"})
        wait_for(client, number, "finished")
        second = ask_for_allocation(client, queue="debug", project="other", num_nodes=2)
        wait_for(client, second, "running")
        client.patch(f"/api/batch-jobs/{second}", json={"state": "pending_deletion"})
        wait_for(client, second, "finished")
        assert agent.poll() is None
        assert end(agent) == 0
    assert starts(place) == 2


def test_again_and_again(place: SiteDirectory, real: RunningService) -> None:
    with running_agent(place) as agent:
        until(lambda: is_up(place), "the agent did not come up")
        time.sleep(2)  # all of its connections are open
        open_files = len(os.listdir(f"/proc/{agent.pid}/fd"))
        threads = len(os.listdir(f"/proc/{agent.pid}/task"))
        for number in range(5):
            place.settings.write_text(settings_text(1) + f"filter_tags: {{n: '{number}'}}\n")
            assert sync_site(place.root).agent is not None
        until(lambda: len(os.listdir(f"/proc/{agent.pid}/fd")) <= open_files, "files are left open")
        until(lambda: len(os.listdir(f"/proc/{agent.pid}/task")) <= threads, "threads are left")


@pytest.mark.parametrize(
    ("name", "text", "error", "words"),
    [
        ("settings.yml", "scheduler: {sync_perid: 1}\n", SettingsError, "did you mean sync_period"),
        ("job-template.sh", "{% if %}", ScriptError, "line 1"),
    ],
)
def test_what_can_not_be_used_is_refused_before_the_agent_is_asked(
    place: SiteDirectory, real: RunningService, name: str, text: str, error: type[Exception], words: str
) -> None:
    with running_agent(place) as agent:
        until(lambda: is_up(place), "the agent did not come up")
        (place.root / name).write_text(text)
        with pytest.raises(error, match=words):
            sync_site(place.root)
        assert not (place.root / FILE).exists()
        assert agent.poll() is None and is_up(place)


def test_the_agent_itself_refuses_what_can_not_be_used_and_goes_on(place: SiteDirectory, real: RunningService) -> None:
    with running_agent(place) as agent, real.client() as client:
        until(lambda: is_up(place), "the agent did not come up")
        place.settings.write_text("apps: {accept: everything}\n")
        with pytest.raises(SiteError, match=r"goes on with its old settings: (?s:.*)line 1: apps.accept"):
            wait_for_answer(place, ask_to_reload(place, place.root))
        number = ask_for_allocation(client)
        wait_for(client, number, "running")
        client.patch(f"/api/batch-jobs/{number}", json={"state": "pending_deletion"})
        wait_for(client, number, "finished")
        place.settings.write_text(NEW_SETTINGS)
        answered = sync_site(place.root).agent
        assert answered is not None and answered.refusal == "" and answered.pid == agent.pid


def test_an_agent_that_no_signal_reaches_sees_the_wish_by_itself(place: SiteDirectory, real: RunningService) -> None:
    """As on another host that shares the file system."""
    with running_agent(place):
        until(lambda: is_up(place), "the agent did not come up")
        request = json.dumps({"number": "abc", "root": str(place.root)})
        (place.root / FILE).write_text(request)
        until(lambda: (status := read_status(place)) is not None and status.answered == "abc", "not heard")


def test_without_an_agent_the_service_is_told(place: SiteDirectory, real: RunningService) -> None:
    place.settings.write_text(NEW_SETTINGS)
    assert sync_site(place.root).agent is None
    with real.client() as client:
        assert list(client.get("/api/sites/1").json()["allowed_queues"]) == ["debug"]
    real.stop()
    with pytest.raises(SiteError, match=r"no agent runs .* the service was not told"):
        sync_site(place.root)


def test_while_the_service_is_away_the_agent_takes_up_the_settings_and_waits(
    place: SiteDirectory, real: RunningService
) -> None:
    with running_agent(place) as agent:
        until(lambda: is_up(place), "the agent did not come up")
        real.kill()
        place.settings.write_text(NEW_SETTINGS)
        synced = sync_site(place.root).agent
        assert synced is not None and synced.state == "waiting" and agent.poll() is None
        place.settings.write_text(NEW_SETTINGS + "filter_tags: {a: b}\n")
        assert sync_site(place.root).agent is not None, "also one that waits begins anew"
        again = real.restart()
        try:
            with again.client() as client:
                said = "the agent did not come back, or not with the new settings"
                until(lambda: client.get("/api/sites/1").json()["allowed_projects"] == ["other"], said)
        finally:
            again.stop()


def test_a_stop_in_the_middle_of_it_is_a_stop(place: SiteDirectory, real: RunningService) -> None:
    for pause_sec in (0.0, 0.02, 0.1, 0.3):
        with running_agent(place) as agent:
            until(lambda: is_up(place), "the agent did not come up")
            ask_to_reload(place, place.root)
            time.sleep(pause_sec)
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(10) == 0
        assert site_status(place.root) is None


def test_a_dead_agent_is_not_waited_for(place: SiteDirectory, real: RunningService) -> None:
    with running_agent(place) as agent:
        until(lambda: is_up(place), "the agent did not come up")
        agent.kill()
        agent.wait()
        begun = time.monotonic()
        with pytest.raises(SiteError, match="did not answer"):
            wait_for_answer(place, ask_to_reload(place, place.root))
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"number": "a", "root": "relative"}', "\0"])
def test_a_wish_that_can_not_be_understood_is_none(place: SiteDirectory, text: str) -> None:
    (place.root / FILE).write_text(text)
    assert pending_request(place, "") is None
