"""A launcher in name only: it acquires Jobs and reports for them as a launcher does, and runs no process.

So any number of Jobs runs on a machine of any size, and what is measured is the service.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

RENEW_SEC = 60.0  # as real ones do


class NominalLauncher:
    """One Session on a Site; `service_sec` is what its requests took, from the first byte to the answer."""

    def __init__(self, transport: Any, site_id: int) -> None:
        from balsam.wire.sessions import SessionCreate, SessionView

        self._transport = transport
        body = SessionCreate(site_id=site_id)
        self._path = f"/sessions/{transport.request('POST', '/sessions', body=body, reply=SessionView).id}"
        self._tokens: dict[int, int] = {}
        self._acquires = self._records = 0
        self.service_sec = 0.0
        self.last_answer = 0.0  # monotonic
        self._renew_at = time.monotonic() + RENEW_SEC

    def acquire(self, most: int) -> list[int]:
        """Ids of up to so many Jobs that can run."""
        from balsam.wire.sessions import AcquireReply, AcquireRequest

        self._acquires += 1
        wish = AcquireRequest(acquire_seq=self._acquires, max_jobs=most)
        granted = self._send("acquire", wish, AcquireReply).jobs
        self._tokens.update((job.id, job.token) for job in granted)
        return [job.id for job in granted]

    def tell(self, job_ids: Sequence[int], *events: str) -> None:
        """Report these events of each Job, in one request."""
        from balsam.wire.sessions import LaunchEvent, Report, ReportRecord, ReportReply

        now = datetime.now(UTC)
        records = [
            ReportRecord(
                seq=self._records + number,
                job_id=job_id,
                token=self._tokens[job_id],
                event=LaunchEvent(event),
                at=now,
                return_code=0 if event == "run_done" else None,
            )
            for number, (job_id, event) in enumerate(((job, event) for job in job_ids for event in events), 1)
        ]
        self._records += len(records)
        self._send("report", Report(records=records), ReportReply)

    def _send(self, verb: str, body: Any, reply: type[Any]) -> Any:
        begin = time.monotonic()
        if begin >= self._renew_at:
            self._renew_at = begin + RENEW_SEC
            self._transport.request("POST", f"{self._path}/renew", safe_to_repeat=True)
            begin = time.monotonic()
        answer = self._transport.request("POST", f"{self._path}/{verb}", body=body, reply=reply)
        self.last_answer = time.monotonic()
        self.service_sec += self.last_answer - begin
        return answer
