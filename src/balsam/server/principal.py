"""Who makes a request. Built from a token by `usecases.accounts.authenticate`, passed to every use case.

Every look-up of a use case is scoped by its principal (S14): it learns an identity from nowhere else.
"""

from dataclasses import dataclass
from typing import Literal

from balsam.domain.scopes import Scope
from balsam.server.errors import Forbidden

Kind = Literal["user", "site", "launcher", "job"]


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller. `site_id` is set for sites, launchers, Jobs and users' tokens for one Site.

    `batch_job_id` is set for launchers, and for the code of Jobs in that BatchJob.
    """

    user_id: int
    username: str
    kind: Kind = "user"
    is_admin: bool = False
    site_id: int | None = None
    batch_job_id: int | None = None
    token_id: int = 0
    scopes: frozenset[Scope] = frozenset({Scope.ALL})
    requests_per_sec: int | None = None  # of the account, when it has a limit of its own

    def require(self, *kinds: Kind) -> None:
        """Raises Forbidden unless the principal is one of these kinds."""
        if self.kind not in kinds:
            raise Forbidden(f"a {self.kind} token may not do this; it takes a {' or '.join(kinds)} token")

    def require_admin(self) -> None:
        """Raises Forbidden unless the principal is an administrator's own token."""
        self.require("user")
        if not self.is_admin:
            raise Forbidden("only an administrator may do this")
