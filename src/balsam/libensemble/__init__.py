"""libEnsemble's front door: `BalsamExecutor` and `BalsamTask` over the public SDK.

Users reach both as `libensemble.executors.balsam_executor` (or `...balsam_executors`), where libEnsemble had them up to
1.5. Importing this package without libEnsemble raises an ImportError that says what to install.
"""

try:
    import libensemble.executors.executor  # noqa: F401 - asked for early, to give the clear message below
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "libensemble":
        raise
    raise ImportError(
        "balsam.libensemble needs libEnsemble 1.6 or newer, not found here: pip install 'openbalsam[libensemble]'"
    ) from error

from balsam.libensemble.executor import BalsamExecutor
from balsam.libensemble.task import BalsamTask

__all__ = ["BalsamExecutor", "BalsamTask"]
