"""REST messages between service and everything else, and the wire version they belong to.

`WIRE_VERSION` grows when an old peer could misunderstand a message; the service accepts `WIRE_VERSIONS` and answers
others with 426 and what to upgrade. Every message forbids unknown fields, so a typo is an error and not a silence.
"""

WIRE_VERSION = 1
WIRE_VERSIONS = range(1, 2)
WIRE_HEADER = "Balsam-Wire"
IDEMPOTENCY_HEADER = "Idempotency-Key"
API_PREFIX = "/api"
