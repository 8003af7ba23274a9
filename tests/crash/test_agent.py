"""kill -9 of the agent at every crash point: whatever it was doing, the next one submits nothing twice (S11, F4)."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from balsam.domain.states import BatchJobState
from balsam.site.crash_points import CRASH_POINTS, OF_BATCH_JOBS
from balsam.site.directory import SiteDirectory
from tests.site.conftest import running_agent, service, site, starts, user  # noqa: F401
from tests.site.fake_service import FakeService

pytestmark = pytest.mark.slow

RUNNING, FINISHED = BatchJobState.RUNNING, BatchJobState.FINISHED
# What must have happened at the service before the agent comes through the point.
AT_DELETION = {"after-cancel-before-record"}
AT_END = {"after-end-before-delivery", "after-delivery-before-finished", "after-finished-before-close"}


@pytest.mark.parametrize("point", OF_BATCH_JOBS)
def test_killed_at(point: str, site: SiteDirectory, service: FakeService) -> None:  # noqa: F811
    with running_agent(site, BALSAM_CRASH_POINT=point) as agent:
        number = service.add_batch_job()
        if point in AT_DELETION | AT_END:
            _end_when_started(site, service, number)
        assert agent.wait(20) == -signal.SIGKILL, f"the agent never came through {point}"
    with running_agent(site):
        if point not in AT_DELETION | AT_END:
            _end_when_started(site, service, number)
        service.wait_for(number, FINISHED)
        record = site.qsubmit / "balsam-1-1" / "batch_job.closed.json"
        service.wait_until(record.exists, "the record was not closed")
    assert starts(site) == 1
    assert len(list(site.qsubmit.glob("*.started"))) == 1
    assert not (record.parent / "credentials.json").exists()


def test_killed_again_and_again_at_random_instants(site: SiteDirectory, service: FakeService) -> None:  # noqa: F811
    """Three BatchJobs, an agent that never lives longer than a moment, and at the end each ran once."""
    numbers = [service.add_batch_job() for _ in range(3)]
    for lifetime_ms in range(250, 850, 60):
        with running_agent(site) as agent:
            service.wait_until(lambda agent=agent, ms=lifetime_ms: _older_than(agent.pid, ms), "it has no age")
            agent.kill()
            agent.wait()
    with running_agent(site):
        for number in numbers:
            service.wait_for(number, RUNNING)
        service.wait_until(lambda: starts(site) >= len(numbers), "not every script was started")
        for number in numbers:
            service.set_state(number, BatchJobState.PENDING_DELETION)
        for number in numbers:
            service.wait_for(number, FINISHED)
    assert starts(site) == 3


def test_a_lost_reply_is_as_good_as_a_heard_one_s3(site: SiteDirectory, service: FakeService) -> None:  # noqa: F811
    with running_agent(site):
        service.wait_until(lambda: service.agent, "no agent came")
        service.lose_replies = 3
        number = service.add_batch_job()
        service.wait_for(number, RUNNING)
        service.lose_replies = 2
        _end_when_started(site, service, number)
        service.wait_for(number, FINISHED)
    assert starts(site) == 1


def test_every_crash_point_stands_in_the_code_and_is_listed() -> None:
    source = Path(__file__).parents[2] / "src" / "balsam"
    used = set(_points(source / "site")) | set(_points(source / "platform" / "scheduler"))
    assert used == set(CRASH_POINTS)


def _end_when_started(site: SiteDirectory, service: FakeService, number: int) -> None:  # noqa: F811
    """A script that is told to end may not have come to its first line yet."""
    service.wait_for(number, RUNNING)
    service.wait_until(lambda: starts(site), "the script was not started")
    service.set_state(number, BatchJobState.PENDING_DELETION)


def _points(directory: Path) -> Iterator[str]:
    for path in directory.rglob("*.py"):
        yield from re.findall(r"crash_point\(\"([a-z-]+)\"\)", path.read_text())


def _older_than(pid: int, milliseconds: int) -> bool:
    return time.time() - psutil.Process(pid).create_time() > milliseconds / 1000
