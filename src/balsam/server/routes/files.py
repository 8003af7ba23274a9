"""Files of a Job's workdir, read through the Site's agent while the Job runs and after."""

from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.responses import Response

from balsam.domain.paths import BadPath, contained
from balsam.domain.scopes import Scope
from balsam.server.auth.needs import USER_SITE_OR_JOB
from balsam.server.errors import Conflict, Forbidden, Invalid, NotFound, ServiceError, TooMany
from balsam.server.problems import Problem
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.usecases import sites
from balsam.wire.base import ErrorDetail, Message
from balsam.wire.limits import MAX_FILE_READ_BYTES
from balsam.wire.sites import FileReply

routes = Routes("files", reads=Scope.JOBS_READ, writes=Scope.JOBS_WRITE)
MAX_PATH = 4096
MAX_FOLLOW_SEC = 15.0


class LookQuery(Message):
    """What to look at; an empty path is the workdir itself."""

    path: Annotated[str, Field(max_length=MAX_PATH)] = ""
    op: Literal["list", "stat"] = "list"


class ReadQuery(Message):
    """What to read; a negative offset counts from the end."""

    path: Annotated[str, Field(min_length=1, max_length=MAX_PATH)]
    offset: Annotated[int, Field(gt=-(2**62), lt=2**62)] = 0
    max_bytes: Annotated[int, Field(ge=1, le=MAX_FILE_READ_BYTES)] = MAX_FILE_READ_BYTES


class FollowQuery(Message):
    """How far a file is known: `offset` bytes of the one with this id, which an earlier answer told."""

    path: Annotated[str, Field(min_length=1, max_length=MAX_PATH)]
    offset: Annotated[int, Field(ge=0, lt=2**62)] = 0
    file_id: Annotated[str, Field(max_length=64)] = ""
    wait_sec: Annotated[float, Field(ge=0, le=MAX_FOLLOW_SEC)] = 3.0


@routes.get("/jobs/{job_id}/files", needs=USER_SITE_OR_JOB)
async def look_at_files(call: Call, job_id: int, query: LookQuery) -> FileReply:
    """List a directory of the workdir, or look at one entry; 504 `site_offline` when no agent answers."""
    return await _ask(call, job_id, query.path, op=query.op)


@routes.get("/jobs/{job_id}/files/content", needs=USER_SITE_OR_JOB, media_type="application/octet-stream")
async def read_file(call: Call, job_id: int, query: ReadQuery) -> Response:
    """Up to 1 MiB of a file; X-File-Size and X-File-Offset say which part of how much."""
    reply = await _ask(call, job_id, query.path, op="read", offset=query.offset, max_bytes=query.max_bytes)
    return _content(call, reply)


@routes.get("/jobs/{job_id}/files/follow", needs=USER_SITE_OR_JOB, media_type="application/octet-stream")
async def follow_file(call: Call, job_id: int, query: FollowQuery) -> Response:
    """What a file has beyond `offset`, as soon as it has; empty after `wait_sec`. One that is not there is waited for.

    X-File-Offset is 0 when the file was truncated or replaced, X-File-Id names the one that was read.
    """
    known = {"offset": query.offset, "file_id": query.file_id}
    reply = await _ask(call, job_id, query.path, query.wait_sec, **known)
    return _content(call, reply)


def _content(call: Call, reply: FileReply) -> Response:
    headers = {
        "X-File-Size": str(reply.size_bytes),
        "X-File-Offset": str(reply.offset),
        "X-File-Id": reply.file_id,
        "X-Request-Id": call.request_id,
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": "attachment",
        "Cache-Control": "no-store",
    }
    return Response(reply.data, media_type="application/octet-stream", headers=headers)


async def _ask(call: Call, job_id: int, path: str, follow_sec: float | None = None, **what: Any) -> FileReply:
    if path not in ("", "."):
        try:
            path = contained(path, "path", MAX_PATH)
        except BadPath as error:
            raise Invalid([ErrorDetail(where="path", message=str(error))]) from None
    target = await call.read(lambda tx: sites.file_target(tx, call.principal, job_id, call.now))

    def offline() -> ServiceError:
        heard = "never" if target.heard_at is None else f"last at {target.heard_at:%Y-%m-%d %H:%M:%S} UTC"
        host = target.hostname or "its host"
        message = (
            f"the agent of Site {target.site_name!r} did not answer (heard of {heard}); on {host}: balsam site start"
        )
        return Problem(504, "site_offline", message)

    question = {"job_id": job_id, "workdir": target.workdir, "path": path, **what}
    desk, hopeless = call.service.files, not target.online
    if follow_sec is None:
        reply = await desk.ask(target.site_id, offline, hopeless, **question)
    else:
        more = await desk.follow(target.site_id, offline, hopeless, follow_sec, **question)
        reply = more or FileReply(offset=what["offset"], size_bytes=what["offset"], file_id=what["file_id"])
    if reply.error:
        raise _refusal(reply.error, path)
    return reply


def _refusal(error: str, path: str) -> ServiceError:
    where = [ErrorDetail(where="path", message=f"there is no {path!r} in the workdir")]
    if error == "not_found":
        return NotFound(where)
    kind, _, why = error.partition(": ")
    if kind == "refused":
        reason = why or "it is no plain file, or leads out of the workdir"
        return Forbidden(f"the Site does not let {path!r} be read: {reason}")
    if kind == "busy":
        return TooMany(why)
    return Conflict("file_error", error)
