"""Messages of administrators: accounts, what they may use, the audit log."""

from typing import Annotated

from pydantic import Field, SecretStr

from balsam.wire.auth import NewPassword, Username
from balsam.wire.base import Id, JsonDict, Message, Short, Timestamp

_Limit = Annotated[int, Field(ge=0, lt=2**63)]
MAX_AUDIT_PAGE = 1_000


class UserPatch(Message):
    """Change an account. What is not given stays; a null takes a limit of its own away."""

    is_admin: bool | None = None
    disabled: bool | None = None  # its tokens end to work, agents' and launchers' as well; nothing is removed
    max_jobs: _Limit | None = None
    quota_bytes: _Limit | None = None  # of files on their way
    requests_per_sec: Annotated[int, Field(ge=1, le=100_000)] | None = None


class PasswordReset(Message):
    """An administrator gives an account another password."""

    password: NewPassword


class FirstUser(Message):
    """The first administrator of a new service, who has read the code in its log."""

    code: SecretStr
    username: Username
    password: NewPassword


class PruneRequest(Message):
    """Remove Jobs that ended so long ago, of one account or of all. The `after_...` are those of the answer before."""

    older_than_days: Annotated[int, Field(ge=1, le=36_500)]
    username: Username | None = None
    dry_run: bool = False  # only count
    after_user_id: Id | None = None
    after_job_id: Id | None = None
    after_value: Id | None = None


class Pruned(Message):
    """How many Jobs this call removed; `more`: ask again, with the place where it stopped."""

    removed: int
    more: bool = False
    after_user_id: int | None = None
    after_job_id: int | None = None
    after_value: int | None = None


class AuditQuery(Message):
    """Selects rows of the audit log, newest first."""

    event: Short | None = None
    actor: Username | None = None
    before_id: Id = 2**63 - 1
    limit: Annotated[int, Field(ge=1, le=MAX_AUDIT_PAGE)] = 100


class AuditView(Message):
    """One act. `actor` is empty where nobody was logged in; `target` is the request, `detail` what it was about."""

    id: int
    at: Timestamp
    event: str
    actor: str
    token_id: int
    address: str
    request_id: str
    target: str
    detail: JsonDict


class AuditPage(Message):
    """Rows of the audit log, newest first."""

    results: list[AuditView]
