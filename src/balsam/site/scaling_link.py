"""What the services that ask for allocations ask of the service. See services/asked.py for the calls."""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from balsam.client.errors import Conflict, NotFound, ValidationFailed
from balsam.domain.states import BatchJobState
from balsam.site.service import ServiceLink
from balsam.site.services.asked import RequestRefused
from balsam.wire.backlog import Backlog, BacklogQuery
from balsam.wire.batch_jobs import BatchJobCreate, BatchJobPatch, BatchJobView


class ScalingLink:
    """`services.asked.ScalingService` over the agent's connections."""

    def __init__(self, link: ServiceLink) -> None:
        self._link = link

    def backlog(self, query: BacklogQuery) -> Backlog:
        path = f"/sites/{self._link.site_id}/backlog"
        return self._link.call(lambda: self._link.transport.request("GET", path, reply=Backlog, query=query))

    def ask_batch_job(self, body: BatchJobCreate, key: str) -> BatchJobView:
        def send() -> BatchJobView:
            return self._link.transport.request(
                "POST", "/batch-jobs", reply=BatchJobView, body=body, idempotency_key=key
            )

        try:
            return self._link.call(send, ValidationFailed, Conflict)
        except (ValidationFailed, Conflict) as error:
            raise RequestRefused(" ".join(str(error).split())) from error

    def end_batch_job(self, batch_job_id: int) -> None:
        patch = BatchJobPatch(state=BatchJobState.PENDING_DELETION)
        path = f"/batch-jobs/{batch_job_id}"

        def send() -> BatchJobView:
            return self._link.transport.request("PATCH", path, reply=BatchJobView, body=patch)

        with suppress(NotFound, Conflict):
            self._link.call(send, NotFound, Conflict)

    def batch_jobs(self, ids: Iterable[int]) -> Mapping[int, BatchJobView]:
        return self._link.batch_jobs(ids)
