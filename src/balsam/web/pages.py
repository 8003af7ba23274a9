"""Adds the pages to the service. Called by `server.app.create_app`."""

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router

from balsam.server.routes.call import Service
from balsam.web.frame import HEADERS, HOME, Frame
from balsam.web.job_page import JobPage
from balsam.web.lists import Lists
from balsam.web.login import LoginDesk
from balsam.web.token_page import TokenPage

_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_STATIC = ("style.css", "htmx.min.js", "hx-sse.min.js", "tail.js", "icon.svg")


def add_to(router: Router, service: Service) -> Frame:
    """All pages of one service, and the answer for addresses that none of them has: routes that are added later are not
    reached. Returns what makes pages of errors.
    """
    frame = Frame(service)
    desk, lists, job, token = LoginDesk(frame), Lists(frame), JobPage(frame), TokenPage(frame)
    for path, endpoint, method in (
        ("/", lists.root, "GET"),
        (f"{HOME}/login", desk.ask, "GET"),
        (f"{HOME}/login", desk.log_in, "POST"),
        (f"{HOME}/enter", desk.show_link, "GET"),
        (f"{HOME}/enter", desk.use_link, "POST"),
        (f"{HOME}/logout", frame.page(desk.log_out), "POST"),
        (HOME, frame.page(lists.first), "GET"),
        (f"{HOME}/jobs", frame.page(lists.jobs), "GET"),
        (f"{HOME}/jobs/{{job_id}}", frame.page(job.show), "GET"),
        (f"{HOME}/jobs/{{job_id}}/tail", frame.page(job.tail), "GET"),
        (f"{HOME}/jobs/{{job_id}}/cancel", frame.page(job.cancel), "POST"),
        (f"{HOME}/jobs/{{job_id}}/retry", frame.page(job.retry), "POST"),
        (f"{HOME}/allocations", frame.page(lists.allocations), "GET"),
        (f"{HOME}/allocations/{{batch_job_id}}/end", frame.page(lists.end_allocation), "POST"),
        (f"{HOME}/sites", frame.page(lists.sites), "GET"),
        (f"{HOME}/tokens", frame.page(token.show), "GET"),
        (f"{HOME}/tokens", frame.page(token.create), "POST"),
        (f"{HOME}/tokens/{{token_id}}/revoke", frame.page(token.revoke), "POST"),
        (f"{HOME}/stream", frame.page(lists.stream), "GET"),
        (f"{HOME}/static/{{name}}", _static, "GET"),
        (f"{HOME}/{{path:path}}", frame.page(lists.nothing), "GET"),
    ):
        router.add_route(path, endpoint, methods=[method])
    return frame


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _STATIC:
        return Response(status_code=404, headers=HEADERS)
    content = files("balsam.web").joinpath("static", name).read_bytes()
    headers = {**HEADERS, "Cache-Control": "max-age=3600"}
    return Response(content, headers=headers, media_type=_KINDS[name.rpartition(".")[2]])
