"""One agent per Site: a lock among the processes of this file system, and what the last agent said of itself.

The lock (flock on agent.lock) ends with its process, whatever happens. agent.json is a hint for people and for
`replaces`: an agent of this host whose lock is free is dead. Across hosts, and where flock does not work, the service's
agent lease decides (F27).
"""

import errno
import fcntl
import json
import logging
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from balsam.platform.processes import ProcessId, boot_id, is_alive, look
from balsam.site.directory import SiteDirectory, SiteError, write_json

log = logging.getLogger(__name__)

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_MAX_CLAIMS = 16
STOPPING_SEC = 3.0
LOOK_AGAIN_SEC = 0.05


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """What an agent says of itself. `claims`: instances of which one may hold the service's agent lease.

    `state` is `starting`, `waiting` (for the service), `running` or `stopped`; `detail` says why in words. `answered`
    is the last wish of `site.reload` that was heard, `refusal` why it was not obeyed. `supervised`: when it ends, its
    parent (`balsam up`) starts it again.
    """

    hostname: str
    pid: int
    start: int
    boot_id: str
    instance: str
    state: str
    since: str
    detail: str = ""
    claims: list[str] = field(default_factory=list)
    answered: str = ""
    refusal: str = ""
    supervised: bool = False

    @property
    def is_of_this_host(self) -> bool:
        return self.hostname == os.uname().nodename

    @property
    def process(self) -> ProcessId:
        return ProcessId(self.pid, self.start)

    @property
    def is_alive(self) -> bool:
        """Whether that very process lives on this host."""
        return self.is_of_this_host and self.boot_id == boot_id() and is_alive(self.process)


class AgentLock:
    """The right to be this Site's agent on this file system. Held until `release` or the end of the process."""

    def __init__(
        self, site: SiteDirectory, handle: int | None, previous: AgentStatus | None, supervised: bool = False
    ) -> None:
        self._site = site
        self._supervised = supervised
        self._handle = handle
        self.previous = previous
        info = look(os.getpid())
        self._own = ProcessId(os.getpid(), info.id.start if info else 0)
        self.instance = uuid.uuid4().hex
        self._claims = _claims_of(previous)
        self._said: AgentStatus | None = None
        self.answered = previous.answered if previous is not None else ""
        self._refusal = ""

    @classmethod
    def take(cls, site: SiteDirectory, supervised: bool = False) -> "AgentLock":
        """Raises SiteError, naming host and process, when another agent runs."""
        handle = os.open(site.agent_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            locked = _lock(handle)
        except OSError:
            os.close(handle)
            raise
        if locked is None:
            os.close(handle)
            raise SiteError(f"{_who(read_status(site))} is the agent of {site.root}; stop it first")
        if not locked:
            log.warning("%s can't be locked; only the service keeps agents apart", site.agent_lock)
        previous = read_status(site)
        if not locked and previous is not None and previous.is_alive:
            raise SiteError(f"{_who(previous)} is the agent of {site.root}; stop it first")
        return cls(site, handle if locked else None, previous, supervised)

    @property
    def dead_instances(self) -> list[str]:
        """Instances that may still hold the service's lease and are surely dead, the likeliest first."""
        return list(reversed(self._claims))

    def say(self, state: str, since: str, detail: str = "") -> AgentStatus:
        """Write agent.json. A full disk is no reason to stop: the file is a hint."""
        claims = [self.instance] if state == "running" else [*self._claims[:1], *self._claims[1:][-_MAX_CLAIMS:]]
        if self.instance not in claims:
            claims.append(self.instance)
        status = AgentStatus(
            hostname=os.uname().nodename,
            pid=self._own.pid,
            start=self._own.start,
            boot_id=boot_id(),
            instance=self.instance,
            state=state,
            since=since,
            detail=detail,
            claims=claims,
            answered=self.answered,
            refusal=self._refusal,
            supervised=self._supervised,
        )
        self._write(status)
        return status

    def answer(self, number: str, refusal: str = "") -> None:
        """A wish was heard; without `refusal` the next `say` tells that it is obeyed."""
        self.answered, self._refusal = number, refusal
        if refusal and self._said is not None:
            self._write(replace(self._said, answered=number, refusal=refusal))

    def move_to(self, site: SiteDirectory) -> None:
        """The Site's directory has another name from now on; the lock is on the file and goes with it."""
        self._site = site

    def _write(self, status: AgentStatus) -> None:
        self._said = status
        try:
            write_json(self._site.agent_status, asdict(status))
        except OSError as error:
            log.warning("%s can't be written: %s", self._site.agent_status, error.strerror)

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def this_process() -> dict[str, object]:
    """Which process this is, for others who want to know whether it lives."""
    info = look(os.getpid())
    start = info.id.start if info else 0
    return {"hostname": os.uname().nodename, "boot_id": boot_id(), "pid": os.getpid(), "start": start}


def was_here_and_is_gone(process: Mapping[str, object]) -> bool:
    """Whether what `this_process` told was a process of this host and does not live any more; this one does not count
    as living: it knows what it has ended. Of another host's process nothing is known."""
    if process.get("hostname") != os.uname().nodename:
        return False
    pid, start = process.get("pid"), process.get("start")
    if process.get("boot_id") != boot_id() or not isinstance(pid, int) or not isinstance(start, int):
        return True
    return pid == os.getpid() or not is_alive(ProcessId(pid, start))


def read_status(site: SiteDirectory) -> AgentStatus | None:
    """What the last agent wrote; None when there was none or it can't be understood."""
    try:
        content = json.loads(Path(site.agent_status).read_text(encoding="utf-8"))
        known = {one.name for one in fields(AgentStatus)}
        return AgentStatus(**{key: value for key, value in content.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def is_locked(site: SiteDirectory) -> bool:
    """Whether some process, on this host or another one that shares the file system's locks, is the agent now."""
    try:
        handle = os.open(site.agent_lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        status = read_status(site)
        return status is not None and status.is_alive
    finally:
        os.close(handle)
    return False


def _lock(handle: int) -> bool | None:
    """True: ours. None: another process has it. False: this file system has no locks."""
    deadline = time.monotonic() + STOPPING_SEC
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # An agent that was just told to stop is given the time to do so.
            if time.monotonic() >= deadline:
                return None
            time.sleep(LOOK_AGAIN_SEC)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
        else:
            return True


def _claims_of(previous: AgentStatus | None) -> list[str]:
    # The lock was free, so an agent of this host is dead. Of another host's one this file system need not know.
    return list(previous.claims) if previous is not None and previous.is_of_this_host else []


def _who(status: AgentStatus | None) -> str:
    return "another process" if status is None else f"process {status.pid} on {status.hostname}"
