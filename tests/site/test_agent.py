"""The agent as a process, against a service over loopback HTTP and the real local scheduler."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import psutil
import pytest

from balsam.client.transport import ServerEvent
from balsam.domain.states import BatchJobState
from balsam.platform.processes import look
from balsam.site.agent import Agent
from balsam.site.control import site_status, start_site, stop_site
from balsam.site.directory import SiteDirectory, SiteError
from balsam.site.lock import read_status
from balsam.wire.sites import AgentLeaseRequest
from tests.site.conftest import QUICK_TEMPLATE, end, running_agent, settings_text, start_agent, starts
from tests.site.fake_service import FakeService

pytestmark = pytest.mark.slow

RUNNING, FINISHED = BatchJobState.RUNNING, BatchJobState.FINISHED


def claim(site: SiteDirectory) -> list[str]:
    """What the shell of the only allocation's script wrote when it began, its pid first; its name has a random end."""
    return [word for path in site.qsubmit.glob("balsam-*.started") for word in path.read_text().split()]


def test_a_batch_job_is_submitted_runs_and_ends_by_push(site: SiteDirectory, service: FakeService) -> None:
    (site.root / "job-template.sh").write_text(QUICK_TEMPLATE)
    with running_agent(site):
        service.wait_until(lambda: service.agent, "no agent came")
        number = service.add_batch_job()
        begun = time.monotonic()
        view = service.wait_for(number, FINISHED)
        took = time.monotonic() - begun
    assert view.scheduler_id and view.start_time and view.end_time
    assert view.status_info["exit_code"] == 0
    assert starts(site) == 1
    assert took < 2
    directory = site.qsubmit / "balsam-1-1"
    assert list(directory.glob("*credentials.json")) == []
    assert (directory / "batch_job.closed.json").exists()


def test_pending_deletion_ends_a_running_allocation(site: SiteDirectory, service: FakeService) -> None:
    with running_agent(site):
        number = service.add_batch_job()
        service.wait_for(number, RUNNING)
        service.wait_until(lambda: starts(site), "the script was not started")
        service.set_state(number, BatchJobState.PENDING_DELETION)
        service.wait_for(number, FINISHED)
    assert starts(site) == 1


def test_pending_deletion_of_what_was_never_submitted(site: SiteDirectory, service: FakeService) -> None:
    number = service.add_batch_job()
    service.set_state(number, BatchJobState.PENDING_DELETION)
    with running_agent(site):
        view = service.wait_for(number, FINISHED)
    assert "before it was submitted" in view.status_info["scheduler"]
    assert starts(site) == 0


def test_a_stream_that_is_opened_while_the_agent_ends_is_left_at_once() -> None:
    """The one before it was closed by then. This one nobody would close: after a reload it would take the pushes that
    are meant for the next agent of this process."""
    stopping, heard = threading.Event(), list[ServerEvent]()

    def events() -> Iterator[ServerEvent]:
        stopping.set()
        return iter([ServerEvent("hello", "{}")])

    ending = SimpleNamespace(_stopping=stopping, _link=SimpleNamespace(events=events), _heard=heard.append)
    Agent._follow_stream(cast("Agent", ending))
    assert heard == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"queue": "lokal"}, "did you mean 'local'"),
        ({"project": "other"}, "project 'other' is not allowed"),
        ({"num_nodes": 2}, "2 nodes are more than the 1"),
        ({"wall_time_min": 100_000}, "100000 minutes are more than the 1440"),
        ({"optional_params": {"shout": "yes"}}, "'shout' is not known"),
        ({"filter_tags": {"a": "$(touch /tmp/x)"}}, "can't carry safely"),
    ],
)
def test_what_the_site_does_not_allow_is_not_submitted_s15(
    site: SiteDirectory, service: FakeService, asked: dict[str, object], words: str
) -> None:
    number = service.add_batch_job(**asked)
    with running_agent(site):
        view = service.wait_for(number, BatchJobState.SUBMIT_FAILED)
    assert words in view.status_info["error"]
    assert starts(site) == 0


