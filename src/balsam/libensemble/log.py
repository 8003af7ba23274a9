"""The log of the executor and its tasks: libEnsemble's own, under the name that its Balsam executor always had.

So the lines stand in `ensemble.log` with the worker's number, and `libensemble.logger.set_level` counts for them. What
a person should see at once is logged at `MANAGER_WARNING`, which libEnsemble copies to the terminal.
"""

import logging

from libensemble.logger import MANAGER_WARNING

__all__ = ["MANAGER_WARNING", "logger"]

logger = logging.getLogger("libensemble.executors.balsam_executor")
