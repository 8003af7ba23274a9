"""What administrators do: accounts, quotas, the audit log; and how the first one comes about."""

from hmac import compare_digest

from balsam.domain.scopes import Scope
from balsam.server.auth.needs import ADMIN, OPEN
from balsam.server.auth.passwords import hash_new
from balsam.server.errors import Unauthenticated
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.store.protocol import ReadTx
from balsam.server.usecases import audit, retention, users
from balsam.wire.admin import AuditPage, AuditQuery, FirstUser, PasswordReset, Pruned, PruneRequest, UserPatch
from balsam.wire.auth import UserCreate, Users, UserView

routes = Routes("administration", reads=Scope.ALL, writes=Scope.ALL)
ACCOUNT_BYTES = 65_536


@routes.post("/users", needs=ADMIN, status=201, body_limit=ACCOUNT_BYTES, audit="account_made")
async def create_user(call: Call, body: UserCreate) -> UserView:
    """Make a password account. No Idempotency-Key: a kept hash of this body would be a weak hash of a password."""
    hashed = await hash_new(call.service.passwords, body.password.get_secret_value())
    call.note(username=body.username, is_admin=body.is_admin)
    return await call.write(
        lambda tx: users.create_user(tx, call.principal, body.username, hashed, body.is_admin, call.now)
    )


@routes.post(
    "/users/first", needs=OPEN, status=201, body_limit=ACCOUNT_BYTES, audit="first_account_made", is_login=True
)
async def create_first_user(call: Call, body: FirstUser) -> UserView:
    """The first administrator of a new service, with the code that its log tells. It works once."""
    service = call.service
    await call.check_login(body.username)
    code = body.code.get_secret_value().encode()
    if service.first_code is None or not compare_digest(code, service.first_code.encode()):
        raise Unauthenticated("this is not the code in the service's log, or there is an administrator already")
    hashed = await hash_new(call.service.passwords, body.password.get_secret_value())
    call.note(username=body.username)
    issuers = () if service.providers is None else service.providers.issuers
    made = await call.write(lambda tx: users.create_first_user(tx, body.username, hashed, issuers, call.now))
    service.first_code = None
    return await call.read(lambda tx: users.view(tx, made))


@routes.get("/users", needs=ADMIN)
async def list_users(call: Call) -> Users:
    """All accounts, with what they use."""
    return Users(await call.read(lambda tx: users.list_users(tx, call.principal)))


@routes.patch("/users/{user_id}", needs=ADMIN, audit="account_changed")
async def change_user(call: Call, user_id: int, body: UserPatch) -> UserView:
    """Disable an account or enable it, set its limits, make it an administrator's."""
    call.note(**body.model_dump(exclude_unset=True))
    return await call.write(lambda tx: users.change_user(tx, call.principal, user_id, body, call.now))


@routes.post("/users/{user_id}/password", needs=ADMIN, status=204, body_limit=ACCOUNT_BYTES, audit="password_reset")
async def reset_password(call: Call, user_id: int, body: PasswordReset) -> None:
    """Another password, for who has forgotten theirs. Logins and programs' tokens of the account end, Sites' stay."""
    call.note(user_id=user_id)
    hashed = await hash_new(call.service.passwords, body.password.get_secret_value())
    await call.write(lambda tx: users.reset_password(tx, call.principal, user_id, hashed, call.now))


@routes.post("/jobs/prune", needs=ADMIN, body_limit=ACCOUNT_BYTES, audit="jobs_pruned")
async def prune_jobs(call: Call, body: PruneRequest) -> Pruned:
    """Remove Jobs that ended long ago and that nobody needs, a part of them in each call."""
    call.note(**body.model_dump(exclude_none=True))

    def chosen(tx: ReadTx) -> list[int]:
        return retention.chosen_owners(tx, call.principal, body.username)

    # The order leaves one row in the audit log, before anything is gone; the calls that go on with it leave none.
    users = await (call.write(chosen) if body.after_user_id is None else call.read(chosen))
    return await retention.prune(call.service.store, users, body, call.now)


@routes.get("/audit", needs=ADMIN)
async def list_audit(call: Call, query: AuditQuery) -> AuditPage:
    """The audit log, newest first."""
    return await call.read(lambda tx: audit.list_audit(tx, call.principal, query))
