"""Every error the client raises. The text says what is wrong, where, and what to do about it.

`from_reply` turns an error answer of the service into the class a caller can catch; `code` stays readable for those
who must tell 409s apart (`session_ended`, `agent_running`, ...).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a request: `where` is a path such as `jobs[17].workdir`."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class BalsamError(Exception):
    """Base of all errors of the client. `status` is the HTTP status, None when the service was not heard."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        details: Sequence[Problem] = (),
        status: int | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.details = list(details)
        self.status = status
        self.request_id = request_id
        self.repeated = False  # an earlier try of the same call may have been carried out

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self.args, self.__dict__)


class NotAuthenticatedError(BalsamError):
    """There is no token, or none that is accepted: NotConfigured or Unauthorized."""


class NotConfigured(NotAuthenticatedError):
    """No service is known: no address, or no token for it."""


class CredentialsError(BalsamError):
    """A credentials file can't be trusted or can't be read."""


class NotFound(BalsamError):
    """There is no such object, or it belongs to somebody else."""


class DoesNotExist(NotFound):
    """`get` found nothing. Each model has its own subclass, such as `Job.DoesNotExist`."""


class MultipleObjectsReturned(BalsamError):
    """`get` found more than one. Each model has its own subclass."""


class ValidationFailed(BalsamError, ValueError):
    """The request is wrong; `details` names every field. Nothing was changed."""


class QueryTooSlow(BalsamError):
    """The service gave the selection up: it would have had to look at too many rows. The text says what is indexed."""


class Conflict(BalsamError):
    """The request contradicts what is there now. Nothing was changed."""


class SessionEnded(Conflict):
    """The Session is over: its holder's lease ended, and another one may hold its Jobs."""


class Fenced(Conflict):
    """The lease token is not the current one."""


class Unauthorized(NotAuthenticatedError):
    """The service does not accept the token."""


class Forbidden(BalsamError):
    """The token is valid and does not allow this."""


class WireVersionMismatch(BalsamError):
    """Client and service do not speak a common version."""


class ServiceUnavailable(BalsamError):
    """The service could not be reached, or could not answer, for as long as the call was allowed to take."""


class DeadlineExceeded(ServiceUnavailable, TimeoutError):
    """The call's own deadline passed. Whether the service carried the request out is unknown."""


class SiteOffline(ServiceUnavailable):
    """The service answered, but the Site's agent did not: what only the Site knows can't be had now."""


class StorageFull(BalsamError):
    """The service has no room for more: its disk is full, or your quota is used up. Nothing was kept."""


class TransferFailed(BalsamError):
    """A result can't be put where it belongs on this machine. The Job is done, and the service keeps the result for its
    time, which the text says when it is over."""


class ServiceFault(BalsamError):
    """The service failed at this request (500), or what answered is not a Balsam service."""


class NoResult(BalsamError, ValueError):
    """The Job has no result: its last attempt has not ended, or it is to run again. `Job.NoResult`."""


class JobFailed(BalsamError):
    """The result was asked of a Job that failed without an exception of its own: its command ended with an error, its
    process was killed, its attempts are spent. `job_id`, `state` and `return_code` say of which and how.
    """

    def __init__(self, message: str, *, job_id: int, state: str, return_code: int | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.state = state
        self.return_code = return_code

    def __reduce__(self) -> tuple[object, ...]:
        return (_restored, (type(self), self.args, self.__dict__))


class JobCancelled(JobFailed):
    """The result was asked of a Job that was cancelled."""


class RemoteError(BalsamError):
    """`run()` raised an exception that can't be made here, since its class is unknown or it can't be pickled; or one
    that ends a program, such as SystemExit, and shall not end this one.

    `remote_type` is its class, `remote_message` its text, `remote_traceback` where it came from, as Python prints it.
    """

    def __init__(self, message: str, *, remote_type: str, remote_message: str = "", remote_traceback: str = "") -> None:
        super().__init__(message)
        self.remote_type = remote_type
        self.remote_message = remote_message
        self.remote_traceback = remote_traceback

    def __reduce__(self) -> tuple[object, ...]:
        return (_restored, (type(self), self.args, self.__dict__))


class ResultTooLarge(BalsamError):
    """What `run()` returned is more than travels back; write large data to a file and return its name."""


class RemoteTraceback(Exception):
    """The cause of an exception that `run()` raised: where it came from, as the Site's Python printed it."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def _restored(kind: type[BalsamError], args: tuple[object, ...], state: dict[str, object]) -> BalsamError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


_BY_STATUS: Mapping[int, type[BalsamError]] = {
    400: ValidationFailed,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: ValidationFailed,
    422: ValidationFailed,
    426: WireVersionMismatch,
    429: ServiceUnavailable,
    502: ServiceUnavailable,
    503: ServiceUnavailable,
    504: ServiceUnavailable,
    507: StorageFull,
}
_BY_CODE: Mapping[str, type[BalsamError]] = {
    "session_ended": SessionEnded,
    "allocation_ended": SessionEnded,  # a launcher's token goes with its BatchJob, and so does its lease
    "fenced": Fenced,
    "site_offline": SiteOffline,
    "too_slow": QueryTooSlow,
}
_DISABLED = "account_disabled"  # refused like a bad token; another one would not help
_ADVICE: Mapping[type[BalsamError], str] = {
    Unauthorized: "log in again with `balsam login {url}` (on the machine of a local service: start `balsam up`)",
    WireVersionMismatch: "bring both to one version: `pip install -U openbalsam` here, or ask who runs {url}",
}
_SHOWN_DETAILS = 10


def from_reply(
    status: int, code: str, message: str, *, url: str, where: str, details: Sequence[Problem] = (), request_id: str = ""
) -> BalsamError:
    """The exception for an error answer. `where` is the request (`POST /api/jobs`), `url` the service."""
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, ServiceFault)
    listed = [str(problem) for problem in details[:_SHOWN_DETAILS]]
    if listed and message.startswith(listed[0]):  # it is not said twice
        del listed[0]
    text = [message or f"the service answered {status}", *(f"  {problem}" for problem in listed)]
    if len(details) > _SHOWN_DETAILS:
        text.append(f"  ... and {len(details) - _SHOWN_DETAILS} more")
    if kind in _ADVICE and code != _DISABLED:
        text.append(_ADVICE[kind].format(url=url))
    if kind is ServiceFault:
        text.append(f"({where} at {url}, request {request_id or 'without id'}; the service's log has the cause)")
    return kind("\n".join(text), code=code, details=details, status=status, request_id=request_id)
