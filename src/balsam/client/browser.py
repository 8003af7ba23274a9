"""A link that lets a browser in as the account that is logged in. Used by `balsam open` and `balsam up`."""

from balsam.client.transport import Transport
from balsam.wire.auth import BrowserLink

DEADLINE_SEC = 30.0


def browser_link(transport: Transport, url: str) -> str:
    """The link, at the service with this address: good once, for five minutes, for whoever has it.

    Raises:
        Forbidden: The transport's token is no login.
        NotFound: The service is older than its pages.
    """
    # Not repeated: a link whose answer was lost ends by itself.
    link = transport.request("POST", "/auth/browser-link", reply=BrowserLink, deadline_sec=DEADLINE_SEC)
    return url.rstrip("/") + link.path
