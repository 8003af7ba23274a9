"""Where the processes of one service put what they count for /metrics: called by run.py, before any of them counts.

The metrics library decides at its first import whether counts are shared, so this module does not import it.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

SHARED = "PROMETHEUS_MULTIPROC_DIR"  # the library's own name for it


@contextmanager
def shared_directory() -> Iterator[None]:
    """A directory for one start of a service, on this machine: names of files in it are numbers of processes."""
    with tempfile.TemporaryDirectory(prefix="balsam-metrics-") as directory:
        os.environ[SHARED] = directory
        try:
            yield
        finally:
            del os.environ[SHARED]
