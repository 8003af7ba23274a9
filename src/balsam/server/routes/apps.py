"""Apps: what a Site can run."""

from balsam.domain.scopes import Scope
from balsam.server.auth.needs import ANYBODY, USER, USER_SITE_OR_JOB
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.usecases import apps
from balsam.wire.apps import AppFilter, AppRename, AppsPage, AppSync, AppView
from balsam.wire.base import Deleted

routes = Routes("apps", reads=Scope.JOBS_READ, writes=Scope.SITES_ADMIN)


@routes.search("/apps", needs=ANYBODY)
async def list_apps(call: Call, query: AppFilter) -> AppsPage:
    """The caller's Apps."""
    return await call.read(lambda tx: apps.list_apps(tx, call.principal, query))


@routes.put("/apps", needs=USER_SITE_OR_JOB, audit="app_synced")
async def sync_app(call: Call, body: AppSync, query: AppRename) -> AppView:
    """Create the App of this Site and name, or replace its definition; or rename one, with its Jobs."""
    call.note(site_id=body.site_id, name=body.name)
    return await call.create(
        AppView, lambda tx: apps.sync_app(tx, call.principal, body, call.now, rename_from=query.rename_from)
    )


@routes.get("/apps/{app_id}", needs=ANYBODY)
async def get_app(call: Call, app_id: int) -> AppView:
    """One App."""
    return await call.read(lambda tx: apps.get_app(tx, call.principal, app_id))


@routes.delete("/apps/{app_id}", needs=USER, audit="app_removed")
async def delete_app(call: Call, app_id: int) -> Deleted:
    """Delete an App that no Job needs any more."""
    return await call.write(lambda tx: apps.delete_app(tx, call.principal, app_id))
