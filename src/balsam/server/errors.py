"""What a use case or the store raises when it refuses; the app turns each into an ErrorReply with the same status.

The texts say what is wrong, where, and what to do. NotFound never says whether the object exists for somebody else
(S14).
"""

from collections.abc import Iterable

from balsam.wire.base import ErrorDetail

STOPPING = "the service is stopping; try again"


class ServiceError(Exception):
    """Base: HTTP status, a stable code for programs, a sentence for people, and the places that are wrong."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Iterable[ErrorDetail] = (),
        *,
        retry_after_sec: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = list(details)
        self.retry_after_sec = retry_after_sec


def _first_of(details: list[ErrorDetail], otherwise: str) -> str:
    """The first place that is wrong, and how many more there are."""
    if not details:
        return otherwise
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{details[0].where}: {details[0].message}{more}"


class NotFound(ServiceError):
    """No such object, or not one of the caller's: the two can't be told apart (S14)."""

    def __init__(self, details: Iterable[ErrorDetail] = ()) -> None:
        details = list(details)
        text = _first_of(details, "there is no such thing here, or it is not yours")
        super().__init__(404, "not_found", text, details)


class Invalid(ServiceError):
    """The request can't be carried out as written; `details` name every place."""

    def __init__(self, details: Iterable[ErrorDetail] | str) -> None:
        if isinstance(details, str):
            super().__init__(422, "invalid", details)
            return
        details = list(details)
        super().__init__(422, "invalid", _first_of(details, "the request is not valid"), details)


class Conflict(ServiceError):
    """The request is sound but does not fit the present state; `code` names the rule."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(409, code, message)


class SessionEnded(Conflict):
    """The lease is over, for good: its holder kills its runs and exits (S6)."""

    def __init__(self, session_id: int) -> None:
        super().__init__("session_ended", f"Session {session_id} has ended; its Jobs are not yours any more")


class Unauthenticated(ServiceError):
    """No token, or one that is unknown, expired or revoked."""

    def __init__(self, message: str = "log in first: run `balsam login URL`, or send a valid token") -> None:
        super().__init__(401, "unauthenticated", message)


class AccountDisabled(Unauthenticated):
    """The account was disabled by an administrator; its tokens work again once it is enabled."""

    def __init__(self) -> None:
        super().__init__("this account is disabled; ask the administrators of the service")
        self.code = "account_disabled"


class AllocationEnded(Unauthenticated):
    """The token went with its BatchJob. A launcher that still lives kills its runs and exits (S6)."""

    def __init__(self, batch_job_id: int) -> None:
        super().__init__(f"BatchJob {batch_job_id} has ended, and this token with it")
        self.code = "allocation_ended"


class Forbidden(ServiceError):
    """The token is good, but not for this."""

    def __init__(self, message: str, details: Iterable[ErrorDetail] = ()) -> None:
        super().__init__(403, "forbidden", message, details)


class TooMany(ServiceError):
    """A limit on rate or number (S16)."""

    def __init__(self, message: str, retry_after_sec: int = 1) -> None:
        super().__init__(429, "too_many", message, retry_after_sec=retry_after_sec)


class TooSlow(ServiceError):
    """A list or a count took longer than the service lets one take: its filter has to read too many rows (S16)."""

    def __init__(self, limit_sec: float) -> None:
        message = (
            f"this selection was given up after {limit_sec:g} s: too many rows have to be looked at one by one. Narrow "
            "it by what is indexed: id, parent_id, site_id, app_id, state, batch_job_id, a tag, or a span of "
            "last_update (events: of timestamp)"
        )
        super().__init__(422, "too_slow", message)


class Unavailable(ServiceError):
    """The service can't do it now; nothing was written. 503 with Retry-After, or 507 when the disk is full."""

    def __init__(self, message: str, status: int = 503, retry_after_sec: int = 2) -> None:
        code = "storage_full" if status == 507 else "unavailable"
        super().__init__(status, code, message, retry_after_sec=retry_after_sec)
