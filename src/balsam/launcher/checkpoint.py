"""Which signal tells a Job that its allocation is about to end, so that it may write a checkpoint.

The Site's settings say it for all Jobs, an App for its own in its environment variables; the Job itself reads it there.
Used by whoever starts Jobs and by whoever signals them.
"""

import signal
from collections.abc import Mapping

CHECKPOINT_ENV = "BALSAM_CHECKPOINT_SIGNAL"
NONE = "none"
# Those that every mpirun passes on to its ranks.
_SIGNALS = {"SIGUSR1": signal.SIGUSR1, "SIGUSR2": signal.SIGUSR2}
WANTED = f"it must be {', '.join(_SIGNALS)} or {NONE}"


class UnknownSignal(ValueError):
    """A Job's environment names another signal; the text says which there are."""


def is_checkpoint_signal(text: str) -> bool:
    """Whether this may stand in settings and Apps."""
    return text in _SIGNALS or text == NONE


def checkpoint_signal(environ: Mapping[str, str]) -> signal.Signals | None:
    """The signal for a Job with this environment; None when it gets none. Raises UnknownSignal.

    >>> checkpoint_signal({"BALSAM_CHECKPOINT_SIGNAL": "SIGUSR1"}).name
    'SIGUSR1'
    """
    text = environ.get(CHECKPOINT_ENV)
    if text is None:
        return None
    if not is_checkpoint_signal(text):
        raise UnknownSignal(f"{CHECKPOINT_ENV} is {text!r}; {WANTED}")
    return _SIGNALS.get(text)
