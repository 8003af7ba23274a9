"""The Apps of the measurements."""

from typing import Any


def no_op(site: str) -> Any:
    """The cheapest command there is, run without a shell."""
    from balsam.api import ApplicationDefinition

    class NoOp(ApplicationDefinition):
        """Does nothing."""

        command_template = "/bin/true"

    NoOp.site = site
    NoOp.sync()
    return NoOp


def clock(site: str) -> Any:
    """Prints the time at which its process started."""
    from balsam.api import ApplicationDefinition

    class Clock(ApplicationDefinition):
        """Prints the time."""

        command_template = "/bin/date +%s.%N"

    Clock.site = site
    Clock.sync()
    return Clock


def python_no_op(site: str) -> Any:
    """The cheapest function there is."""
    from balsam.api import ApplicationDefinition

    class PythonNoOp(ApplicationDefinition):
        """Does nothing, in Python."""

        def run(self) -> None:
            return

    PythonNoOp.site = site
    PythonNoOp.sync()
    return PythonNoOp
