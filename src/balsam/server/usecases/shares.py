"""Sharing a Site or a campaign with a team, in a role. What a role allows is decided in `scope`."""

from dataclasses import replace
from datetime import datetime

from balsam.domain.roles import Role
from balsam.server.errors import Invalid, NotFound
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx, Tx
from balsam.server.store.records import MembershipRow, ShareRow, SiteRow, TeamRow, micros, moment
from balsam.server.usecases.scope import access_of, find_site
from balsam.server.usecases.teams import find_team, tell
from balsam.server.usecases.views import user_names
from balsam.wire.base import Deleted, ErrorDetail
from balsam.wire.teams import ShareCreate, SharesPage, ShareView


def list_shares(tx: ReadTx, principal: Principal) -> SharesPage:
    """What is shared of the caller's own, of Sites owned together with others, and with the caller's teams."""
    principal.require("user")
    teams = tuple(one.team_id for one in tx.find(MembershipRow, user_id=principal.user_id))
    led = tuple(site for site, role in access_of(tx, principal).sites.items() if role is Role.OWNER)
    found = tx.find(ShareRow, owner_id=principal.user_id)
    found += tx.find(ShareRow, team_id=teams) if teams else []
    found += tx.find(ShareRow, site_id=led) if led else []
    rows = {share.id: share for share in found}
    return SharesPage(count=len(rows), results=[_view(tx, rows[share_id]) for share_id in sorted(rows)])


def put_share(tx: Tx, principal: Principal, message: ShareCreate, now: datetime) -> ShareView:
    """Give a team of the caller's a role at a Site they own, or in a campaign of theirs."""
    team = find_team(tx, principal, message.team_id)
    if (message.site_id is None) == (message.campaign is None):
        raise Invalid([ErrorDetail(where="site_id", message="give a Site or a campaign, one of both")])
    owner_id = principal.user_id
    if message.site_id is not None:
        owner_id = find_site(tx, principal, message.site_id, Role.OWNER).owner_id
    known = tx.find(ShareRow, owner_id=owner_id, team_id=team.id, site_id=message.site_id, campaign=message.campaign)
    row = (
        known[0]
        if known
        else ShareRow(
            tx.new_id(ShareRow), owner_id, team.id, message.site_id, message.campaign, message.role, micros(now)
        )
    )
    row = replace(row, role=message.role)
    tx.put(row)
    _tell_team(tx, team.id)
    return _view(tx, row)


def delete_share(tx: Tx, principal: Principal, share_id: int) -> Deleted:
    """Share no more: by the owner, or by an owner of the Site."""
    principal.require("user")
    share = tx.get(ShareRow, share_id)
    if share is None or not _may_end(tx, principal, share):
        raise NotFound
    tx.remove(ShareRow, share.id)
    _tell_team(tx, share.team_id)
    return Deleted(deleted=1)


def _may_end(tx: ReadTx, principal: Principal, share: ShareRow) -> bool:
    if share.site_id is None:
        return share.owner_id == principal.user_id
    return access_of(tx, principal).at_site(share.owner_id, share.site_id) is Role.OWNER


def _tell_team(tx: Tx, team_id: int) -> None:
    tell(tx, (member.user_id for member in tx.find(MembershipRow, team_id=team_id)))


def _view(tx: ReadTx, share: ShareRow) -> ShareView:
    team = tx.get(TeamRow, share.team_id)
    site = None if share.site_id is None else tx.get(SiteRow, share.site_id)
    return ShareView(
        id=share.id,
        team_id=share.team_id,
        team=team.name if team else "",
        role=share.role,
        owner=user_names(tx, {share.owner_id})[share.owner_id],
        site_id=share.site_id,
        site=site.name if site else None,
        campaign=share.campaign,
        created_at=moment(share.created_at),
    )
