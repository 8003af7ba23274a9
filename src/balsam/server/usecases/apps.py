"""Apps: sync a definition, list, delete."""

from datetime import datetime
from functools import partial

from balsam.domain.app import AppParameter as Parameter
from balsam.domain.app import with_template_parameters
from balsam.domain.envelope import BadEnvelope
from balsam.domain.roles import Role
from balsam.domain.template import TemplateError
from balsam.server.errors import Conflict, Invalid
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx, Tx
from balsam.server.store.records import AppRow, micros
from balsam.server.store.selections import JobSelection
from balsam.server.usecases.limits import BadJson, json_text
from balsam.server.usecases.lookups import conditions, matches
from balsam.server.usecases.scope import find_app, find_site, find_sites
from balsam.server.usecases.views import app_views, user_names
from balsam.wire.apps import AppFilter, AppParameter, AppsPage, AppSync, AppView
from balsam.wire.base import Deleted, ErrorDetail
from balsam.wire.kinds import APP_FIELDS

MAX_DEFINITION_BYTES = 1_048_576


def list_apps(tx: ReadTx, principal: Principal, message: AppFilter) -> AppsPage:
    offered = find_sites(tx, principal, offered=True)
    owners = user_names(tx, {site.owner_id for site in offered})
    sites = {
        site.id
        for site in offered
        if message.site_name in (None, site.name, f"{owners[site.owner_id]}/{site.name}")
        and (message.site_path is None or message.site_path in site.path)
    }
    wanted = conditions(message.where, APP_FIELDS)
    rows = [
        app
        for app in tx.find(AppRow, site_id=tuple(sites))
        if (message.id is None or app.id in message.id)
        and (message.site_id is None or app.site_id in message.site_id)
        and message.name in (None, app.name)
        and matches(wanted, partial(_field, app))
    ]
    page = rows[message.offset : message.offset + message.limit]
    return AppsPage(count=len(rows), results=app_views(tx, page))


def _field(app: AppRow, name: str) -> object:
    return app.definition[name] if name == "description" else getattr(app, name)


def get_app(tx: ReadTx, principal: Principal, app_id: int) -> AppView:
    return app_views(tx, [find_app(tx, principal, app_id, Role.VIEWER)])[0]


def sync_app(tx: Tx, principal: Principal, message: AppSync, now: datetime, rename_from: str | None = None) -> AppView:
    """Create the App (site, name) or replace its definition. Raises Invalid with every fault of the definition.

    `rename_from` is the name it had; its Jobs stay its own. Once it has the new name, a repeat changes nothing.
    """
    principal.require("user", "site", "job")
    site = find_site(tx, principal, message.site_id, Role.OWNER)
    message = _complete(message)
    try:
        spec = message.spec()
    except BadEnvelope as error:
        raise Invalid([ErrorDetail(where="code.envelope", message=str(error))]) from None
    problems = [ErrorDetail(where=where, message=why) for where, why in spec.problems()]
    definition = message.model_dump(mode="json")
    try:
        json_text(definition, "the App's definition", MAX_DEFINITION_BYTES)
    except BadJson as error:
        problems.append(ErrorDetail(where="app", message=str(error)))
    if problems:
        raise Invalid(problems)
    known = _known_app(tx, site.id, message.name, rename_from)
    row = AppRow(
        id=tx.new_id(AppRow) if known is None else known.id,
        site_id=site.id,
        owner_id=site.owner_id,
        author_id=principal.user_id,
        name=message.name,
        content_hash=spec.content_hash,
        synced_at=micros(now),
        definition=definition,
    )
    tx.put(row)
    return app_views(tx, [row])[0]


def _known_app(tx: Tx, site_id: int, name: str, rename_from: str | None) -> AppRow | None:
    """The App that is meant. Raises Conflict when there are two, and Invalid when there is none to rename."""
    there = {app.name: app for app in tx.find(AppRow, site_id=site_id, name=(name, rename_from or name))}
    if rename_from is None or rename_from == name:
        return there.get(name)
    if len(there) == 2:
        why = (
            f"this Site has an App {name!r} already, beside {rename_from!r}; delete one of them, or choose another name"
        )
        raise Conflict("app_exists", why)
    if not there:
        raise Invalid([ErrorDetail(where="rename_from", message=f"this Site has no App {rename_from!r}")])
    return next(iter(there.values()))


def _complete(message: AppSync) -> AppSync:
    """Parameters that only the template names are required ones."""
    if message.command_template is None:
        return message
    declared = {name: Parameter(**spec.model_dump()) for name, spec in message.parameters.items()}
    try:
        parameters = with_template_parameters(message.command_template, declared)
    except TemplateError as error:
        raise Invalid([ErrorDetail(where="command_template", message=str(error))]) from None
    wanted = {
        name: AppParameter(required=spec.required, default=spec.default, help=spec.help)
        for name, spec in parameters.items()
    }
    return message.model_copy(update={"parameters": wanted})


def delete_app(tx: Tx, principal: Principal, app_id: int) -> Deleted:
    """Remove an App that no Job refers to any more. Raises Conflict `app_in_use` otherwise."""
    principal.require("user")
    app = find_app(tx, principal, app_id, Role.OWNER)
    jobs = tx.job_count(JobSelection(app.owner_id, app_ids=(app.id,)))
    if jobs:
        raise Conflict("app_in_use", f"App {app.name!r} has {jobs} Jobs; delete them first")
    tx.remove(AppRow, app.id)
    return Deleted(deleted=1)
