"""Teams: people with whom Sites and campaigns are shared. Only its members see a team (S14)."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from balsam.server.errors import Conflict, Forbidden, NotFound
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx, Tx, Wake
from balsam.server.store.records import MembershipRow, ShareRow, TeamRow, UserRow, micros, moment
from balsam.server.usecases.accounts import user_named
from balsam.server.usecases.views import user_names
from balsam.wire.base import Deleted, ErrorDetail
from balsam.wire.teams import Member, TeamsPage, TeamView


def find_team(tx: ReadTx, principal: Principal, team_id: int, *, as_leader: bool = False) -> TeamRow:
    """A team that the caller is in. Raises NotFound, or Forbidden to a member when it takes a leader."""
    principal.require("user")
    team = tx.get(TeamRow, team_id)
    mine = tx.find(MembershipRow, user_id=principal.user_id, team_id=team_id)
    if team is None or not mine:
        raise NotFound
    if as_leader and not mine[0].is_leader:
        raise Forbidden(f"only a leader of team {team.name!r} may do this")
    return team


def list_teams(tx: ReadTx, principal: Principal) -> TeamsPage:
    principal.require("user")
    mine = tx.find(MembershipRow, user_id=principal.user_id)
    teams = tx.find(TeamRow, id=tuple(one.team_id for one in mine)) if mine else []
    return TeamsPage(count=len(teams), results=[_view(tx, team) for team in teams])


def get_team(tx: ReadTx, principal: Principal, team_id: int) -> TeamView:
    return _view(tx, find_team(tx, principal, team_id))


def create_team(tx: Tx, principal: Principal, name: str, now: datetime) -> TeamView:
    """A new team with the caller as its leader. Raises Conflict when there is one of that name and founder."""
    principal.require("user")
    if tx.find(TeamRow, founder_id=principal.user_id, name=name):
        raise Conflict("team_exists", f"you founded a team {name!r} already; choose another name")
    team = TeamRow(tx.new_id(TeamRow), principal.user_id, name, micros(now))
    tx.put(team)
    tx.put(MembershipRow(tx.new_id(MembershipRow), team.id, principal.user_id, True, micros(now)))
    return _view(tx, team)


def delete_team(tx: Tx, principal: Principal, team_id: int) -> Deleted:
    """Remove a team; what was shared with it is shared no more."""
    team = find_team(tx, principal, team_id, as_leader=True)
    members = tx.find(MembershipRow, team_id=team.id)
    for share in tx.find(ShareRow, team_id=team.id):
        tx.remove(ShareRow, share.id)
    for member in members:
        tx.remove(MembershipRow, member.id)
    tx.remove(TeamRow, team.id)
    tell(tx, (member.user_id for member in members))
    return Deleted(deleted=1)


def put_member(tx: Tx, principal: Principal, team_id: int, message: Member, now: datetime) -> TeamView:
    """Add a person, or change whether they lead. Raises NotFound that names an unknown account."""
    team = find_team(tx, principal, team_id, as_leader=True)
    user = _person(tx, message.username)
    known = tx.find(MembershipRow, user_id=user.id, team_id=team.id)
    if known and known[0].is_leader and not message.is_leader:
        _check_led(tx, team, without=user.id)
    row = known[0] if known else MembershipRow(tx.new_id(MembershipRow), team.id, user.id, False, micros(now))
    tx.put(replace(row, is_leader=message.is_leader))
    tell(tx, [user.id])
    return _view(tx, team)


def remove_member(tx: Tx, principal: Principal, team_id: int, username: str) -> Deleted:
    """A leader removes anybody, a member may leave. The last leader stays, and can delete the team."""
    team = find_team(tx, principal, team_id, as_leader=username != principal.username)
    user = _person(tx, username)
    known = tx.find(MembershipRow, user_id=user.id, team_id=team.id)
    if not known:
        return Deleted(deleted=0, reason=f"{username} is not in team {team.name!r}")
    if known[0].is_leader:
        _check_led(tx, team, without=user.id)
    tx.remove(MembershipRow, known[0].id)
    tell(tx, [user.id])
    return Deleted(deleted=1)


def tell(tx: Tx, user_ids: Iterable[int]) -> None:
    """These people see more or less than before."""
    for user_id in user_ids:
        tx.wake(Wake("access", user_id, "changed", {}))


def _check_led(tx: ReadTx, team: TeamRow, without: int) -> None:
    leaders = tx.find(MembershipRow, team_id=team.id, is_leader=True)
    if all(leader.user_id == without for leader in leaders):
        raise Conflict("last_leader", f"team {team.name!r} would have no leader; make somebody else one first")


def _person(tx: ReadTx, username: str) -> UserRow:
    user = user_named(tx, username)
    if user is None:
        raise NotFound([ErrorDetail(where="username", message=f"there is no account {username!r}")])
    return user


def _view(tx: ReadTx, team: TeamRow) -> TeamView:
    members = tx.find(MembershipRow, team_id=team.id)
    names = user_names(tx, {team.founder_id, *(member.user_id for member in members)})
    return TeamView(
        id=team.id,
        name=team.name,
        founder=names[team.founder_id],
        created_at=moment(team.created_at),
        members=[Member(username=names[one.user_id], is_leader=one.is_leader) for one in members],
    )
