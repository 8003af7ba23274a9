"""What a route asks of its caller. Every route declares one of these; a route without one can't be made.

This is the first of two gates: the kind of principal and the scopes of its token. The second, whose object it is, is
in the use cases (S14).
"""

from dataclasses import dataclass

from balsam.domain.scopes import Scope, covers
from balsam.server.errors import Forbidden
from balsam.server.principal import Principal

_WORDS = {"user": "a person", "site": "a Site's agent", "launcher": "a launcher", "job": "code of a Job"}


@dataclass(frozen=True, slots=True)
class Needs:
    """`kinds` empty: the route is open to anybody."""

    kinds: frozenset[str]
    admin: bool = False

    def check(self, principal: Principal) -> None:
        """Raise 403 when this kind of caller has no business here."""
        if principal.kind not in self.kinds:
            allowed = " or ".join(_WORDS[kind] for kind in sorted(self.kinds))
            raise Forbidden(f"this call is for {allowed}; the token is one of {_WORDS[principal.kind]}")
        if self.admin and not principal.is_admin:
            raise Forbidden(f"{principal.username} is not an administrator of this service")


def check_scope(principal: Principal, needed: Scope) -> None:
    """Raise 403 when the token was made for something else."""
    if not covers(principal.scopes, needed):
        has = " ".join(sorted(principal.scopes))
        what = "a login" if needed is Scope.ALL else f"the scope {needed}"
        raise Forbidden(f"this call takes {what}; the token has: {has}")


def _of(*kinds: str) -> Needs:
    return Needs(frozenset(kinds))


OPEN = _of()
ANYBODY = _of("user", "site", "launcher", "job")
USER = _of("user")
ADMIN = Needs(frozenset({"user"}), admin=True)
SITE = _of("site")
USER_OR_SITE = _of("user", "site")
USER_OR_JOB = _of("user", "job")
USER_SITE_OR_JOB = _of("user", "site", "job")
HOLDER = _of("user", "site", "launcher")  # whoever may hold a Session
