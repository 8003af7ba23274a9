"""Messages about accounts, logins and tokens."""

from typing import Annotated

from pydantic import AfterValidator, Field, RootModel, SecretStr, StringConstraints, WithJsonSchema

from balsam.domain.scopes import GIVEN, Scope
from balsam.wire.base import Id, Message, Name, Short, Timestamp
from balsam.wire.limits import MAX_PASSWORD, MIN_PASSWORD

MAX_TOKEN_DAYS = 3650

Username = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$")]


# Said only: what is wrong with a password is told by who checks it.
NewPassword = Annotated[SecretStr, Field(json_schema_extra={"minLength": MIN_PASSWORD, "maxLength": MAX_PASSWORD})]


class AuthMethods(Message):
    """How a person can log in here."""

    methods: list[str]  # password, local, device
    providers: list[str] = []  # where people log in with a browser, by name


class DeviceAsk(Message):
    """A program that can't open a browser asks to be logged in."""

    client: Short = ""  # what it is and where it runs; shown to the person who is asked


class DeviceLogin(Message):
    """The person opens the address and compares the code; meanwhile the program asks with its device code."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in_sec: int
    interval_sec: int


class DevicePoll(Message):
    """Is it approved?"""

    device_code: SecretStr


class PasswordLogin(Message):
    """Exchange a password for a token."""

    username: Username
    password: SecretStr


class PasswordChange(Message):
    """Another password for the account that asks."""

    current: SecretStr
    password: NewPassword


class Login(Message):
    """A user token. Shown once, stored hashed, revocable."""

    token: str
    username: str
    expires_at: Timestamp | None


class WhoAmI(Message):
    """The account and kind behind a token."""

    user_id: int
    username: str
    kind: str  # user, site, launcher, job
    is_admin: bool
    site_id: int | None = None
    batch_job_id: int | None = None
    scopes: list[Scope] = [Scope.ALL]


def _given(scope: Scope) -> Scope:
    if scope is Scope.ALL:
        raise ValueError(f"only a login has it; a token names some of: {', '.join(GIVEN)}")
    return scope


GivenScope = Annotated[Scope, AfterValidator(_given), WithJsonSchema({"type": "string", "enum": list(GIVEN)})]


class TokenCreate(Message):
    """A token for a program: what it may do, at which Site if at one only, for how long. It outlives every login."""

    label: Name
    scopes: Annotated[list[GivenScope], Field(min_length=1, max_length=len(GIVEN))]
    site_id: Id | None = None
    days: Annotated[int, Field(ge=1, le=MAX_TOKEN_DAYS)] | None = None  # None: until it is revoked


class TokenView(Message):
    """A token that is good now. Its text was shown once, when it was made."""

    id: int
    kind: str  # user, site, launcher, job
    label: str
    scopes: list[Scope]
    site_id: int | None
    batch_job_id: int | None
    created_at: Timestamp
    expires_at: Timestamp | None
    last_used_at: Timestamp | None  # noted about once a minute
    is_this_one: bool  # the one that asks


class BrowserLink(Message):
    """Lets one browser in, once: append `path` to the address of the service."""

    path: str
    expires_at: Timestamp


class TokensPage(Message):
    """The tokens of one account."""

    count: int
    results: list[TokenView]


class TokenCreated(Message):
    """A new token and its text, shown this once."""

    token: str
    about: TokenView


class UserCreate(Message):
    """A new password account; only an administrator may create one."""

    username: Username
    password: NewPassword
    is_admin: bool = False


class UserView(Message):
    """An account."""

    id: int
    username: str
    is_admin: bool
    created_at: Timestamp
    disabled_at: Timestamp | None = None
    max_jobs: int | None = None  # this and the two below: None as for everybody
    quota_bytes: int | None = None
    requests_per_sec: int | None = None
    jobs: int = 0
    used_bytes: int = 0  # files on their way


class Users(RootModel[list[UserView]]):
    """All accounts."""
