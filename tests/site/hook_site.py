"""A real service, a Site with a running agent, and Jobs whose hooks it runs; no launcher is needed for most of it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from balsam.client.client import Client
from balsam.client.models.job import Job
from balsam.client.settings import ClientSettings
from balsam.domain.states import JobState
from balsam.site.directory import SiteDirectory
from balsam.site.init import init_site
from tests.services import RunningService
from tests.site.conftest import end, start_agent

WAIT_SEC = 60.0
LIMIT_SEC = 4.0
SETTINGS: dict[str, Any] = {
    "scheduler": {"sync_period": 1},
    "processing": {"num_workers": 2, "hook_time_limit_sec": LIMIT_SEC},
    "file_cleaner": None,
}


@dataclass
class HookSite:
    """The Site called `here`. Its agent is started by `running`."""

    service: RunningService
    site: SiteDirectory
    client: Client
    agent: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def settings(self, **sections: Any) -> None:
        """Write settings.yml; read by the next agent."""
        self.site.settings.write_text(yaml.safe_dump({**SETTINGS, **sections}))

    @contextmanager
    def running(self, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """An agent for the length of the block."""
        self.agent = start_agent(self.site, **environment)
        try:
            yield self.agent
        finally:
            end(self.agent)

    @property
    def log(self) -> str:
        path = self.site.log / "agent.log"
        return path.read_text() if path.exists() else ""

    def output(self, job: Job) -> str:
        """What hooks of the Job printed."""
        return (self.site.data / job.workdir / "balsam.log").read_text()

    def reach(self, job: Job, *states: str, timeout: float = WAIT_SEC) -> Job:
        """The Job once it is in one of the states; by default once it left those in which it waits for a hook."""
        deadline = time.monotonic() + timeout
        while True:
            job.refresh_from_db()
            if job.state in states or (not states and job.state is not JobState.STAGED_IN):
                return job
            assert time.monotonic() < deadline, f"{job.state}: {job.explain()}\n{self.log[-3000:]}"
            time.sleep(0.02)

    def said(self, job: Job) -> dict[str, Any]:
        """The data of the event that the agent's verdict made."""
        (event,) = [event for event in self.client.EventLog.objects.filter(job_id=job.id) if event.actor == "site"]
        return event.data

    def attempt(self, job: Job, end_event: str, **more: Any) -> None:
        """A launcher runs the Job, and tells that end."""
        with self.service.client() as client:
            session = client.post("/api/sessions", json={"site_id": job.site_id}).json()["id"]
            granted: dict[int, dict[str, Any]] = {}
            for number in range(1, 10):  # the Site has other Jobs that can run
                if job.id not in granted:
                    ask = {"acquire_seq": number, "max_jobs": 100}
                    jobs = client.post(f"/api/sessions/{session}/acquire", json=ask).json()["jobs"]
                    granted.update((one["id"], one) for one in jobs)
            grant = granted[job.id]
            fact = {"job_id": job.id, "token": grant["token"], "at": "2026-01-01T00:00:00Z"}
            records = [{**fact, "seq": 1, "event": "started"}, {**fact, "seq": 2, "event": end_event, **more}]
            reply = client.post(f"/api/sessions/{session}/report", json={"records": records})
            assert reply.json()["fenced"] == []
            client.post(f"/api/sessions/{session}/close", json={})


@contextmanager
def hook_site(service: RunningService, place: Path) -> Iterator[HookSite]:
    """A Site that was just made."""
    with Client(ClientSettings(url=service.url, token=service.token)) as client:
        made = init_site(place, "here", transport=client.transport)
        found = HookSite(service, SiteDirectory(made.path), client)
        found.settings()
        yield found


def eventually(look: Callable[[], Any], what: str, timeout: float = WAIT_SEC) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found
