"""The part of `balsam server doctor` about the service itself: it answers, or its port is free for it."""

import contextlib
import errno
import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from balsam import __version__
from balsam.cli.findings import Finding
from balsam.cli.server_doctor_network import trusting
from balsam.server.settings import ServerSettings

ANSWER_SEC = 10.0
MAX_BYTES = 64 * 1024
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared with, not listened on


def service(settings: ServerSettings) -> Iterator[Finding]:
    """The service answers, or its port is free for it."""
    url, dead = _expected(settings)
    if dead:
        fix = f"see the end of {settings.data_path / 'service.log'}, then start it again"
        yield Finding("service", "warning", f"{dead} was started in the background and is gone", fix)
    if url == "":
        yield Finding("service", "warning", "none runs; port 0 takes a free one", "start it: balsam server up")
        return
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    refused = _why_not_listen(host, port)
    if refused is None:
        yield Finding("service", "warning", f"none runs; {host} port {port} is free", "start it: balsam server up")
    elif refused.errno in (errno.EADDRINUSE, errno.EACCES) and _is_taken(host, port):
        yield _answer(url, _EVERYWHERE.get(host, host), port, settings.tls_cert)
    else:
        fix = "give an address of this machine with --host, and a port above 1023 or a user who may have lower ones"
        told = f"none runs, and none can listen on {host} port {port}: {refused.strerror}"
        yield Finding("service", "problem", told, fix)


def _expected(settings: ServerSettings) -> tuple[str, str]:
    """Where the service with this directory is or would be, and the process that should be there and is not."""
    from balsam.cli.server_background import find_service
    from balsam.server.auth.local import SERVICE_FILE

    dead = ""
    try:
        record = find_service(settings.data_path)
    except click.ClickException:
        record = None
    if record is not None and record.is_alive:
        return record.url, ""
    if record is not None and record.hostname == os.uname().nodename:
        dead = f"process {record.pid}"
    with contextlib.suppress(OSError, ValueError):
        published = json.loads((settings.home / SERVICE_FILE).read_text())
        if published["data_dir"] == str(settings.data_path):
            return str(published["url"]), dead
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{settings.scheme}://{host}:{settings.port}" if settings.port else "", dead


def _why_not_listen(host: str, port: int) -> OSError | None:
    """What keeps a service from listening there; nothing listens meanwhile."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        return error
    return None


def _is_taken(host: str, port: int) -> bool:
    try:
        socket.create_connection((_EVERYWHERE.get(host, host), port), ANSWER_SEC).close()
    except OSError:
        return False
    return True


def _answer(url: str, host: str, port: int, cert: Path | None) -> Finding:
    where = f"{host} port {port}"
    try:
        with contextlib.closing(_connection(url, host, port, cert)) as connection:
            _, version = _ask(connection, "/api/version")
            status, said = _ask(connection, "/readyz")
    except (OSError, http.client.HTTPException, ValueError) as error:
        told = f"no service of ours answers on {where}: {type(error).__name__} {error}"
        fix = "another program listens there, or it was started with other options; stop it, or give another --port"
        return Finding("service", "problem", told, fix)
    running = str(version.get("service", ""))
    if not running.startswith("openbalsam "):
        return Finding("service", "problem", f"another program answers on {where}", "stop it, or give another --port")
    if status != HTTPStatus.OK:
        told = f"{running} answers on {where} and is not ready (status {status}): {_reason(said)}"
        return Finding("service", "problem", told, "see the line about the database, and the service's log")
    if running != f"openbalsam {__version__}":
        told = f"{running} answers on {where}, and {__version__} is installed"
        return Finding("service", "warning", told, "balsam server restart, or: systemctl reload balsam")
    return Finding("service", "ok", f"{running} answers on {where} and is ready")


def _connection(url: str, host: str, port: int, cert: Path | None) -> http.client.HTTPConnection:
    """With the library of Python itself: ours believes an https address only by its name, which this need not be."""
    if not url.startswith("https:"):
        return http.client.HTTPConnection(host, port, timeout=ANSWER_SEC)
    context = ssl.create_default_context() if cert is None else trusting(cert)
    return http.client.HTTPSConnection(host, port, timeout=ANSWER_SEC, context=context)


def _ask(connection: http.client.HTTPConnection, path: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON object of an answer. Raises OSError, HTTPException, ValueError."""
    connection.request("GET", path, headers={"Accept": "application/json"})
    answer = connection.getresponse()
    found = json.loads(answer.read(MAX_BYTES))
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no object")
    return answer.status, found


def _reason(said: dict[str, Any]) -> str:
    error = said.get("error")
    return str(error.get("message", "")) if isinstance(error, dict) else ""
