"""Settings of clients and Sites under the names that scripts know: `from balsam.config import ClientSettings`."""

from balsam.client.settings import ClientSettings

__all__ = ["ClientSettings"]
