"""Messages about accounts, logins and tokens."""

from typing import Annotated

from pydantic import SecretStr, StringConstraints

from balsam.wire.base import Message, Timestamp

Username = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$")]


class AuthMethods(Message):
    """How a person can log in here."""

    methods: list[str]


class PasswordLogin(Message):
    """Exchange a password for a token."""

    username: Username
    password: SecretStr


class Login(Message):
    """A user token. Shown once, stored hashed, revocable."""

    token: str
    username: str
    expires_at: Timestamp | None


class WhoAmI(Message):
    """The account and kind behind a token."""

    user_id: int
    username: str
    kind: str  # user, site, launcher
    is_admin: bool
    site_id: int | None = None
    batch_job_id: int | None = None


class UserCreate(Message):
    """A new password account; only an administrator may create one."""

    username: Username
    password: SecretStr
    is_admin: bool = False


class UserView(Message):
    """An account."""

    id: int
    username: str
    is_admin: bool
    created_at: Timestamp
