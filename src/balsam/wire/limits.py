"""Limits that both ends know (S16). Apart from the messages, whose import costs a program that only looks at Jobs."""

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_BULK = 10_000
MIN_PASSWORD = 8  # characters
MAX_PASSWORD = 1024
MAX_PAGE = 10_000
MAX_PARAMETERS_BYTES = 65_536
MAX_PYTHON_PARAMETERS_BYTES = 512_000  # of Jobs of Apps with run()
MAX_TAGS = 50
MAX_WORKDIR = 256  # characters
MAX_PARENTS = 10_000
MAX_ACQUIRE = 2_048
MAX_REPORT = 2_000
MAX_FILE_READ_BYTES = 1024 * 1024
MAX_JSON_DEPTH = 32
