"""The Apps whose hooks the agent is to run, checked before any of their code is loaded (S15).

The hash is computed again from the definition that came, so that a service that lies can't give an approved hash to
other code. The code itself is passed on to workers as it is; nothing here opens it.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from balsam.domain.app import AppSpec
from balsam.domain.envelope import BadEnvelope
from balsam.wire.apps import AppView


class HooksRefused(Exception):
    """The hooks of this App do not run here; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class HookApp:
    """What a worker needs of an App."""

    name: str
    content_hash: str
    envelope: dict[str, Any]
    environment: dict[str, str]

    def as_call(self) -> dict[str, Any]:
        return {"name": self.name, "hash": self.content_hash, "envelope": self.envelope}


class HookApps:
    """The Apps by id, in the newest definition that was sent. `python`: the Site lets code of Apps be loaded;
    `approved`: hashes that may run, None when all may."""

    def __init__(self, python: bool, approved: Callable[[], Collection[str] | None]) -> None:
        self._python = python
        self._approved = approved
        self._specs: dict[int, AppSpec | HooksRefused] = {}
        self.known: dict[int, str] = {}  # app id -> content hash, which the service need not send again

    def add(self, view: AppView) -> None:
        """Take a definition."""
        self.known[view.id] = view.content_hash
        try:
            spec = AppSpec.from_view(view.model_dump(mode="json"))
        except BadEnvelope as error:
            self._specs[view.id] = HooksRefused(f"App {view.name}: {error}")
            return
        self._specs[view.id] = spec
        if spec.content_hash != view.content_hash:
            text = f"App {spec.name} is not what its hash says: the service sent another definition"
            self._specs[view.id] = HooksRefused(text)

    def get(self, app_id: int) -> HookApp | None:
        """The App of a Job; None when it was synced again without any code. Raises HooksRefused."""
        spec = self._specs.get(app_id)
        if spec is None:
            raise HooksRefused(f"the service sent no definition of App {app_id}")
        if isinstance(spec, HooksRefused):
            raise spec
        if spec.code is None:
            return None
        if not self._python:
            raise HooksRefused(
                f"the hooks of App {spec.name} are Python code, and this Site loads none (apps.python is false in its "
                "settings.yml)"
            )
        approved = self._approved()
        if approved is not None and spec.content_hash not in approved:
            raise HooksRefused(
                f"this definition of App {spec.name} is not approved at this Site (apps.accept is pinned); its owner "
                f"can allow it there: balsam app approve {spec.name}"
            )
        return HookApp(spec.name, spec.content_hash, spec.code.envelope.as_json(), dict(spec.environment_variables))
