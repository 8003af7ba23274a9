"""FunctionApp: the App behind a function that was handed to a `JobExecutor`.

An instance with the function travels to the Site in place of a class; worker processes there copy it for each Job.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from balsam.client.models.application import ApplicationDefinition


class FunctionApp(ApplicationDefinition):
    """Calls one function; its Jobs have the arguments as their parameters."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def run(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """What the function returns."""
        return self._function(*args, **(kwargs or {}))
