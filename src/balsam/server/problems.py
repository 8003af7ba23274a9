"""From anything that went wrong in a request to the one error answer every client understands (wire ErrorReply).

Called by the dispatcher. Promises that an answer never carries a trace, SQL or a secret, and always a request id.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from balsam.server.errors import ServiceError
from balsam.wire.base import ErrorDetail, ErrorInfo, ErrorReply
from balsam.wire.faults import said

MAX_DETAILS = 20  # a bulk with 10,000 bad rows is answered with the first ones and their number


class Problem(ServiceError):
    """An error of the HTTP layer itself: path, method, header, size, rate. Use cases raise the other ServiceErrors."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        *,
        retry_after_sec: int | None = None,
    ) -> None:
        super().__init__(status, code, message, retry_after_sec=retry_after_sec)
        self.headers = dict(headers or {})


def where(location: Sequence[int | str]) -> str:
    """Path of a field as a person writes it.

    >>> where(("jobs", 17, "workdir"))
    'jobs[17].workdir'
    """
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text or "body"


def from_validation(error: ValidationError) -> Problem:
    """400 for a body that is no JSON, 422 with the place of each fault otherwise. Input values are not repeated."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    if any(fault["type"] == "json_invalid" for fault in faults):
        return Problem(400, "malformed", f"the body is not valid JSON: {faults[0]['msg']}")
    details = [ErrorDetail(where=where(fault["loc"]), message=_plain(fault)) for fault in faults[:MAX_DETAILS]]
    more = f" (the first {MAX_DETAILS} of {len(faults)} are listed)" if len(faults) > MAX_DETAILS else ""
    problem = Problem(422, "invalid", f"{details[0].where}: {details[0].message}" + more)
    problem.details = details
    return problem


def internal(request_id: str) -> Problem:
    """What is told of a fault of our own: where to look for it, and nothing of it."""
    return Problem(500, "internal", f"the service failed; its log has the cause under request id {request_id}")


def _plain(fault: Mapping[str, Any]) -> str:
    return "unknown field" if fault["type"] == "extra_forbidden" else said(fault)


def reply(error: ServiceError, request_id: str) -> ErrorReply:
    """The body of the answer."""
    info = ErrorInfo(code=error.code, message=error.message, details=error.details[:MAX_DETAILS], request_id=request_id)
    return ErrorReply(error=info)


def headers_of(error: ServiceError) -> dict[str, str]:
    """Headers that go with an error: 401 names the scheme, 429 and 503 say when to come back."""
    headers = dict(error.headers) if isinstance(error, Problem) else {}
    if error.retry_after_sec is not None:
        headers["Retry-After"] = str(error.retry_after_sec)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers
