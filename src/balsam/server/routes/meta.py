"""Who the service is and whether it works: open to anybody, used by clients, supervisors and proxies; and its metrics,
which only administrators may read."""

from starlette.responses import Response

from balsam import __version__
from balsam.domain.scopes import Scope
from balsam.server.auth.needs import ADMIN, OPEN
from balsam.server.errors import Forbidden
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.store.records import UserRow
from balsam.server.usecases.figures import figures
from balsam.wire import WIRE_VERSIONS
from balsam.wire.base import Message, VersionReply

routes = Routes("service", reads=Scope.JOBS_READ, writes=Scope.JOBS_READ)
probes = Routes("service", reads=Scope.JOBS_READ, writes=Scope.JOBS_READ, prefix="")


MEASURES = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' format


class Health(Message):
    """`ok`; a service that is not answers with an error."""

    status: str = "ok"


@routes.get("/version", needs=OPEN)
async def version(call: Call) -> VersionReply:
    """Name, wire versions and instance of the service; the instance changes with each start."""
    return VersionReply(
        service=f"openbalsam {__version__}",
        wire_min=WIRE_VERSIONS[0],
        wire_max=WIRE_VERSIONS[-1],
        instance=call.service.instance,
        now=call.now,
    )


@probes.get("/healthz", needs=OPEN)
async def healthz(call: Call) -> Health:
    """The process answers."""
    return Health()


@probes.get("/readyz", needs=OPEN)
async def readyz(call: Call) -> Health:
    """The store answers: 503 when it does not."""
    await call.read(lambda tx: tx.get(UserRow, 0))  # a read that asks nothing goes nowhere
    return Health()


@probes.get("/metrics", needs=ADMIN, scope=Scope.METRICS_READ, media_type="text/plain")
async def metrics(call: Call) -> Response:
    """Numbers over the whole service in Prometheus' text format, for administrators: `balsam token create --scope
    metrics:read`."""
    if call.principal.site_id is not None:
        raise Forbidden("these numbers are of the whole service; the token is for one Site")
    found = await call.read(lambda tx: figures(tx, call.now))
    return Response(call.service.metrics.text(found), media_type=MEASURES)