def test_an_agent_killed_in_mid_allocation_is_followed_by_one_that_takes_over_l4(
    site: SiteDirectory, service: FakeService
) -> None:
    with running_agent(site) as first:
        number = service.add_batch_job()
        service.wait_for(number, RUNNING)
        service.wait_until(lambda: starts(site), "the script was not started")
        first.kill()
        first.wait()
    with running_agent(site):
        service.wait_until(lambda: service.agent and service.agent.pid != first.pid, "the second agent got no lease")
        service.set_state(number, BatchJobState.PENDING_DELETION)
        service.wait_for(number, FINISHED)
    assert starts(site) == 1


def test_an_end_that_came_while_no_agent_lived_is_reported_by_the_next(
    site: SiteDirectory, service: FakeService
) -> None:
    (site.root / "job-template.sh").write_text(
        "#!/bin/bash\necho started >> {{ balsam_site_path }}/starts\nwhile [ ! -e {{ balsam_site_path }}/go ];"
        " do sleep 0.05; done\nexit 3\n"
    )
    with running_agent(site) as first:
        number = service.add_batch_job()
        service.wait_for(number, RUNNING)
        first.kill()
        first.wait()
    (site.root / "go").touch()
    time.sleep(0.3)
    with running_agent(site):
        view = service.wait_for(number, FINISHED)
    assert view.status_info["exit_code"] == 3
    assert starts(site) == 1


def test_service_away_and_back_l2(site: SiteDirectory, service: FakeService) -> None:
    """What happened meanwhile is told once the service is back; nothing is started twice."""
    with running_agent(site) as agent:
        number = service.add_batch_job()
        view = service.wait_for(number, RUNNING)
        service.wait_until(lambda: starts(site), "the script was not started")
        service.away = True
        scheduler = json.loads((site.qsubmit / "balsam-1-1" / "batch_job.json").read_text())["scheduler_id"]
        assert scheduler == view.scheduler_id
        service.wait_until(lambda: claim(site), "the script was not started")
        leader = int(claim(site)[0])
        for child in psutil.Process(leader).children():
            child.kill()
        time.sleep(1.0)
        record = json.loads((site.qsubmit / "balsam-1-1" / "batch_job.json").read_text())
        assert record["state"] == "finished" and record["unreported"]
        assert agent.poll() is None
        service.away = False
        service.wait_for(number, FINISHED)
    assert starts(site) == 1


def test_an_agent_that_starts_without_the_service_waits_for_it(site: SiteDirectory, service: FakeService) -> None:
    service.away = True
    status = start_site(site.root)
    assert status.state == "waiting"
    number = service.add_batch_job()
    service.away = False
    service.wait_for(number, RUNNING)
    assert stop_site(site.root) is True


def test_a_refused_token_is_said_and_outlived(site: SiteDirectory, service: FakeService) -> None:
    with running_agent(site) as agent:
        service.wait_until(lambda: service.agent, "no agent came")
        service.refuse_tokens = True
        time.sleep(1.0)
        assert agent.poll() is None
        assert "does not accept the token" in (site.log / "agent.log").read_text()
        service.refuse_tokens = False
        number = service.add_batch_job()
        service.wait_for(number, RUNNING)


def test_a_new_token_in_the_file_is_picked_up_without_a_restart(site: SiteDirectory, service: FakeService) -> None:
    old = json.loads(site.credentials.read_text())
    with running_agent(site) as agent:
        service.wait_until(lambda: service.agent, "no agent came")
        service.tokens.discard(old["token"])
        time.sleep(0.5)
        site.credentials.write_text(json.dumps(old | {"token": service.new_token()}))
        number = service.add_batch_job()
        service.wait_for(number, RUNNING)
        assert agent.poll() is None


def test_two_agents_the_second_refuses_f27(site: SiteDirectory, service: FakeService) -> None:
    with running_agent(site) as first:
        service.wait_until(lambda: service.agent, "no agent came")
        second = start_agent(site)
        assert second.wait(15) == 1
        assert str(first.pid) in (site.log / "agent.out").read_text()
        with pytest.raises(SiteError, match=str(first.pid)):
            start_site(site.root)
        assert first.poll() is None


def test_an_agent_of_another_host_keeps_this_one_out_until_its_lease_lapsed_f27(
    site: SiteDirectory, service: FakeService
) -> None:
    service.lease(AgentLeaseRequest(instance="other", hostname="login7", pid=4711))
    with pytest.raises(SiteError, match="4711 on login7"):
        start_site(site.root)
    service.agent_until = 0.0
    start_site(site.root)
    assert stop_site(site.root)


