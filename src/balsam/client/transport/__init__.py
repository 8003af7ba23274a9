"""HTTP to the service: the only place that knows an HTTP library.

`Transport.request` is one call that is repeated until it is answered, refused or out of time; `Transport.stream` is
one stream of server-sent events that reconnects by itself. Used by the SDK, the site agent, the launcher's courier and
the command.

>>> from balsam.client.settings import ClientSettings
>>> transport = Transport(ClientSettings(url="http://127.0.0.1:8000", token="blsm_user_x"))
>>> transport.close()
"""

from balsam.client.transport.link import HttpLink, LinkError, PooledLink, RawReply, RawRequest
from balsam.client.transport.retry import Attempts, Failure, RetryPolicy
from balsam.client.transport.stream import EventStream, ServerEvent
from balsam.client.transport.transport import Transport

__all__ = [
    "Attempts",
    "EventStream",
    "Failure",
    "HttpLink",
    "LinkError",
    "PooledLink",
    "RawReply",
    "RawRequest",
    "RetryPolicy",
    "ServerEvent",
    "Transport",
]
