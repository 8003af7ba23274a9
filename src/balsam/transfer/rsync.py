"""The back end of `rsync:` locations: rsync over ssh, one connection for a batch.

Credentials are ssh's own: a key file or the agent user's ~/.ssh/config; nothing is asked and nothing secret stands in a
command line. The server's key must be known beforehand. rsync verifies each file by its checksum, renames it into
place, and goes on with an interrupted upload.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from balsam.transfer.program import Ended, run_program
from balsam.transfer.staged import Load, StagedBackend

CONNECT_SEC = 20
SILENCE_SEC = 60
OPTIONS = ("identity_file", "known_hosts")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*)\Z|[0-9A-Fa-f:]+\Z")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
_FILE = re.compile(r"/[A-Za-z0-9_@+=:,./-]*\Z")
_ESCAPED = re.compile(rb"\\#([0-7]{3})")
_PROGRESS = re.compile(rb"\s*([0-9,]+)\s+\d+%")
_NAME = b"balsam:"
_FLAGS = ("--recursive", "--copy-links", "--executability", "--ignore-times", "--from0", "--secluded-args")


@dataclass(frozen=True, slots=True)
class SshAddress:
    """Where to, as whom, and with which files. An empty `identity_file` or `known_hosts` leaves it to ssh's own
    configuration.

    >>> SshAddress.parse("rsync://ada@dtn.example.org/project")
    SshAddress(host='dtn.example.org', user='ada', port=0, path='/project', identity_file='', known_hosts='')
    """

    host: str
    user: str
    port: int
    path: str
    identity_file: str
    known_hosts: str

    @classmethod
    def parse(cls, url: str) -> "SshAddress":
        """Raises ValueError, with a text that says what is wrong."""
        parts = urlsplit(url)
        if parts.password is not None:
            raise ValueError(f"{parts.scheme}: has a password; name a file with a key instead: ?identity_file=/path")
        if not _HOST.match(parts.hostname or "") or not _USER.match(parts.username or "x") or not parts.path:
            raise ValueError(f"{url!r} must have the form {parts.scheme}://[USER@]HOST[:PORT]/absolute/path")
        given = url_options(url, OPTIONS)
        for name, value in given.items():
            if not _FILE.match(value):
                raise ValueError(f"{url!r}: {name} must be an absolute path without blanks and quotes")
        return cls(
            parts.hostname or "",
            parts.username or "",
            parts.port or 0,
            unquote(parts.path),
            given.get("identity_file", ""),
            given.get("known_hosts", ""),
        )

    def command(self) -> list[str]:
        """ssh that asks nothing and trusts no key that it doesn't know."""
        settings = {"BatchMode": "yes", "StrictHostKeyChecking": "yes", "ConnectTimeout": CONNECT_SEC}
        words = ["ssh", *(f"-o{name}={value}" for name, value in settings.items()), "-oServerAliveInterval=15"]
        if self.port:
            words.append(f"-p{self.port}")
        if self.identity_file:
            words += ["-oIdentitiesOnly=yes", "-i", self.identity_file]
        if self.known_hosts:
            words += [f"-oUserKnownHostsFile={self.known_hosts}", "-oGlobalKnownHostsFile=/dev/null"]
        return words

    @property
    def target(self) -> str:
        """The directory as rsync wants it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{f'{self.user}@' if self.user else ''}{host}:{self.path.rstrip('/')}/"


def url_options(url: str, known: Sequence[str]) -> dict[str, str]:
    """What stands behind the ? of a location's URL. Raises ValueError when it is not known, or there twice."""
    parts = urlsplit(url)
    found = parse_qs(parts.query, keep_blank_values=True)
    if parts.fragment or not set(found) <= set(known) or any(len(values) > 1 for values in found.values()):
        raise ValueError(f"{url!r} takes the options {', '.join(known)}, each once")
    return {name: values[0] for name, values in found.items()}


class RsyncBackend(StagedBackend):
    """TransferBackend of one `rsync:` location."""

    def __init__(self, data: Path, spool: Path, address: SshAddress) -> None:
        super().__init__(data, spool)
        self._address = address

    def push(self, load: Load) -> Ended:
        words = (
            "--remove-source-files",
            "--partial-dir=.balsam-partial",
            f"{load.shipment.folder}/",
            self._address.target,
        )
        return self._rsync(load, words, b"")

    def pull(self, load: Load) -> Ended:
        listed = b"".join(f"./{place}".encode() + b"\0" for place in load.shipment.places)
        words = ["--files-from=-", self._address.target, f"{load.shipment.folder}/"]
        return self._rsync(load, words if load.recursive else ["--no-recursive", "--dirs", *words], listed)

    def _rsync(self, load: Load, words: Sequence[str], given: bytes) -> Ended:
        told = ("--8-bit-output", f"--out-format={_NAME.decode()}%n", "--info=progress1", f"--timeout={SILENCE_SEC}")
        ssh = f"--rsh={' '.join(self._address.command())}"
        return run_program(["rsync", *_FLAGS, *told, ssh, *words], {}, given, _Progress(load).hear, load.is_wanted)


class _Progress:
    """Reads rsync's output: names, and after each the bytes of that file."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._path = ""
        self._size_bytes = 0

    def hear(self, line: bytes) -> None:
        if line.startswith(_NAME):
            name = _ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), line.removeprefix(_NAME))
            self._path, self._size_bytes = name.decode(errors="surrogateescape"), 0
        elif found := _PROGRESS.match(line):
            size_bytes = int(found[1].replace(b",", b""))
            self._load.moved(self._path, size_bytes - self._size_bytes)
            self._size_bytes = size_bytes