def test_an_agent_that_lost_its_lease_to_another_stops_f27(site: SiteDirectory, service: FakeService) -> None:
    with running_agent(site) as agent:
        service.wait_until(lambda: service.agent, "no agent came")
        agent.send_signal(signal.SIGSTOP)
        service.agent = AgentLeaseRequest(instance="other", hostname="login7", pid=4711)
        service.agent_until = time.monotonic() + 60
        agent.send_signal(signal.SIGCONT)
        assert agent.wait(25) == 1
    assert service.agent.instance == "other"


def test_start_and_stop_in_the_background(site: SiteDirectory, service: FakeService) -> None:
    status = start_site(site.root)
    assert (status.state, status.hostname) == ("running", os.uname().nodename)
    process = psutil.Process(status.pid)
    assert process.ppid() != os.getpid()
    assert site_status(site.root) is not None
    with pytest.raises(SiteError, match="runs already"):
        start_site(site.root)
    assert stop_site(site.root) is True
    assert look(status.pid) is None
    assert service.agent is None
    assert site_status(site.root) is None
    assert stop_site(site.root) is False


def test_stop_is_prompt_and_leaves_allocations_running(site: SiteDirectory, service: FakeService) -> None:
    with running_agent(site) as agent:
        number = service.add_batch_job()
        service.wait_for(number, RUNNING)
        begun = time.monotonic()
        assert end(agent) == 0
        assert time.monotonic() - begun < 3
    leader = int(claim(site)[0])
    assert psutil.pid_exists(leader)


def test_stopping_an_agent_of_another_host_says_where_it_is(site: SiteDirectory, service: FakeService) -> None:
    with running_agent(site) as agent:
        service.wait_until(lambda: service.agent, "no agent came")
        service.wait_until(lambda: '"running"' in site.agent_status.read_text(), "the agent does not run")
        content = json.loads(site.agent_status.read_text())
        site.agent_status.write_text(json.dumps(content | {"hostname": "login7"}))
        with pytest.raises(SiteError, match="runs on login7 as process"):
            stop_site(site.root)
        assert agent.poll() is None


def test_a_stale_status_file_with_a_reused_pid_stops_nobody(site: SiteDirectory, service: FakeService) -> None:
    with running_agent(site):
        service.wait_until(lambda: service.agent, "no agent came")
        content = json.loads(site.agent_status.read_text())
    site.agent_status.write_text(json.dumps(content | {"pid": os.getpid(), "state": "running"}))
    assert stop_site(site.root) is False
    assert site_status(site.root) is None


def test_a_deleted_batch_job_takes_its_allocation_with_it(site: SiteDirectory, service: FakeService) -> None:
    with running_agent(site):
        number = service.add_batch_job()
        service.wait_for(number, RUNNING)
        service.wait_until(lambda: claim(site), "the script was not started")
        leader = int(claim(site)[0])
        service.remove_batch_job(number)
        service.wait_until(lambda: not psutil.pid_exists(leader), "the allocation runs on")
        service.wait_until(
            lambda: (site.qsubmit / "balsam-1-1" / "batch_job.closed.json").exists(), "the record is still open"
        )


def test_an_idle_agent_costs_next_to_nothing(site: SiteDirectory, service: FakeService) -> None:
    site.settings.write_text(settings_text(sync_period_sec=10))
    with running_agent(site) as agent:
        service.wait_until(lambda: (status := read_status(site)) and status.state == "running", "it did not start")
        time.sleep(1.0)
        process = psutil.Process(agent.pid)
        before, begun = sum(process.cpu_times()[:2]), time.monotonic()
        time.sleep(3.0)
        used = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - begun)
        memory = process.memory_info().rss
    assert used < 0.01
    assert memory < 120e6


def test_the_agent_keeps_the_users_own_token_from_what_it_starts(site: SiteDirectory, service: FakeService) -> None:
    with running_agent(site, BALSAM_TOKEN="secret-canary", BALSAM_URL="http://127.0.0.1:1"):
        number = service.add_batch_job()
        service.wait_for(number, RUNNING)
        service.wait_until(lambda: claim(site), "the script was not started")
        leader = int(claim(site)[0])
        assert "secret-canary" not in str(psutil.Process(leader).environ())
