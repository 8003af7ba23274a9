"""Transfers: what slots and locations may be, and the moves of a TransferItem.

A slot of an App names a file in the workdir; a Job says for each slot where it comes from or goes to: `alias:/path`.
The alias `client` is the machine that submits; every other one is named in the Site's settings. Used by SDK, service
and Site alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from balsam.domain.lifecycle import Refusal, Refused
from balsam.domain.paths import BadPath, contained
from balsam.domain.states import TransferState

CLIENT = "client"
MAX_REMOTE_PATH = 4096
WHOLE_WORKDIR = "."
_PATTERN = frozenset("*?[")


class TransferDirection(StrEnum):
    """Which way a slot goes. Names and values are Balsam's."""

    stage_in = "in"
    stage_out = "out"


class BadLocation(ValueError):
    """This is no location; the text says what one looks like."""


@dataclass(frozen=True, slots=True)
class Location:
    """The far end of a transfer.

    >>> Location.parse("client:/home/me/in.dat")
    Location(alias='client', path='/home/me/in.dat')
    >>> str(Location("scratch", "/a b"))
    'scratch:/a b'
    """

    alias: str
    path: str

    @classmethod
    def parse(cls, text: str) -> "Location":
        """Raises BadLocation."""
        alias, colon, path = text.partition(":")
        if not colon or not alias:
            raise BadLocation(f"{text!r} is no location; write ALIAS:/absolute/path, as in client:/home/me/in.dat")
        location = cls(alias, path)
        for why in location.problems():
            raise BadLocation(f"{text!r}: {why}")
        return location

    def problems(self) -> Iterator[str]:
        """What is wrong with it, one sentence each."""
        if not self.path.startswith("/"):
            yield f"the path {self.path!r} is not absolute; it begins with a /"
        if len(self.path) > MAX_REMOTE_PATH:
            yield f"the path has {len(self.path)} characters; at most {MAX_REMOTE_PATH} are allowed"
        if "\0" in self.path:
            yield "the path has a NUL character"
        if any(0xD800 <= ord(char) <= 0xDFFF for char in self.path):
            yield "the path is not valid Unicode"
        if ".." in self.path.split("/"):
            yield f"the path {self.path!r} contains '..'; write it out"

    def __str__(self) -> str:
        return f"{self.alias}:{self.path}"


def is_pattern(path: str) -> bool:
    """Whether a path may mean several files.

    >>> is_pattern("out/*.h5"), is_pattern("out.h5")
    (True, False)
    """
    return not _PATTERN.isdisjoint(path)


def local_path_problem(local_path: str) -> str:
    """What is wrong with the `local_path` of a slot; empty when nothing is."""
    if local_path == WHOLE_WORKDIR:
        return ""
    try:
        contained(local_path, "local_path")
    except BadPath as error:
        return str(error)
    return ""


TRANSFER_DUE = frozenset({TransferState.PENDING, TransferState.ACTIVE, TransferState.INACTIVE})
TRANSFER_SETTLED = frozenset({TransferState.DONE, TransferState.ERROR})
# awaiting_job is left and entered with the Job's own steps; all else is said by the Site, and only while it is due.
TRANSFER_MOVES: frozenset[tuple[TransferState, TransferState]] = frozenset(
    (source, target)
    for source in TRANSFER_DUE
    for target in (TransferState.ACTIVE, TransferState.INACTIVE, TransferState.DONE, TransferState.ERROR)
)


def decide_transfer(state: TransferState, target: TransferState) -> bool:
    """Whether a TransferItem may move. False when it is there already; Refused when it is not due (any more)."""
    if state == target:
        return False
    if (state, target) not in TRANSFER_MOVES:
        raise Refused(Refusal.ILLEGAL, f"a TransferItem that is {state} can't become {target}")
    return True
