"""Somebody who runs Jobs: a Session at the service that acquires and reports, as a launcher does, without processes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from balsam.client.settings import ClientSettings
from balsam.client.transport import Transport
from balsam.wire.results import JobResult
from balsam.wire.sessions import (
    AcquireReply,
    AcquireRequest,
    LaunchEvent,
    Report,
    ReportRecord,
    ReportReply,
    SessionCreate,
    SessionView,
)


class Runner:
    def __init__(self, url: str, site: Any) -> None:
        assert site.agent_token
        self.transport = Transport(ClientSettings(url, site.agent_token))
        self.session = self.transport.request(
            "POST", "/sessions", body=SessionCreate(site_id=site.id), reply=SessionView, safe_to_repeat=True
        ).id
        self.acquires = self.reports = 0
        self.tokens: dict[int, int] = {}

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.close()

    def acquire(self, count: int = 1000) -> list[int]:
        self.acquires += 1
        body = AcquireRequest(acquire_seq=self.acquires, max_jobs=count)
        reply = self.transport.request("POST", f"/sessions/{self.session}/acquire", body=body, reply=AcquireReply)
        self.tokens.update({job.id: job.token for job in reply.jobs})
        return [job.id for job in reply.jobs]

    def tell(
        self,
        job_ids: list[int],
        *events: LaunchEvent,
        return_code: int = 0,
        result: JobResult | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        self.report(
            self.record(job_id, event, return_code=return_code, result=result, data=data)
            for job_id in job_ids
            for event in events
        )

    def record(
        self,
        job_id: int,
        event: LaunchEvent,
        *,
        at: datetime | None = None,
        return_code: int = 0,
        result: JobResult | None = None,
        data: dict[str, Any] | None = None,
    ) -> ReportRecord:
        self.reports += 1
        return ReportRecord(
            seq=self.reports,
            job_id=job_id,
            token=self.tokens[job_id],
            event=event,
            at=at or datetime.now(UTC),
            return_code=None if event is LaunchEvent.STARTED else return_code,
            result=None if event is LaunchEvent.STARTED else result,
            data=data or {},
        )

    def report(self, records: Iterable[ReportRecord]) -> None:
        path = f"/sessions/{self.session}/report"
        reply = self.transport.request("POST", path, body=Report(records=list(records)), reply=ReportReply)
        assert reply.fenced == []

    def start(self, count: int = 1000) -> list[int]:
        job_ids = self.acquire(count)
        self.tell(job_ids, LaunchEvent.STARTED)
        return job_ids

    def finish(self, job_ids: list[int], return_code: int = 0, result: JobResult | None = None) -> None:
        event = LaunchEvent.RUN_ERROR if return_code else LaunchEvent.RUN_DONE
        self.tell(job_ids, event, return_code=return_code, result=result)

    def run_all(self) -> list[int]:
        job_ids = self.start()
        self.finish(job_ids)
        return job_ids
