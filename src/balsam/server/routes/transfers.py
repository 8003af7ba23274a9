"""TransferItems: lists, what the Site says of them, what a client has collected."""

from balsam.domain.scopes import Scope
from balsam.server.auth.needs import SITE, USER_OR_JOB, USER_SITE_OR_JOB
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.usecases import transfers
from balsam.wire.limits import MAX_BODY_BYTES
from balsam.wire.transfers import (
    DueTransfers,
    DueTransfersQuery,
    TransferItemView,
    TransferQuery,
    TransfersCollected,
    TransfersPage,
    TransfersPatch,
    TransfersPatched,
)

routes = Routes("transfers", reads=Scope.JOBS_READ, writes=Scope.JOBS_WRITE)


@routes.search("/transfers", needs=USER_SITE_OR_JOB)
async def list_transfers(call: Call, query: TransferQuery) -> TransfersPage:
    """A page of TransferItems."""
    return await call.read(lambda tx: transfers.list_transfers(tx, call.principal, query))


@routes.get("/transfers/due", needs=SITE)
async def list_due_transfers(call: Call, query: DueTransfersQuery) -> DueTransfers:
    """What the calling Site is to work on, by turns of those who submitted."""
    return await call.read(lambda tx: transfers.list_due(tx, call.principal, query))


@routes.patch("/transfers", needs=SITE, body_limit=MAX_BODY_BYTES)
async def report_transfers(call: Call, body: TransfersPatch) -> TransfersPatched:
    """What the Site says of its items; each is taken or refused by itself."""
    return await call.write(lambda tx: transfers.report_transfers(tx, call.principal, body, call.now))


@routes.post("/transfers/collected", needs=USER_OR_JOB)
async def collect_transfers(call: Call, body: TransfersCollected) -> TransfersPatched:
    """These results have arrived at the client; the service need not keep them."""
    return await call.write(lambda tx: transfers.collect_transfers(tx, call.principal, body, call.now))


@routes.get("/transfers/{item_id}", needs=USER_SITE_OR_JOB)
async def get_transfer(call: Call, item_id: int) -> TransferItemView:
    """One TransferItem."""
    return await call.read(lambda tx: transfers.get_transfer(tx, call.principal, item_id))
