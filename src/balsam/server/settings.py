"""What the service is started with, and the refusals that keep a wrong start from becoming an open door.

Read by `run.serve` and `app.create_app`; made by the command line (`balsam server up`, `python -m balsam.server`) and
by tests. Nothing here is read from a global: one process may hold several services.
"""

import ipaddress
import os
import pwd
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from balsam.server.database_address import DatabaseAddress

DEFAULT_PORT = 8124
LOOPBACK_NAMES = {"localhost", "ip6-localhost"}


class SettingsError(ValueError):
    """The service refuses to start this way; the text says what to change."""


def balsam_home() -> Path:
    """`$BALSAM_HOME`, by default `~/.balsam`."""
    return Path(os.environ.get("BALSAM_HOME") or "~/.balsam").expanduser().absolute()


def unix_user() -> str:
    """Name of the Unix user this process runs as, or its number where the system knows no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid{os.getuid()}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a service that listens on `host`."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class BlobLimits:
    """What a user may store (S16)."""

    quota_bytes: int
    max_file_bytes: int


@dataclass(slots=True)
class ConnectionLimits:
    """How many connections there may be; `per_address` None: any number, as behind a proxy or on loopback."""

    total: int
    per_address: int | None
    by_address: Counter[str] = field(default_factory=Counter)
    count: int = 0
    draining: bool = False  # each connection ends with its next answer

    def admit(self, address: str) -> bool:
        """Count a connection, if it may come in."""
        if self.count >= self.total:
            return False
        if self.per_address is not None and self.by_address[address] >= self.per_address:
            return False
        self.by_address[address] += 1
        self.count += 1
        return True

    def leave(self, address: str) -> None:
        self.count -= 1
        self.by_address[address] -= 1
        if self.by_address[address] <= 0:
            del self.by_address[address]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """One service: where it listens, where its data is, who is logged in without a password.

    `single_user` None means: yes on loopback, no elsewhere. In single-user mode the Unix user `username` is an
    administrator and finds the service and a token in `home/service.json` (0600); nobody else is logged in by it.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT  # 0: the system picks a free one; see service.json and the ready line
    home: Path = field(default_factory=balsam_home)
    data_dir: Path | None = None  # default: home/service
    single_user: bool | None = None
    username: str = field(default_factory=unix_user)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False  # a proxy on this machine ends TLS and sets X-Forwarded-For
    database: DatabaseAddress | None = None  # PostgreSQL; None: a SQLite file in the data directory
    workers: int = 1  # processes that answer; more than one only on PostgreSQL
    synchronous: Literal["FULL", "NORMAL"] = "FULL"  # S1: FULL survives power loss, NORMAL only a crash of the process
    requests_per_sec: float | None = None  # per token; None: no limit in single-user mode, else 500
    requests_at_once: int | None = None  # of one account; None: no limit in single-user mode, else 200
    streams_per_user: int = 200
    max_connections: int = 20_000
    connections_per_address: int | None = None  # None: no limit on loopback and behind a proxy, else 2,000
    read_limit_sec: float = 10.0  # a list or a count that takes longer is refused: its filter reads too many rows
    login_file: Path | None = None  # OpenID providers, see auth.providers; without it passwords only
    access_log: bool = False  # a line for each request
    token_days: int = 30  # life of a token from `balsam login`
    blob_dir: Path | None = None  # files on their way; default: blobs beside the database
    blob_store: str = ""  # s3://BUCKET/PREFIX; default: on disk in blob_dir
    quota_gb: float = 200.0  # of one user's files on their way; 1 GB is 10^9 bytes
    max_file_gb: float = 100.0
    keep_days: int = 30  # a result that nobody collected is kept for so long
    keep_jobs_days: int | None = None  # Jobs that ended are removed after so long; None: never
    disk_reserve_mb: int = 256  # uploads leave so much of the disk free: the database is on it as well

    @property
    def is_single_user(self) -> bool:
        return is_loopback(self.host) and not self.behind_proxy if self.single_user is None else self.single_user

    @property
    def data_path(self) -> Path:
        return (self.data_dir or self.home / "service").expanduser().absolute()

    @property
    def database_file(self) -> Path:
        """Where the SQLite file is, when there is one."""
        return self.data_path / "balsam.sqlite3"

    @property
    def blob_path(self) -> Path:
        return (self.blob_dir or self.data_path / "blobs").expanduser().absolute()

    @property
    def blob_limits(self) -> BlobLimits:
        return BlobLimits(quota_bytes=int(self.quota_gb * 10**9), max_file_bytes=int(self.max_file_gb * 10**9))

    @property
    def request_rate(self) -> float | None:
        if self.requests_per_sec is not None:
            return self.requests_per_sec
        return None if self.is_single_user else 500.0

    @property
    def at_once(self) -> int | None:
        if self.requests_at_once is not None:
            return self.requests_at_once
        return None if self.is_single_user else 200

    @property
    def connection_limits(self) -> ConnectionLimits:
        per_address = self.connections_per_address
        if per_address is None and not self.behind_proxy and not is_loopback(self.host):
            per_address = 2_000  # a cluster's nodes may all come from one address
        return ConnectionLimits(self.max_connections, per_address)

    @property
    def scheme(self) -> str:
        return "https" if self.tls_cert else "http"

    def check(self) -> None:
        """Raise SettingsError for a start that would be unsafe or can't work."""
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"--port {self.port} is not a port; use 0 (any free one) to 65535")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("--tls-cert and --tls-key are given together or not at all")
        if self.workers < 1:
            raise SettingsError(f"--workers {self.workers}: at least one process answers")
        if self.workers > 1 and self.database is None:
            raise SettingsError(
                "--workers needs --database: a SQLite file is written by one process. Leave it out, or give the "
                "address of a PostgreSQL database"
            )
        if self.database is not None and self.synchronous != "FULL":
            raise SettingsError("--synchronous is for SQLite; what PostgreSQL acknowledges is on its disk")
        for option, path in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key)):
            if path is not None and not path.is_file():
                raise SettingsError(f"{option} {path} is not a file")
        if is_loopback(self.host):
            return
        if self.tls_cert is None and not self.behind_proxy:
            raise SettingsError(
                f"refusing to send tokens in clear: --host {self.host} is reachable from other machines. Give "
                "--tls-cert and --tls-key, or --behind-proxy when a proxy in front of the service ends TLS, "
                "or listen on 127.0.0.1"
            )
