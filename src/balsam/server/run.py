"""serve(): one service in this process, in the foreground, until SIGINT or SIGTERM.

Called by `balsam server up`, `balsam up` and `python -m balsam.server`. Promises: one service per SQLite file; the
data directory 0700; service.json is there once the service answers and gone after a clean stop; open streams end
cleanly and the whole stop takes less than a second, or as long as requests that are being answered need (STOP_SEC; a
second signal ends the waiting). With `workers` it has several processes (workers.py), else one.
After SIGUSR2 it goes on as the program that is installed now (handover.py), and no request fails meanwhile.
"""

import asyncio
import errno
import gc
import logging
import os
import resource
import secrets
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from balsam.domain.clock import Clock, SystemClock
from balsam.server import handover, tracing, workers
from balsam.server.app import ServiceApp, create_app, stop_streams
from balsam.server.auth import local, tokens
from balsam.server.auth.providers import load
from balsam.server.connections import guarded
from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import Unavailable
from balsam.server.handover import Predecessor
from balsam.server.settings import ServerSettings, SettingsError
from balsam.server.shared_counts import shared_directory
from balsam.server.store.protocol import Store
from balsam.server.store.schema import SchemaTooNew, SchemaTooOld
from balsam.server.store.sqlite import SqliteStore, StoreInUse
from balsam.server.usecases import accounts, users

log = logging.getLogger("balsam.server")

BACKLOG = 2048
STOP_SEC = 5  # a stop waits this long for requests that are being answered
DRAIN_SEC = 60  # and a restart so long
LINGER_SEC = 4.5  # idle connections are closed after it: clients of ours have dropped theirs by then (KEEP_ALIVE_SEC)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
RESTART_SIGNAL = signal.SIGUSR2  # SIGHUP comes by itself when a terminal is closed


@dataclass(frozen=True, slots=True)
class Ready:
    """What a supervisor wants to know once the service answers."""

    url: str
    pid: int
    data_dir: str
    instance: str

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Start:
    """What all processes of one start of the service share."""

    instance: str
    first_code: str | None


OnReady = Callable[[Ready], None]


def serve(settings: ServerSettings, on_ready: OnReady | None = None, clock: Clock | None = None) -> None:
    """Run the service until it is told to stop. Raises SettingsError when it can't or must not start this way.

    When it is told to start anew, this process becomes another program and the call does not return. After a stop the
    process takes no more signals to stop: it is to end.
    """
    before, given = handover.take_predecessor(), handover.inherited_socket()
    settings = settings if given is None else handover.settings_on(given, settings)
    settings.check()
    tracing.wanted()
    clock = clock or SystemClock()
    data_dir = local.private_directory(settings.data_path)
    _raise_file_limit()
    with _listener(settings) if given is None else given as sock:
        # Who waited for the first start to be ready has been told.
        left = _serve_on(sock, settings, data_dir, clock, on_ready if before is None else None, before)
        if left is not None:
            log.info("starting anew")
            handover.become_successor(sock, left)
    if threading.current_thread() is threading.main_thread():
        for sig in STOP_SIGNALS:  # this process only has to end
            signal.signal(sig, signal.SIG_IGN)


def _serve_on(
    sock: socket.socket,
    settings: ServerSettings,
    data_dir: Path,
    clock: Clock,
    on_ready: OnReady | None,
    before: Predecessor | None,
) -> Predecessor | None:
    """Serve until told to stop, or (then it returns what it leaves) to make room for a successor."""
    with ExitStack() as stack:
        ready = Ready(_url(settings, sock), os.getpid(), str(data_dir), uuid.uuid4().hex)
        with open_store(settings) as store:
            publish = _publisher(stack, settings, data_dir, store, clock, ready)
            start = _Start(ready.instance, _first_code(settings, store, ready.url))
            _calm_collector()
            if settings.workers == 1:
                announce = partial(_announce, publish, ready, on_ready)
                left = Predecessor() if _answer(settings, store, clock, start, sock, announce) else None
                return _keeping(stack, left)
        # Threads and connections don't survive a fork: each worker opens a store of its own.
        worker = partial(_work, settings, data_dir, clock, start, sock)
        announce = partial(_announce, publish, ready, on_ready)
        with shared_directory():
            return _keeping(stack, workers.run(settings.workers, worker, announce, before))


