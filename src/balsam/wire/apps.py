"""Messages about Apps."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from balsam.domain.app import MAX_NAME_LENGTH, AppSpec
from balsam.domain.app import AppParameter as Parameter
from balsam.domain.app import TransferSlot as Slot
from balsam.domain.lifecycle import Hook
from balsam.domain.template import MAX_TEMPLATE_LENGTH
from balsam.wire.base import Id, Message, Short, Timestamp

AppName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_LENGTH)]


class AppParameter(Message):
    """One parameter of an App: required, or with a default."""

    required: bool = True
    default: str | None = None
    help: str = ""


class TransferSlot(Message):
    """A file that Jobs of an App take in or give out."""

    required: bool
    direction: Literal["in", "out"]
    local_path: str
    description: str = ""
    recursive: bool = False


class AppSync(Message):
    """Create the App (site_id, name), or replace its definition."""

    site_id: Id
    name: AppName
    command_template: Annotated[str, StringConstraints(max_length=MAX_TEMPLATE_LENGTH)] | None = None
    parameters: dict[Short, AppParameter] = {}
    environment_variables: dict[Short, str] = {}
    transfers: dict[Short, TransferSlot] = {}
    cleanup_files: list[Short] = []
    hooks: list[Hook] = []
    description: Annotated[str, StringConstraints(max_length=16_384)] = ""
    source_code: Annotated[str, StringConstraints(max_length=262_144)] = ""

    def spec(self) -> AppSpec:
        """The definition in the domain's form, with the hash by which it can be pinned."""
        return AppSpec(
            name=self.name,
            command_template=self.command_template,
            parameters={key: Parameter(**value.model_dump()) for key, value in self.parameters.items()},
            environment_variables=self.environment_variables,
            transfers={key: Slot(**value.model_dump()) for key, value in self.transfers.items()},
            cleanup_files=tuple(self.cleanup_files),
            hooks=frozenset(self.hooks),
            source_code=self.source_code,
        )


class AppView(AppSync):
    """An App as the service knows it; `content_hash` is what a Site pins."""

    id: int
    content_hash: str
    synced_at: Timestamp


class AppFilter(Message):
    """Selects Apps."""

    id: list[int] | None = None
    site_id: list[int] | None = None
    name: str | None = None
    site_name: str | None = None
    site_path: str | None = None
    limit: Annotated[int, Field(ge=0, le=10_000)] = 1000
    offset: Annotated[int, Field(ge=0)] = 0


class AppsPage(Message):
    """A page of Apps."""

    count: int
    results: list[AppView]
