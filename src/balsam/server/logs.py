"""The service's log: plain lines or JSON, each with the id of the request it belongs to; and a line for each request.

`configure` is called by the command line, `RequestLog` by the dispatcher. What users wrote (paths, names) can't begin a
line of its own: control characters are written as escapes (T18).
"""

import json
import logging
import os
import sys
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from balsam.domain.clock import Clock

if TYPE_CHECKING:
    from balsam.server.metrics import Metrics

LogFormat = Literal["text", "json"]
requests = logging.getLogger("balsam.requests")
_request_id: ContextVar[str] = ContextVar("request_id", default="")
_ESCAPES = {number: f"\\x{number:02x}" for number in (*range(32), *range(127, 160))}


@dataclass(slots=True)
class SeenRequest:
    """What is known of a request while it is answered."""

    request_id: str
    method: str
    path: str
    address: str
    begun: float
    route: str = "none"  # the pattern of its path
    is_stream: bool = False
    status: int = 0  # 0: nothing was answered, the caller has gone
    username: str = ""


class RequestLog:
    """Measures each request, and writes a line for it where that is wanted."""

    def __init__(self, clock: Clock, metrics: "Metrics", is_logged: bool) -> None:
        self._clock = clock
        self._metrics = metrics
        self._is_logged = is_logged

    def begin(self, scope: Any, request_id: str) -> SeenRequest:
        _request_id.set(request_id)
        address = scope["client"][0] if scope.get("client") else ""
        return SeenRequest(request_id, scope["method"], scope["path"], address, self._clock.monotonic())

    def end(self, seen: SeenRequest) -> None:
        seconds = self._clock.monotonic() - seen.begun
        if seen.status and not seen.is_stream:
            self._metrics.request(seen.method, seen.route, seen.status, seconds)
        if self._is_logged:
            facts = {
                "method": seen.method,
                "path": seen.path,
                "status": seen.status,
                "duration_ms": round(seconds * 1000, 1),
                "user": seen.username,
                "address": seen.address,
            }
            words = " ".join(f"{name}={value}" for name, value in facts.items() if value != "")
            requests.info("%s", words, extra={"facts": facts})


class TextFormatter(logging.Formatter):
    """One line for each record, and the traceback below."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        record.message = record.message.translate(_ESCAPES)
        request_id = _request_id.get()
        known = not request_id or request_id in record.message
        return super().formatMessage(record) + ("" if known else f" [request {request_id}]")


class JsonFormatter(logging.Formatter):
    """One JSON object for each record, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := _request_id.get():
            found["request_id"] = request_id
        found |= getattr(record, "facts", {})
        if record.exc_info:
            found["error"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=True, default=str)


class RotatedStderr(RotatingFileHandler):
    """A log file that is stderr as well: what crashes and libraries write there follows the rotation.

    Five old ones of 10 MB are kept, as many as of an agent's log.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=10_000_000, backupCount=5, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        with suppress(FileExistsError):  # 0600 whatever the umask: lines name people, Jobs and addresses
            os.close(os.open(self.baseFilename, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        stream = super()._open()
        os.dup2(stream.fileno(), 2)
        return stream


def configure(log_format: LogFormat, log_file: Path | None = None) -> None:
    """Write the log of this process to stderr, or to this file. Raises OSError when that can't be written."""
    handler = logging.StreamHandler(sys.stderr) if log_file is None else RotatedStderr(log_file)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
