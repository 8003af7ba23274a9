"""Asking a running agent to begin anew, with the settings as they are now and perhaps in another directory.

The wish is a file in the Site directory, so that it reaches an agent on any host that shares it; on the same host a
signal makes it look at once. The agent checks the new settings before it leaves the old ones, and answers in
agent.json: `answered` is the number of the wish, `refusal` why it was not obeyed.
"""

import json
import signal
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from balsam.platform.processes import send
from balsam.site.directory import SiteDirectory, SiteError, write_json
from balsam.site.lock import AgentStatus, is_locked, read_status

FILE = "agent.request.json"
LOOK_SIGNAL = signal.SIGUSR1
ANSWER_SEC = 30.0
_LOOK_AGAIN_SEC = 0.05


@dataclass(frozen=True, slots=True)
class ReloadRequest:
    """One wish. `root` is the Site's directory from now on."""

    number: str
    root: str


def running_agent(site: SiteDirectory) -> AgentStatus | None:
    """The agent of the Site, on this host or, as far as locks or its own word reach, on another one."""
    status = read_status(site)
    if status is None or status.state == "stopped":
        return None
    return status if status.is_alive or (not status.is_of_this_host and is_locked(site)) else None


def ask_to_reload(site: SiteDirectory, root: Path) -> ReloadRequest:
    """Leave the wish and wake the agent; the answer comes later. Raises OSError."""
    request = ReloadRequest(uuid.uuid4().hex, str(root))
    write_json(site.root / FILE, asdict(request))
    status = read_status(site)
    if status is not None and status.is_alive:
        send(status.process, LOOK_SIGNAL)
    return request


def wait_for_answer(site: SiteDirectory, request: ReloadRequest, timeout_sec: float = ANSWER_SEC) -> AgentStatus:
    """How the agent is after it obeyed. Raises SiteError when it refused, died, or did not answer."""
    deadline = time.monotonic() + timeout_sec
    while True:
        status = read_status(site)
        if status is not None and status.answered == request.number:
            if status.refusal:
                raise SiteError(f"the agent goes on with its old settings: {status.refusal}")
            if status.state in ("running", "waiting"):
                return status
        if time.monotonic() >= deadline or (status is not None and status.is_of_this_host and not status.is_alive):
            who = f"process {status.pid} on {status.hostname}" if status else "nobody left a name"
            raise SiteError(
                f"the agent of {site.root} ({who}) did not answer within {timeout_sec:g} s; it takes up the new "
                f"settings when it looks again, or when it is started anew. Its log is in {site.log}"
            )
        time.sleep(_LOOK_AGAIN_SEC)


def pending_request(site: SiteDirectory, answered: str) -> ReloadRequest | None:
    """For the agent: a wish that was not answered yet. What can't be understood is none."""
    try:
        content = json.loads((site.root / FILE).read_text(encoding="utf-8"))
        request = ReloadRequest(str(content["number"]), str(content["root"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return request if request.number != answered and Path(request.root).is_absolute() else None
