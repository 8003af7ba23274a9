"""What a transfer back end is: it carries batches of files between workdirs and one location.

The agent submits a batch under an id and polls it; whatever a back end does in between, it works through each order by
itself, and an order in error hinders no other. `balsam.testing.transfer_conformance` is the suite that each one passes.
"""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from balsam.domain.transfers import TransferDirection
from balsam.transfer.descent import Refused
from balsam.transfer.destination import ChecksumMismatch
from balsam.transfer.manifest import BadManifest, Content
from balsam.transfer.sources import FileChanged

_TRANSIENT = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENOLCK, errno.EINTR),
    )
)


class PeerAway(Exception):
    """The other side did not answer; nothing is known. It is no fault of the transfer."""


class PeerRefused(Exception):
    """The other side refused. `is_final`: it would refuse again."""

    def __init__(self, message: str, *, is_final: bool) -> None:
        super().__init__(message)
        self.is_final = is_final


class Trouble(Enum):
    """Whether it is worth trying again."""

    AWAY = "away"  # nobody's fault: as often as it takes
    TRANSIENT = "transient"  # for a while: a full disk, a busy file server
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Order:
    """One transfer. `content` is what a stage-in from the client brings."""

    item_id: int
    direction: TransferDirection
    workdir: str
    local_path: str
    remote_path: str
    recursive: bool
    content: Content | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an order ended. `error` is empty when it is done; `content` is what a stage-out to the client sent; `note` is
    for people."""

    item_id: int
    error: str = ""
    trouble: Trouble | None = None
    content: Content | None = None
    skipped: Sequence[str] = ()
    size_bytes: int = 0
    note: str = ""


@dataclass(slots=True)
class Report:
    """A batch: the orders that ended since the last look, bytes moved of those that go on and, where that is known, how
    many there are to move, whether all ended."""

    ended: list[Outcome] = field(default_factory=list)
    moved: dict[int, int] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    is_over: bool = False


class TransferBackend(Protocol):
    """Carries batches. One thread of the agent calls it; it never blocks that thread for long."""

    keeps_tasks: bool
    """Its tasks go on without this process, so their id is stored before they are submitted (S11)."""

    def submit(self, task_id: str, orders: Sequence[Order], changed: Callable[[], None]) -> None:
        """Begin, or go on with, a batch. `changed` may be called from any thread when there is something to poll."""
        ...

    def poll(self, task_id: str) -> Report:
        """How it goes. A batch that is over is forgotten with the answer that says so."""
        ...

    def cancel(self, task_id: str, item_ids: frozenset[int]) -> None:
        """These orders are not wanted any more; they need not be reported."""
        ...

    def close(self) -> None:
        """The agent stops: end soon. What is not finished is submitted again by the next agent."""
        ...


def trouble_of(error: Exception) -> tuple[str, Trouble]:
    """What to tell people of an error, and whether it is worth trying again."""
    if isinstance(error, PeerAway):
        return str(error), Trouble.AWAY
    if isinstance(error, PeerRefused):
        return str(error), Trouble.FINAL if error.is_final else Trouble.TRANSIENT
    if isinstance(error, FileChanged | ChecksumMismatch):
        return str(error), Trouble.TRANSIENT
    if isinstance(error, Refused | BadManifest):
        return f"refused: {error}", Trouble.FINAL
    if isinstance(error, OSError):
        text = error.strerror or str(error)
        named = f"{error.filename}: {text}" if isinstance(error.filename, str) else text
        return named, Trouble.TRANSIENT if error.errno in _TRANSIENT else Trouble.FINAL
    raise error