def _keeping(stack: ExitStack, left: Predecessor | None) -> Predecessor | None:
    """service.json stays for a successor: nobody is to think meanwhile that there is no service."""
    if left is not None:
        stack.pop_all()
    return left


def _work(
    settings: ServerSettings,
    data_dir: Path,
    clock: Clock,
    start: _Start,
    sock: socket.socket,
    on_ready: Callable[[], None],
    parent: int,
) -> None:
    """One worker, until it is told to stop or its parent is gone (`parent` can be read then)."""
    with open_store(settings) as store:
        _answer(settings, store, clock, start, sock, on_ready, parent)


def _answer(
    settings: ServerSettings,
    store: Store,
    clock: Clock,
    start: _Start,
    sock: socket.socket,
    on_ready: Callable[[], None],
    parent: int | None = None,
) -> bool:
    """Answer requests until told to stop; whether to make room for a successor."""
    app = create_app(settings, store, clock, start.instance)
    app.service.first_code = start.first_code
    with tracing.traced(app) as traced:
        server = _Server(app, traced, settings, on_ready, parent)
        server.run_on(sock)
    log.info("stopped")
    return server.is_drained


def _announce(publish: Callable[[], object], ready: Ready, on_ready: OnReady | None) -> None:
    publish()
    log.info("listening on %s, data in %s", ready.url, ready.data_dir)
    if on_ready is not None:
        on_ready(ready)


class _Server(uvicorn.Server):
    """uvicorn, told to end streams before it waits for connections, and without its ten ticks a second."""

    def __init__(
        self,
        app: ServiceApp,
        traced: ASGIApp,
        settings: ServerSettings,
        on_ready: Callable[[], None],
        parent: int | None,
    ) -> None:
        limits = settings.connection_limits
        config = uvicorn.Config(
            traced,
            loop="uvloop",
            http=guarded(limits),
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=settings.behind_proxy,
            backlog=BACKLOG,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=STOP_SEC,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        super().__init__(config)
        self.is_drained = False
        self._signalled_at: float | None = None
        self._limits = limits
        self._app = app
        self._on_ready = on_ready
        self._parent = parent
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def run_on(self, sock: socket.socket) -> None:
        """Serve until stopped by a signal. The socket stays open: what connects afterwards waits for a successor."""
        self.run(sockets=[sock.dup()])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await super().startup(sockets)
        if self._parent is not None:
            self._loop.add_reader(self._parent, self._orphaned)
        if threading.current_thread() is threading.main_thread():
            self._loop.add_signal_handler(RESTART_SIGNAL, self._drain)
        self._on_ready()

    def _drain(self) -> None:
        """Let connections come to their end: each is answered once more, and those that idle have time to go."""
        if self._loop is None or self._limits.draining:
            return
        log.info("making room for a successor")
        self._limits.draining = True
        self.config.timeout_graceful_shutdown = DRAIN_SEC
        self._loop.call_later(LINGER_SEC, self._drained)

    def _drained(self) -> None:
        self.is_drained = not self.should_exit
        self.should_exit = True
        if self._stop is not None:
            self._stop.set()

    def _orphaned(self) -> None:
        if self._loop is not None and self._parent is not None:
            self._loop.remove_reader(self._parent)
        log.warning("the process that started this worker is gone")
        self.handle_exit(signal.SIGTERM, None)

    async def main_loop(self) -> None:
        if self._stop is not None and not self.should_exit:
            await self._stop.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.is_drained = False
        now = time.monotonic()
        self._signalled_at = self._signalled_at or now
        # The signal is the order to stop, and was obeyed: uvicorn would raise it again after the clean stop.
        self.force_exit = now - self._signalled_at > workers.SAME_SIGNAL_SEC
        self.should_exit = True
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are heard until `serve` returns: one that comes during the last steps is not to break these off.

        But for a service that makes room: in between two programs a signal ends both.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in STOP_SIGNALS}
        yield
        if self.is_drained:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        stop_streams(self._app)
        await super().shutdown(sockets)
        if self.force_exit:
            # uvicorn returns at once then, and all that is at work would end in the middle, each with a traceback.
            given_up = list(self.server_state.tasks)
            for task in given_up:
                task.cancel()
            await asyncio.gather(*given_up, return_exceptions=True)
            await self.lifespan.shutdown()


@contextmanager
def open_store(settings: ServerSettings) -> Iterator[Store]:
    """The store of the settings. Raises SettingsError when it can't be opened."""
    store = _sqlite(settings) if settings.database is None else _postgres(settings.database, settings)
    try:
        yield store
    finally:
        store.close()


