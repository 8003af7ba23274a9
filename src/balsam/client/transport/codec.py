"""Messages to bytes and back: bodies, query strings, answers and error answers.

Messages and pydantic, whose import takes longer than a call, are imported when an answer is parsed as a message.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlencode

from balsam import __version__
from balsam.client.errors import Problem, WireVersionMismatch
from balsam.client.transport.link import RawReply
from balsam.wire import API_PREFIX, IDEMPOTENCY_HEADER

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from balsam.wire.base import Message

Fields: TypeAlias = "Message | Mapping[str, Any]"
T = TypeVar("T")
MAX_RETRY_AFTER_SEC = 300.0
MAX_TARGET = 6_000  # proxies allow a request line of 8 KiB


def target_of(path: str, query: "Fields | None") -> str:
    target = API_PREFIX + path
    if query is None:
        return target
    text = {key: _query_value(value) for key, value in plain(query).items()}
    return f"{target}?{urlencode(text, doseq=True)}" if text else target


def plain(fields: Fields) -> dict[str, Any]:
    """What was given, as JSON values; what is None is not sent."""
    if isinstance(fields, Mapping):
        return {key: _plain_value(value) for key, value in fields.items() if value is not None}
    dumped: dict[str, Any] = fields.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    return dumped


def _plain_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_value(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    dump = getattr(value, "model_dump", None)
    return value if dump is None else dump(mode="json", exclude_unset=True, exclude_none=True)


def body_of(fields: "Fields | bytes | None") -> bytes:
    """The body of a request."""
    if fields is None or isinstance(fields, bytes):
        return fields or b""
    if isinstance(fields, Mapping):
        return json.dumps(plain(fields), separators=(",", ":")).encode()
    from balsam.wire.base import dump_body

    return dump_body(fields)


def _query_value(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [json.dumps(item, separators=(",", ":")) for item in value]
    # Present and empty is the empty list, which selects nothing; left out it would select everything.
    return "" if value == [] else value


def key_header(key: str | None) -> dict[str, str]:
    return {} if key is None else {IDEMPOTENCY_HEADER: key}


def error_of(raw: RawReply) -> tuple[str, str, list[Problem], str]:
    """Code, message, details and request id of an error answer; empty when it is not one of ours."""
    try:
        error = json.loads(raw.content)["error"]
        details = [Problem(str(one["where"]), str(one["message"])) for one in error.get("details", ())]
        return str(error["code"]), str(error["message"]), details, str(error.get("request_id", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", "", [], ""


def is_final(raw: RawReply) -> bool:
    """504 `site_offline` is the service's considered answer, not a proxy that lost it."""
    return error_of(raw)[0] == "site_offline"


def retry_after_sec(raw: RawReply) -> float | None:
    try:
        return min(MAX_RETRY_AFTER_SEC, max(0.0, float(raw.headers["retry-after"])))
    except (KeyError, ValueError):
        return 0.0


def parse(raw: RawReply, reply: type[T], where: str, url: str) -> T:
    """The answer as a message. Raises WireVersionMismatch when it is not one."""
    from pydantic import ValidationError

    try:
        parsed: T = _adapter(reply).validate_json(raw.content, extra="ignore")  # of a newer service
    except ValidationError as error:
        what = error.errors(include_url=False, include_input=False)[0]
        raise misunderstood(where, url, f"{'.'.join(map(str, what['loc']))}: {what['msg']}") from error
    return parsed


def parse_json(raw: RawReply, where: str, url: str) -> Any:
    """The answer as plain JSON values. Raises WireVersionMismatch when it is no JSON."""
    try:
        return json.loads(raw.content)
    except ValueError as error:
        raise misunderstood(where, url, str(error)) from error


def misunderstood(where: str, url: str, why: str) -> WireVersionMismatch:
    """The error for an answer that is not what it should be."""
    return WireVersionMismatch(
        f"{where}: the answer of {url} can't be understood ({why}). Client {__version__} "
        "and service differ too much, or it is not a Balsam service; compare with `balsam doctor`"
    )


def _adapter(kind: Any) -> "TypeAdapter[Any]":
    return _cached_adapter(kind)


@cache
def _cached_adapter(kind: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
