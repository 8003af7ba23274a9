"""Messages about Apps."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from balsam.domain.app import MAX_NAME_LENGTH, AppSpec, LaunchMethod
from balsam.domain.app import AppParameter as Parameter
from balsam.domain.app import PythonCode as Code
from balsam.domain.app import TransferSlot as Slot
from balsam.domain.envelope import Envelope
from balsam.domain.lifecycle import Hook
from balsam.domain.monitors import MAX_MONITORS, OUTPUT_NAME, MonitorAction
from balsam.domain.monitors import Monitor as Rule
from balsam.domain.template import MAX_TEMPLATE_LENGTH
from balsam.wire import lookups
from balsam.wire.base import Count, Id, JsonDict, Message, Number, Short, Tags, Timestamp
from balsam.wire.lookups import Where

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


class Monitor(Message):
    """A rule on what Jobs of an App write, checked at the Site; see `domain.monitors.Monitor`."""

    action: MonitorAction
    file: Annotated[str, StringConstraints(max_length=4096)] = OUTPUT_NAME
    pattern: str | None = None
    not_finite: bool = False
    stalled_sec: Number | None = None
    tags: Tags = {}
    restarts: Number = 0


class PythonCode(Message):
    """The pickled class of an App with methods; see `domain.app.PythonCode`. The service never opens the envelope."""

    envelope: JsonDict
    runs: bool = False
    python_exe: (
        Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")] | None
    ) = None
    launch_methods: list[LaunchMethod] = []
    accepts_any: bool = False

    def spec(self) -> Code:
        """In the domain's form. Raises BadEnvelope."""
        return Code(
            envelope=Envelope.from_json(self.envelope),
            runs=self.runs,
            python_exe=self.python_exe,
            launch_methods=frozenset(self.launch_methods),
            accepts_any=self.accepts_any,
        )


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
    code: PythonCode | None = None
    monitors: Annotated[dict[Short, Monitor], Field(max_length=MAX_MONITORS)] = {}

    def spec(self) -> AppSpec:
        """The definition in the domain's form, with the hash by which it can be pinned. Raises BadEnvelope."""
        return AppSpec(
            name=self.name,
            command_template=self.command_template,
            parameters={key: Parameter(**value.model_dump()) for key, value in self.parameters.items()},
            environment_variables=self.environment_variables,
            transfers={key: Slot(**value.model_dump()) for key, value in self.transfers.items()},
            cleanup_files=tuple(self.cleanup_files),
            hooks=frozenset(self.hooks),
            source_code=self.source_code,
            code=None if self.code is None else self.code.spec(),
            monitors={key: Rule(**value.model_dump()) for key, value in self.monitors.items()},
        )


class AppRename(Message):
    """What goes with a sync: the name that the App had until now. Its id, and so its Jobs, stay."""

    rename_from: AppName | None = None


class AppView(AppSync):
    """An App as the service knows it; `content_hash` is what a Site pins."""

    id: int
    content_hash: str
    synced_at: Timestamp
    synced_by: str


class AppFilter(Message):
    """Selects Apps; a Site's name may be written `owner/name`."""

    id: list[Number] | None = None
    site_id: list[Number] | None = None
    name: str | None = None
    site_name: str | None = None
    site_path: str | None = None
    where: Annotated[Where, lookups.said("AppLookup")] | None = None  # of kinds.APP_FIELDS, all must hold
    limit: Annotated[int, Field(ge=0, le=10_000)] = 1000
    offset: Count = 0


class AppsPage(Message):
    """A page of Apps."""

    count: int
    results: list[AppView]
