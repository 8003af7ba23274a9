"""Teams, and what is shared with them."""

from balsam.domain.scopes import Scope
from balsam.server.auth.needs import USER
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.usecases import shares, teams
from balsam.wire.base import Deleted
from balsam.wire.teams import Member, MemberQuery, ShareCreate, SharesPage, ShareView, TeamCreate, TeamsPage, TeamView

routes = Routes("teams", reads=Scope.ALL, writes=Scope.ALL)


@routes.get("/teams", needs=USER)
async def list_teams(call: Call) -> TeamsPage:
    """The teams that the caller is in."""
    return await call.read(lambda tx: teams.list_teams(tx, call.principal))


@routes.post("/teams", needs=USER, status=201)
async def create_team(call: Call, body: TeamCreate) -> TeamView:
    """Found a team."""
    return await call.create(TeamView, lambda tx: teams.create_team(tx, call.principal, body.name, call.now))


@routes.get("/teams/{team_id}", needs=USER)
async def get_team(call: Call, team_id: int) -> TeamView:
    """One team."""
    return await call.read(lambda tx: teams.get_team(tx, call.principal, team_id))


@routes.delete("/teams/{team_id}", needs=USER)
async def delete_team(call: Call, team_id: int) -> Deleted:
    """Remove a team; what was shared with it is shared no more."""
    return await call.write(lambda tx: teams.delete_team(tx, call.principal, team_id))


@routes.put("/teams/{team_id}/members", needs=USER, audit="member_changed")
async def put_member(call: Call, team_id: int, body: Member) -> TeamView:
    """Add a person to a team, or change whether they lead it."""
    call.note(username=body.username, is_leader=body.is_leader)
    return await call.write(lambda tx: teams.put_member(tx, call.principal, team_id, body, call.now))


@routes.delete("/teams/{team_id}/members", needs=USER, audit="member_removed")
async def remove_member(call: Call, team_id: int, query: MemberQuery) -> Deleted:
    """Remove a person from a team; everybody may leave."""
    call.note(username=query.username)
    return await call.write(lambda tx: teams.remove_member(tx, call.principal, team_id, query.username))


@routes.get("/shares", needs=USER)
async def list_shares(call: Call) -> SharesPage:
    """What the caller shares, and what is shared with them."""
    return await call.read(lambda tx: shares.list_shares(tx, call.principal))


@routes.put("/shares", needs=USER, audit="shared")
async def put_share(call: Call, body: ShareCreate) -> ShareView:
    """Give a team a role at a Site or in a campaign; a second one changes the role."""
    call.note(**body.model_dump(mode="json"))
    return await call.write(lambda tx: shares.put_share(tx, call.principal, body, call.now))


@routes.delete("/shares/{share_id}", needs=USER, audit="share_removed")
async def delete_share(call: Call, share_id: int) -> Deleted:
    """Share no more."""
    return await call.write(lambda tx: shares.delete_share(tx, call.principal, share_id))
