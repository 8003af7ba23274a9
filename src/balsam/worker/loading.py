"""Loading the code of an App: from the envelope that the service told to objects whose methods can be called.

Called in worker processes only, never by the launcher's or the agent's own: opening an envelope runs code. It promises
one kind of error, whose text names the App, what is missing and the interpreter it is missing in.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from balsam.client.models.application import ApplicationDefinition
from balsam.client.pickling import NotOpened, open_envelope
from balsam.domain.envelope import BadEnvelope, Envelope


class AppNotLoaded(Exception):
    """The code of an App can't be used here; the text says why, and names the interpreter."""


def load_app(name: str, envelope: Mapping[str, Any]) -> Callable[[], ApplicationDefinition]:
    """What makes an instance of the App for each Job; `envelope` is the JSON in the App's definition.

    Versions are compared before anything is unpickled. Raises AppNotLoaded.
    """
    try:
        found = open_envelope(Envelope.from_json(envelope))
    except (BadEnvelope, NotOpened) as error:
        raise AppNotLoaded(f"the code of App {name} can't be used here: {error}") from error
    if isinstance(found, type) and issubclass(found, ApplicationDefinition):
        return found
    if isinstance(found, ApplicationDefinition):
        return lambda: copy.copy(found)
    raise AppNotLoaded(f"the code of App {name} is a {type(found).__name__}, not an ApplicationDefinition")
