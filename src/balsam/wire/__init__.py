"""REST messages between service and everything else, and the wire version they belong to.

`WIRE_VERSION` grows when an old peer could misunderstand a message; the service accepts `WIRE_VERSIONS`, its own and
the one before, and answers others with 426 and what to upgrade. Unknown fields of requests are refused, so a typo is an
error and not a silence; who reads an answer or an event passes over the fields that a newer service has added.
"""

WIRE_VERSION = 1
WIRE_VERSIONS = range(max(1, WIRE_VERSION - 1), WIRE_VERSION + 1)
WIRE_HEADER = "Balsam-Wire"
IDEMPOTENCY_HEADER = "Idempotency-Key"
API_PREFIX = "/api"
