"""REST routes: parse -> use case -> wire. `ALL` is every endpoint of the service; app.py serves and documents them."""

from balsam.server.routes import (
    accounts,
    admin,
    apps,
    batch_jobs,
    blobs,
    device,
    events,
    files,
    jobs,
    meta,
    sessions,
    sites,
    teams,
    tokens,
    transfers,
)
from balsam.server.routes.endpoint import Endpoint

ALL: tuple[Endpoint, ...] = tuple(
    endpoint
    for routes in (
        sessions.routes,
        jobs.routes,
        files.routes,
        transfers.routes,
        blobs.routes,
        apps.routes,
        batch_jobs.routes,
        sites.routes,
        events.routes,
        accounts.routes,
        admin.routes,
        device.routes,
        teams.routes,
        tokens.routes,
        meta.routes,
        meta.probes,
    )
    for endpoint in routes.endpoints
)
