"""A service that runs without a terminal: started, found again by its data directory, restarted and stopped.

Called by `balsam server up --background`, `deploy`, `restart` and `down`. Which process it is stands in the data
directory; a process that got its number later is never taken for it.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import click

from balsam.cli.log_tail import log_tail
from balsam.client.credentials import write_secret_file
from balsam.client.errors import BalsamError
from balsam.client.settings import ClientSettings
from balsam.client.transport import Transport
from balsam.platform.processes import ProcessId, boot_id, is_alive, look, send
from balsam.wire.base import VersionReply

RECORD = "background.json"
LOG = "service.log"
START_SEC = 60.0
STOP_SEC = 20.0
RESTART_SEC = 120.0  # requests that are being answered come to their end first
_LOOK_AGAIN_SEC = 0.05


@dataclass(frozen=True, slots=True)
class BackgroundService:
    """One running service; `start` and `boot_id` tell it from a later process with its number."""

    url: str
    pid: int
    start: int
    boot_id: str
    hostname: str

    @property
    def is_alive(self) -> bool:
        """Whether it lives, as far as this host can tell."""
        return self.boot_id == boot_id() and is_alive(ProcessId(self.pid, self.start))


def find_service(data_dir: Path) -> BackgroundService | None:
    """The service that was started in the background with its data there, dead or alive; None when none was."""
    try:
        return BackgroundService(**json.loads((data_dir / RECORD).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise click.ClickException(f"{data_dir / RECORD} can't be understood ({error}); remove it") from error


def start_service(data_dir: Path, words: list[str]) -> BackgroundService:
    """Start `python -m balsam.server` with these options; returns when it answers.

    Raises ClickException with the end of its log when it does not, and leaves nothing running.
    """
    running = find_service(data_dir)
    if running is not None and running.is_alive:
        raise click.ClickException(
            f"a service runs with its data in {data_dir} already (process {running.pid}, {running.url})"
        )
    log = data_dir / LOG
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as told:
        child = _spawn([*words, "--data-dir", str(data_dir), "--json"], data_dir, log, write_end)
        try:
            ready = _ready_line(told, log)
            info = look(child.pid)
            if info is None:
                raise click.ClickException(f"the service ended at once; its log ({log}) ends with:\n{log_tail(log)}")
            service = BackgroundService(ready["url"], child.pid, info.id.start, boot_id(), os.uname().nodename)
            write_secret_file(data_dir / RECORD, json.dumps(asdict(service)) + "\n")
        except BaseException:
            child.terminate()
            child.wait()
            raise
    return service


def _spawn(words: list[str], data_dir: Path, log: Path, write_end: int) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that it outlives the terminal."""
    try:
        with log.open("ab") as output:
            log.chmod(0o600)
            return subprocess.Popen(
                [sys.executable, "-m", "balsam.server", *words],
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=output,
                start_new_session=True,
                cwd=data_dir,
            )
    finally:
        os.close(write_end)


def _ready_line(told: IO[bytes], log: Path) -> dict[str, Any]:
    if not select.select([told], [], [], START_SEC)[0]:
        raise click.ClickException(f"the service did not answer within {START_SEC:g} s; see {log}")
    line = told.readline()
    if not line:
        raise click.ClickException(f"the service did not start; its log ({log}) ends with:\n{log_tail(log)}")
    ready: dict[str, Any] = json.loads(line)
    return ready


def start_anew(service: BackgroundService) -> None:
    """Have the service become the program that is installed now; returns when that one answers.

    Raises ClickException when it does not.
    """
    before = _instance(service.url)
    send(ProcessId(service.pid, service.start), signal.SIGUSR2)
    deadline = time.monotonic() + RESTART_SEC
    while _instance(service.url) == before:
        if not service.is_alive:
            raise click.ClickException("the service ended instead of starting anew; the end of its log has the reason")
        if time.monotonic() > deadline:
            raise click.ClickException(f"the service did not start anew within {RESTART_SEC:g} s")
        time.sleep(_LOOK_AGAIN_SEC)


def _instance(url: str) -> str:
    """The name of the start of the service that answers; it waits while one makes room for the next."""
    transport = Transport(ClientSettings(url=url))
    try:
        return transport.request("GET", "/version", reply=VersionReply, deadline_sec=RESTART_SEC).instance
    except BalsamError as error:
        raise click.ClickException(str(error)) from error
    finally:
        transport.close()


def stop_service(data_dir: Path) -> bool:
    """End the service; returns when it is gone, False when none was running. Raises ClickException when it stays."""
    service = find_service(data_dir)
    if service is None or (service.hostname == os.uname().nodename and not service.is_alive):
        (data_dir / RECORD).unlink(missing_ok=True)
        return False
    if service.hostname != os.uname().nodename:
        raise click.ClickException(f"the service was started on {service.hostname}; stop it there")
    process = ProcessId(service.pid, service.start)
    send(process, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SEC
    while is_alive(process):
        if time.monotonic() > deadline:
            raise click.ClickException(
                f"process {service.pid} did not end within {STOP_SEC:g} s; its log is {data_dir / LOG}. It may be "
                f"killed without harm to what it acknowledged: kill -9 {service.pid}"
            )
        time.sleep(_LOOK_AGAIN_SEC)
    (data_dir / RECORD).unlink(missing_ok=True)
    return True
