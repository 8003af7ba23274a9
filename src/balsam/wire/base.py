"""Base of all messages, shared field types, errors and limits (S16)."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from balsam.wire.limits import MAX_TAGS

# What a database holds; anything beyond is refused here and not by it.
Number = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
AtLeastOne = Annotated[int, Field(ge=1, lt=2**63)]
Id = AtLeastOne
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Short = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
# Only said here: the use case that checks it says better what is wrong.
TagName = Annotated[Short, Field(json_schema_extra={"pattern": r"^[^:\x00-\x1f\x7f]+$"})]
TagFilters = Annotated[  # KEY:VALUE; no Job has more, and no database takes any number of conditions
    list[Annotated[str, Field(json_schema_extra={"pattern": ":"})]], Field(max_length=MAX_TAGS)
]
ById: Any = Field(json_schema_extra={"propertyNames": {"pattern": "^[1-9][0-9]{0,17}$"}})  # beside a dict of Id
Tags = Annotated[dict[TagName, Short], Field(max_length=MAX_TAGS)]
JsonDict = dict[str, Any]


class Message(BaseModel):
    """A REST message. Unknown fields are refused; instances do not change. Its validator is built at first use."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, ser_json_inf_nan="null")


def dump_body(message: Message) -> bytes:
    """JSON of a request body; what was not set is not sent."""
    return message.__pydantic_serializer__.to_json(message, exclude_unset=True)


class ErrorDetail(Message):
    """One thing that is wrong, and where: `where` is a path such as `jobs[17].workdir`."""

    where: str
    message: str


class ErrorInfo(Message):
    """What every error answer carries under `error`."""

    code: str
    message: str
    details: list[ErrorDetail] = []
    request_id: str = ""


class ErrorReply(Message):
    """Body of every answer with status 400 or above."""

    error: ErrorInfo


class VersionReply(Message):
    """Who the service is and which wire versions it speaks."""

    service: str
    wire_min: int
    wire_max: int
    instance: str  # changes with each start of the service
    now: datetime


class Deleted(Message):
    """How many rows a delete removed; `skipped` are ids that could not be removed, with the reason in `reason`."""

    deleted: int
    skipped: list[int] = []
    reason: str = ""


Timestamp = AwareDatetime
