"""What people may do at a Site, or in a campaign, that was shared with their team.

A campaign is the Jobs of one owner's Sites that carry the tag `campaign=NAME`. Roles contain each other: who may submit
may look, who owns may do everything. Used by the service alone; a Site decides by its own settings what it runs (S15).
"""

from enum import StrEnum
from hashlib import blake2b

CAMPAIGN_TAG = "campaign"


class Role(StrEnum):
    """From the least to the most.

    >>> Role.OWNER.includes(Role.VIEWER), Role.VIEWER.includes(Role.SUBMITTER)
    (True, False)
    """

    VIEWER = "viewer"  # sees everything of it: Jobs, files, allocations, the log
    SUBMITTER = "submitter"  # and submits; changes and cancels what is their own
    OWNER = "owner"  # and everything that its owner may do

    def includes(self, other: "Role") -> bool:
        """Whether this role allows what the other one allows."""
        return _ORDER[self] >= _ORDER[other]


def campaign_key(owner_id: int, name: str) -> int:
    """63 bits that stand for a campaign where a number is wanted."""
    return int.from_bytes(blake2b(f"{owner_id}\0{name}".encode(), digest_size=8).digest(), "big") >> 1


_ORDER = {role: place for place, role in enumerate(Role)}


def stronger(first: Role | None, second: Role | None) -> Role | None:
    """The role of somebody who has both.

    >>> stronger(Role.VIEWER, Role.SUBMITTER)
    <Role.SUBMITTER: 'submitter'>
    """
    if first is None or second is None:
        return first or second
    return first if first.includes(second) else second
