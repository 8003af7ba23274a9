"""The one function that libEnsemble up to 1.5 calls in its own Balsam executor before it imports `balsam.api`.

Nothing of ours uses this module; new code configures the standard `logging` package itself.
"""

import logging


def config_root_logger(level: int | str = logging.INFO) -> None:
    """Set the level of balsam's loggers; prints nothing and adds no handler.

    `level` is a number or a name of the `logging` module (any case). Raises ValueError for an unknown name.

    >>> config_root_logger("ERROR")
    >>> logging.getLogger("balsam").level == logging.ERROR
    True
    """
    logging.getLogger("balsam").setLevel(level.upper() if isinstance(level, str) else level)
