"""Logging a Site in at Globus, and the client that its agent works with.

Called by `balsam site globus-login`, which a person answers, and by the back end of `globus:` locations, which asks
nobody: tokens that are not good (any more) are said on the transfers. They are in `globus.json` of the Site, for its
owner's eyes only. Needs the extra `globus`.
"""

import json
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balsam.transfer.base import PeerRefused

if TYPE_CHECKING:
    from globus_sdk import NativeAppAuthClient, TransferClient

TRANSFER = "transfer.api.globus.org"
LOGIN_AGAIN = "run `balsam site globus-login` in the Site's directory"
_ALL = f"urn:globus:auth:scope:{TRANSFER}:all"
_DATA_ACCESS = "https://auth.globus.org/scopes/{}/data_access"


class GlobusMissing(PeerRefused):
    """The extra is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "globus-sdk is not installed: pip install 'openbalsam[globus]', then start the agent again", is_final=False
        )


@dataclass(slots=True)
class GlobusLogin:
    """A login that is under way: `url` is for the person, who brings back a code."""

    url: str
    _client: "NativeAppAuthClient"
    _client_id: str
    _path: Path

    @classmethod
    def begin(cls, client_id: str, collections: Sequence[str], path: Path) -> "GlobusLogin":
        """Ask for access to transfers, and to the data of these mapped collections. Raises GlobusMissing."""
        client = _auth_client(client_id)
        # The * lets Globus ask for each consent on its own, so that one that is not needed hinders nothing.
        scopes = " ".join(f"*{_DATA_ACCESS.format(collection)}" for collection in collections)
        client.oauth2_start_flow(f"{_ALL}[{scopes}]" if scopes else _ALL, refresh_tokens=True)
        return cls(client.oauth2_get_authorize_url(), client, client_id, path)

    def finish(self, code: str) -> None:
        """Exchange the code for tokens, and keep them. Raises PeerRefused, OSError."""
        from globus_sdk import GlobusAPIError, GlobusError

        try:
            answer = self._client.oauth2_exchange_code_for_tokens(code)
            tokens = answer.by_resource_server[TRANSFER]
        except GlobusAPIError as error:
            raise PeerRefused(f"Globus does not take the code: {error.message}", is_final=True) from None
        except (GlobusError, KeyError) as error:
            raise PeerRefused(f"Globus gave no tokens: {error}", is_final=True) from None
        _write(self._path, {"client_id": self._client_id} | _kept(tokens))


def transfer_client(path: Path) -> "TransferClient":
    """A client with the tokens that are kept at `path`; new ones are kept there too. Raises PeerRefused."""
    try:
        kept = json.loads(_read(path))
        client_id, refresh_token = str(kept["client_id"]), str(kept["refresh_token"])
        access_token, expires_at = str(kept["access_token"]), int(kept["expires_at_seconds"])
    except FileNotFoundError:
        raise PeerRefused(f"the Site is not logged in at Globus; {LOGIN_AGAIN}", is_final=False) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PeerRefused(f"{path} can't be understood ({error}); {LOGIN_AGAIN}", is_final=False) from None
    client = _auth_client(client_id)
    from globus_sdk import RefreshTokenAuthorizer, TransferClient

    authorizer = RefreshTokenAuthorizer(
        refresh_token,
        client,
        access_token=access_token,
        expires_at=expires_at,
        on_refresh=lambda answer: _write(path, {"client_id": client_id} | _kept(answer.by_resource_server[TRANSFER])),
    )
    return TransferClient(authorizer=authorizer)


def _auth_client(client_id: str) -> "NativeAppAuthClient":
    try:
        from globus_sdk import NativeAppAuthClient
    except ImportError:
        raise GlobusMissing from None
    return NativeAppAuthClient(client_id)


def _kept(tokens: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tokens[name] for name in ("access_token", "refresh_token", "expires_at_seconds")}


def _read(path: Path) -> str:
    """Raises OSError, ValueError, and PeerRefused for a file that others can read."""
    with path.open(encoding="utf-8") as file:
        about = os.fstat(file.fileno())
        if about.st_uid != os.geteuid() or about.st_mode & 0o077:
            raise PeerRefused(
                f"{path} is another user's or open to others (mode {stat.S_IMODE(about.st_mode):04o}); its login "
                f"at Globus is not used. Run: chmod 600 {path}   (and {LOGIN_AGAIN} if somebody may have read it)",
                is_final=False,
            )
        return file.read()


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all, 0600."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".globus-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
