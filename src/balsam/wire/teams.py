"""Messages about teams, and about what is shared with them."""

from typing import Annotated

from pydantic import StringConstraints

from balsam.domain.roles import Role
from balsam.wire.auth import Username
from balsam.wire.base import Id, Message, Timestamp

TeamName = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
CampaignName = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]


class TeamCreate(Message):
    """A new team; its founder is in it and leads it. The name is unique among the teams of one founder."""

    name: TeamName


class Member(Message):
    """One person of a team. A leader adds and removes people."""

    username: Username
    is_leader: bool = False


class TeamView(Message):
    """A team as its members see it."""

    id: int
    name: str
    founder: str
    created_at: Timestamp
    members: list[Member]


class TeamsPage(Message):
    """The teams that the caller is in."""

    count: int
    results: list[TeamView]


class MemberQuery(Message):
    """Who is meant."""

    username: Username


class ShareCreate(Message):
    """Give a team a role at one Site, or in one campaign: the caller's Jobs that carry the tag `campaign=NAME`.

    A second one for the same team and thing changes the role.
    """

    team_id: Id
    role: Role
    site_id: Id | None = None
    campaign: CampaignName | None = None


class ShareView(Message):
    """What a team may do, and with what of whose."""

    id: int
    team_id: int
    team: str
    role: Role
    owner: str
    site_id: int | None
    site: str | None
    campaign: str | None
    created_at: Timestamp


class SharesPage(Message):
    """What the caller shares with others, and others with them."""

    count: int
    results: list[ShareView]