def _postgres(address: DatabaseAddress, settings: ServerSettings) -> Store:
    """The store in a database, which is given its tables when it has none."""
    try:
        from balsam.server.store.postgres.migrate import fill_if_empty
        from balsam.server.store.postgres.store import PostgresStore
    except ImportError as error:
        raise SettingsError(f"--database needs psycopg ({error}): pip install 'openbalsam[postgres]'") from None
    try:
        fill_if_empty(address)
        return PostgresStore(address, read_limit_sec=settings.read_limit_sec)
    except (SchemaTooOld, SchemaTooNew, Unavailable) as error:
        raise SettingsError(str(error)) from None


def _sqlite(settings: ServerSettings) -> Store:
    """The store in the data directory; a second service on the same data is refused by the store's own lock."""
    try:
        return SqliteStore(
            settings.database_file, durable=settings.synchronous == "FULL", read_limit_sec=settings.read_limit_sec
        )
    except StoreInUse as error:
        raise SettingsError(f"{error}, or give another --data-dir") from None
    except SchemaTooNew as error:
        raise SettingsError(str(error)) from None


@contextmanager
def _listener(settings: ServerSettings) -> Iterator[socket.socket]:
    """The bound socket: binding before anything else names a busy port at once, and port 0 gets its number."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _bind(sock, address, settings)
            yield sock
    except socket.gaierror as error:
        raise SettingsError(f"--host {settings.host} is no address of this machine: {error.strerror}") from None


def _bind(sock: socket.socket, address: Any, settings: ServerSettings) -> None:
    try:
        sock.bind(address)
    except OSError as error:
        hint = (
            "another program listens there; stop it or give another --port"
            if error.errno == errno.EADDRINUSE
            else error.strerror
        )
        raise SettingsError(f"can't listen on {settings.host} port {settings.port}: {hint}") from None
    sock.setblocking(False)


def _url(settings: ServerSettings, sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{settings.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _publisher(
    stack: ExitStack, settings: ServerSettings, data_dir: Path, store: Store, clock: Clock, ready: Ready
) -> Callable[[], object]:
    """In single-user mode: the local account, and service.json from when the service answers until it stops."""
    if not settings.is_single_user:
        _end_local_login(settings, data_dir, store, clock)
        return lambda: None
    home = local.private_directory(settings.home)

    def was_revoked(token: str) -> bool:
        return store.read_sync(lambda tx: accounts.was_revoked(tx, token))

    token = local.local_token(data_dir, was_revoked)
    store.write_sync(lambda tx: accounts.ensure_local_user(tx, settings.username, token, clock.now()))
    contents = local.ServiceFile(
        url=ready.url, token=token, pid=ready.pid, data_dir=ready.data_dir, instance=ready.instance
    )
    stack.callback(local.withdraw, home, ready.instance)
    return lambda: local.publish(home, contents)


def _end_local_login(settings: ServerSettings, data_dir: Path, store: Store, clock: Clock) -> None:
    """The token of an earlier start in single-user mode ends: from now on a file logs nobody in."""
    kept = data_dir / local.TOKEN_FILE
    if kept.exists():
        secret = tokens.mint("user")
        store.write_sync(lambda tx: accounts.ensure_local_user(tx, settings.username, secret, clock.now()))
        kept.unlink()


def _first_code(settings: ServerSettings, store: Store, url: str) -> str | None:
    """An empty service tells whoever reads its log how to become its administrator, once."""
    if settings.is_single_user or not store.read_sync(lambda tx: users.needs_first_user(tx, _issuers_of(settings))):
        return None
    code = secrets.token_urlsafe(16)
    log.warning(
        "nobody can log in as an administrator yet. Whoever reads this can become the first one, once: "
        "balsam admin first %s --code %s",
        url,
        code,
    )
    return code


def _issuers_of(settings: ServerSettings) -> frozenset[str]:
    """Where people can log in, but for by password. Raises SettingsError for the login file."""
    if settings.login_file is None:
        return frozenset()
    return frozenset(provider.issuer for provider in load(settings.login_file).providers)


def _calm_collector() -> None:
    """A bulk makes tens of thousands of live objects at once; searching them for cycles took half of its parsing."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _raise_file_limit() -> None:
    """Each stream is an open file; the soft limit of many systems is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
