"""create_app: puts the parts of one service together. Wiring only; called by run.py, tests and benchmarks.

The result is a FastAPI application: pages may be added to it (they are served by its own router); calls of the API are
served by routes.dispatch and documented at /docs and /openapi.json.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from balsam import __version__
from balsam.domain.clock import Clock
from balsam.server import docs_page, openapi, problems, routes
from balsam.server.auth.cache import TokenCache
from balsam.server.auth.passwords import Passwords
from balsam.server.blobs.storage import BlobStorage, DiskStorage
from balsam.server.blobs.uploads import Uploads
from balsam.server.broker import Broker
from balsam.server.errors import NotFound, ServiceError
from balsam.server.limits import Crowd, LoginLimit, RequestRates
from balsam.server.problems import Problem
from balsam.server.routes.call import Service
from balsam.server.routes.dispatch import Dispatcher
from balsam.server.routes.file_desk import FileDesk
from balsam.server.settings import ServerSettings
from balsam.server.store.protocol import Store, Subscriber, Tx, Wake
from balsam.server.sweeps import collect_blobs, prune, remove_old
from balsam.server.sweeps.expire_sessions import SessionExpiry
from balsam.server.sweeps.steadiness import Steadiness
from balsam.server.timer import Sweep, SweepTimer
from balsam.server.usecases import accounts, audit
from balsam.web import pages

SESSION_SWEEP_SEC = 1.0
TOUCH_SEC = 60.0
PRUNE_SEC = 3600.0
BLOBS_SEC = 60.0
IDLE_UPLOAD = timedelta(days=1)
DAY_SEC = 86_400.0


class ServiceApp(FastAPI):
    """A FastAPI application whose API calls take the short way: ASGI -> dispatcher -> endpoint."""

    service: Service
    dispatcher: Dispatcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["app"] = self
            await self.dispatcher(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The document of the API, made when somebody looks: it takes longer than the rest of the start."""
        if not self.openapi_schema:
            self.openapi_schema = openapi.document(routes.ALL)
        return self.openapi_schema

    async def pages(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is not a call of the API: FastAPI's own way, with its middleware and its routes."""
        await super().__call__(scope, receive, send)


async def _page_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    status = error.status_code
    problem = NotFound() if status == 404 else Problem(status, "http", error.detail)
    return Response(
        problems.reply(problem, request.scope.get("balsam.request_id", "")).model_dump_json(),
        status,
        media_type="application/json",
    )


def create_app(settings: ServerSettings, store: Store, clock: Clock, instance: str = "") -> ServiceApp:
    """The service over this store. The caller opens and closes the store. Raises SettingsError for its login file.

    `instance` is the name of this start of the service, the same in all its processes; by default a new one.
    """
    service = _service(settings, store, clock, instance or uuid.uuid4().hex)
    close_providers: Callable[[], Awaitable[None]] | None = None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.broker.start()
        ears = (service.tokens.hear, service.broker.publish, _ear(service))
        unsubscribe = [store.subscribe(ear) for ear in ears]
        timer = SweepTimer(sweeps_of(service), clock, store.leads)
        timer.start()
        try:
            yield
        finally:
            timer.stop()
            for forget in unsubscribe:
                forget()
            service.uploads.stop()
            if close_providers is not None:
                await close_providers()

    app = ServiceApp(
        title="Balsam service", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.service = service
    app.dispatcher = Dispatcher(service, routes.ALL, app.pages)
    app.add_exception_handler(HTTPException, _page_problem)
    _add_docs(app)
    if settings.login_file is not None:
        close_providers = _login_pages(app, settings.login_file)
    # Last: these answer for every address that nobody else has.
    frame = pages.add_to(app.router, service)
    app.add_exception_handler(ServiceError, frame.refused)
    app.add_exception_handler(Exception, frame.broke)
    return app


def stop_streams(app: ServiceApp) -> None:
    """End every open stream and question, so that the server can stop. Called in the event loop."""
    app.service.broker.stop()
    app.service.files.stop()


def _ear(service: Service) -> Subscriber:
    """Brings what other processes tell of files and logins into the event loop."""
    loop = asyncio.get_running_loop()

    def hear_login(wake: Wake) -> None:
        service.logins.note(wake.data["username"], wake.data["address"], service.clock.monotonic())

    def hear(wakes: Sequence[Wake]) -> None:
        for wake in wakes:
            called = {"files": service.files.hear, "logins": hear_login}.get(wake.topic)
            if called is not None:
                with suppress(RuntimeError):  # the loop is closed: the service is stopping
                    loop.call_soon_threadsafe(called, wake)

    return hear


def _service(settings: ServerSettings, store: Store, clock: Clock, instance: str) -> Service:
    async def find(token: str) -> accounts.Authenticated:
        return await store.read(lambda tx: accounts.authenticate(tx, token, clock.now()))

    from balsam.server.metrics import Metrics  # not before `run.serve` has said how many processes there are

    tokens = TokenCache(find)
    broker = Broker(settings.streams_per_user)
    return Service(
        settings=settings,
        store=store,
        clock=clock,
        instance=instance,
        tokens=tokens,
        broker=broker,
        files=FileDesk(broker, store.tell),
        uploads=_uploads(settings),
        passwords=Passwords(),
        logins=LoginLimit(),
        rates=RequestRates(settings.request_rate),
        crowd=Crowd(settings.at_once),
        metrics=Metrics(broker.open_streams),
    )


def _uploads(settings: ServerSettings) -> Uploads:
    directory = settings.blob_path
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # as a parent of others it would get the umask's mode
    return Uploads(directory / "uploads", _storage(settings), settings.disk_reserve_mb * 1024**2)


def _storage(settings: ServerSettings) -> BlobStorage:
    if not settings.blob_store:
        return DiskStorage(settings.blob_path / "kept")
    from balsam.server.blobs.s3 import S3Storage  # only now: it is an extra

    return S3Storage(settings.blob_store)


def sweeps_of(service: Service) -> list[Sweep]:
    """What the service does by itself, and how often."""
    store, clock, uploads, settings = service.store, service.clock, service.uploads, service.settings
    expiry = SessionExpiry(clock.now())
    steadiness = Steadiness(clock, collect_blobs.UNUSED_KEPT_FOR)

    def by_age(remove: Callable[[], object]) -> Callable[[], object]:
        return lambda: remove() if steadiness.has_lasted() else None

    def expire() -> None:
        service.metrics.lost(expiry.run_once(store, clock.now()))

    def touch() -> None:
        used = service.tokens.take_used()
        if used:
            store.write_sync(lambda tx: _note_used(tx, used, clock.now()))

    def remove_old_jobs() -> None:
        if settings.keep_jobs_days is not None:
            remove_old.run_once(store, clock.now(), settings.keep_jobs_days)

    def collect() -> None:
        collect_blobs.run_once(store, uploads.storage, clock.now())

    def expire_content() -> None:
        collect_blobs.expire(store, clock.now(), settings.keep_days)

    def forget_idle() -> None:
        uploads.forget_idle(clock.now() - IDLE_UPLOAD)

    def remove_orphans() -> None:
        collect_blobs.remove_orphans(store, uploads.storage, clock.now())

    return [
        # It looks itself whether this process leads: how long it did so far decides what it may end.
        Sweep("expire_sessions", SESSION_SWEEP_SEC, expire, everywhere=True),
        Sweep("touch_tokens", TOUCH_SEC, touch, everywhere=True),
        Sweep("prune", PRUNE_SEC, by_age(lambda: prune.run_once(store, clock.now()))),
        Sweep("remove_old", PRUNE_SEC, by_age(remove_old_jobs)),
        Sweep("collect_blobs", BLOBS_SEC, by_age(collect)),
        Sweep("expire_content", PRUNE_SEC, by_age(expire_content)),
        Sweep("idle_uploads", PRUNE_SEC, by_age(forget_idle), everywhere=True),
        Sweep("orphaned_blobs", DAY_SEC, by_age(remove_orphans)),
    ]


def _note_used(tx: Tx, token_ids: Iterable[int], now: datetime) -> None:
    audit.record_first_uses(tx, accounts.touch_tokens(tx, token_ids, now), now)


def _login_pages(app: ServiceApp, login_file: Path) -> Callable[[], Awaitable[None]]:
    # Here: a service without providers starts sooner without their libraries.
    from balsam.server import login_pages
    from balsam.web import provider_login

    providers = login_pages.add_to(app.router, app.service, login_file)
    provider_login.add_to(app.router, app.service, providers)
    return providers.close


def _add_docs(app: ServiceApp) -> None:
    async def openapi_json(request: Request) -> JSONResponse:
        return JSONResponse(app.openapi())

    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(docs_page.page(app.openapi()), headers={"Content-Security-Policy": docs_page.POLICY})

    app.router.add_route("/openapi.json", openapi_json)
    app.router.add_route("/docs", docs)
