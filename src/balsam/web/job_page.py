"""The page of one Job: why it is where it is, its output as it grows, its history; cancel and retry."""

import json
from typing import Any

from starlette.responses import Response

from balsam.server.errors import NotFound, ServiceError
from balsam.server.problems import Problem
from balsam.server.routes import files
from balsam.server.usecases import events, explain, jobs, selection
from balsam.web import words
from balsam.web.frame import HEADERS, HOME, Frame, Visit
from balsam.wire.events import EventQuery
from balsam.wire.jobs import JobFilter, JobsCancel, JobsSelect

TAIL_BYTES = 65_536
EVENTS_SHOWN = 100


class JobPage:
    """The handlers."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def show(self, visit: Visit) -> Response:
        """The whole page, or to htmx the part that changes."""
        call, number = visit.call, _number(visit)

        def read(tx: Any) -> dict[str, Any]:
            return {
                "job": jobs.get_job(tx, call.principal, number),
                "why": explain.explain_job(tx, call.principal, number, call.now),
                "events": events.list_events(
                    tx, call.principal, EventQuery(job_id=[number], limit=EVENTS_SHOWN), with_count=False
                ).results,
            }

        found = await call.read(read)
        template = "_job.html" if visit.wants_part else "job.html"
        return self._frame.show(visit, template, file=visit.request.query_params.get("file", "job.out"), **found)

    async def tail(self, visit: Visit) -> Response:
        """As JSON for the page's script: what a file has beyond what the page has, and how far that is."""
        given = visit.request.query_params
        try:
            reply = await self._read(visit, given.get("path", "job.out"), given.get("offset"), given.get("file_id", ""))
        except ServiceError as error:
            return _json({"error": words.plain(error.message), "is_missing": isinstance(error, NotFound)})
        content, offset = bytes(reply.body), int(reply.headers["x-file-offset"])
        told = {
            "text": words.plain(content.decode("utf-8", "replace")),
            "offset": offset,
            "end": offset + len(content),
            "file_id": reply.headers["x-file-id"],
        }
        return _json(told)

    async def _read(self, visit: Visit, path: str, offset: str | None, file_id: str) -> Response:
        call, number = visit.call, _number(visit)
        if offset is None:
            last = files.ReadQuery.model_validate({"path": path, "offset": -TAIL_BYTES, "max_bytes": TAIL_BYTES})
            end: Response = await files.read_file(call, number, last)
            return end
        more = files.FollowQuery.model_validate({"path": path, "offset": offset, "file_id": file_id, "wait_sec": 10})
        rest: Response = await files.follow_file(call, number, more)
        return rest

    async def cancel(self, visit: Visit) -> Response:
        """At once when the Job does not run, else after its end was seen."""
        call, number = visit.call, _number(visit)
        await self._frame.form(visit)
        asked = JobsCancel(filter=JobFilter(id=[number]), reason=f"cancelled by {call.principal.username}")
        await self._only_if_seen(visit, number)
        done = await selection.cancel_selected(self._frame.service.store, call.principal, asked, call.now)
        return self._done(number, done.refused)

    async def retry(self, visit: Visit) -> Response:
        """Let a Job that failed or was cancelled run again."""
        call, number = visit.call, _number(visit)
        await self._frame.form(visit)
        await self._only_if_seen(visit, number)
        asked = JobsSelect(filter=JobFilter(id=[number]))
        done = await selection.retry_selected(self._frame.service.store, call.principal, asked, call.now)
        return self._done(number, done.refused)

    async def _only_if_seen(self, visit: Visit, number: int) -> None:
        """A filter that selects nothing is no error; a page that names one Job says that it is not there."""
        await visit.call.read(lambda tx: jobs.get_job(tx, visit.call.principal, number))

    def _done(self, number: int, refused: dict[int, str]) -> Response:
        if refused:
            raise Problem(409, "refused", f"Job {number} was not changed: {refused[number]}")
        return self._frame.go(f"{HOME}/jobs/{number}")


def _number(visit: Visit) -> int:
    number = visit.number("job_id")
    if number == 0:
        raise NotFound
    return number


def _json(told: dict[str, Any]) -> Response:
    return Response(json.dumps(told), 200, {**HEADERS, "X-Content-Type-Options": "nosniff"}, "application/json")
