"""The SDK behind `balsam.api`: transport, credentials, models, queries and the watcher that waits by push.

Site agent, launcher and command use `client.transport` and `client.settings` alone; nothing here knows the service's
insides. Importing it opens no connection and reads no file.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balsam.client.client import Client as RESTClient
    from balsam.client.errors import NotAuthenticatedError

__all__ = ["NotAuthenticatedError", "RESTClient"]


def __getattr__(name: str) -> object:
    """Names that scripts for Balsam 0.7 import from here."""
    if name == "RESTClient":
        from balsam.client.client import Client

        return Client
    if name == "NotAuthenticatedError":
        from balsam.client.errors import NotAuthenticatedError

        return NotAuthenticatedError
    raise AttributeError(f"module 'balsam.client' has no attribute {name!r}")
