"""Messages to bytes and back: bodies, query strings, answers and error answers."""

from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlencode

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from balsam import __version__
from balsam.client.errors import Problem, WireVersionMismatch
from balsam.client.transport.link import RawReply
from balsam.wire import API_PREFIX, IDEMPOTENCY_HEADER
from balsam.wire.base import ErrorReply, Message

T = TypeVar("T")
MAX_RETRY_AFTER_SEC = 300.0
MAX_TARGET = 6_000  # proxies allow a request line of 8 KiB


def target_of(path: str, query: Message | None) -> str:
    target = API_PREFIX + path
    if query is None:
        return target
    values: dict[str, Any] = query.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    text = {key: _query_value(value) for key, value in values.items()}
    return f"{target}?{urlencode(text, doseq=True)}" if text else target


def _query_value(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [to_json(item).decode() for item in value]
    # Present and empty is the empty list, which selects nothing; left out it would select everything.
    return "" if value == [] else value


def key_header(key: str | None) -> dict[str, str]:
    return {} if key is None else {IDEMPOTENCY_HEADER: key}


def error_of(raw: RawReply) -> tuple[str, str, list[Problem], str]:
    """Code, message, details and request id of an error answer; empty when it is not one of ours."""
    try:
        error = ErrorReply.model_validate_json(raw.content).error
    except ValidationError:
        return "", "", [], ""
    return error.code, error.message, [Problem(d.where, d.message) for d in error.details], error.request_id


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
    try:
        parsed: T = _adapter(reply).validate_json(raw.content)
    except ValidationError as error:
        what = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in what["loc"])
        raise WireVersionMismatch(
            f"{where}: the answer of {url} can't be understood ({place}: {what['msg']}). Client {__version__} "
            "and service differ too much, or it is not a Balsam service; compare with `balsam doctor`"
        ) from error
    return parsed


def _adapter(kind: Any) -> TypeAdapter[Any]:
    return _cached_adapter(kind)


@cache
def _cached_adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
