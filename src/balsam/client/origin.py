"""Whose a result is: the seal by which a client knows again the paths that it gave itself.

A Job's record at the service says where its result goes, and any client of the user could read it. Before a client
writes to a path by itself it must have named that path: a service that lies could otherwise have any file of the user's
replaced. So each path is sealed with a key that only this user on this machine has, and the seal is kept with the item.
"""

import hashlib
import hmac
import logging
import os
import secrets
import socket
from pathlib import Path

from balsam.client.credentials import balsam_home, read_secret_file
from balsam.client.errors import CredentialsError

log = logging.getLogger("balsam.client")

KEY_FILE = "client.key"
_KEY_BYTES = 32


class OriginKey:
    """This user on this machine. The key is made when it is first needed, in BALSAM_HOME, mode 0600."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._key: bytes | None = None

    def seal(self, slot: str, path: str) -> str:
        """The origin of a path that this client names; empty when no key can be kept.

        Without an origin the result comes by itself in this process only; later it is asked for with `--to`.
        """
        try:
            key = self._load(make=True)
        except (CredentialsError, OSError) as error:
            log.warning("results can't be marked as this machine's (%s); collect them in this process", error)
            return ""
        return "" if key is None else f"{socket.gethostname()}:{_mac(key, socket.gethostname(), slot, path)}"

    def is_mine(self, origin: str, slot: str, path: str) -> bool:
        """Whether this user named this path on this machine."""
        host, _, mac = origin.partition(":")
        if host != socket.gethostname():
            return False
        try:
            key = self._load(make=False)
        except (CredentialsError, OSError):
            return False
        return key is not None and hmac.compare_digest(mac.encode(), _mac(key, host, slot, path).encode())

    def _load(self, *, make: bool) -> bytes | None:
        if self._key is None:
            path = self._path or balsam_home() / KEY_FILE
            text = read_secret_file(path)
            if text is None and make:
                _make(path)
                text = read_secret_file(path)
            try:
                self._key = None if text is None else bytes.fromhex(text.strip())
            except ValueError:
                raise CredentialsError(f"{path} is damaged; remove it, and a new one is made") from None
        return self._key


def _make(path: Path) -> None:
    """Create the key. When two processes do so at once, both use that of the first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(handle)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return
    finally:
        temporary.unlink()


def _mac(key: bytes, host: str, slot: str, path: str) -> str:
    text = "\0".join((host, slot, path)).encode(errors="surrogateescape")
    return hmac.new(key, text, hashlib.sha256).hexdigest()[:32]
