"""ApplicationDefinition: an App is a class; its name and Site are its identity.

`sync` sends the definition, `submit` makes Jobs of it, `load_by_site` turns registered Apps back into classes. The work
is done in `client/registration.py`, which is imported when it is needed: at the Site this class is the base of Apps
whose methods run there, in processes that need nothing else of the client.
"""

import functools
import inspect
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

from balsam.domain.states import JobState

if TYPE_CHECKING:
    from balsam.client.client import Client
    from balsam.client.models.job import Job
    from balsam.client.models.site import Site
    from balsam.domain.app import AppSpec
    from balsam.wire.apps import AppView


@dataclass(slots=True)
class AppState:
    """What this process knows of a class: its id, what was `synced` last (service, fingerprint), the App it was loaded
    from, and the definition that was found sound last."""

    app_id: int | None = None
    synced: tuple[str, str] | None = None
    loaded: "AppView | None" = None
    checked: "tuple[str, AppSpec] | None" = None


class _SourceCode:
    """Source of the class as it was written, or as the service keeps it; empty when it can't be had."""

    def __get__(self, instance: object, owner: type["ApplicationDefinition"]) -> str:
        if owner._state.loaded is not None:
            return owner._state.loaded.source_code
        try:
            return textwrap.dedent(inspect.getsource(owner))
        except (OSError, TypeError):  # typed at a prompt, or made by exec
            return ""


class ApplicationDefinition:
    """Base of Apps. Class attributes are the definition; the docstring is its description.

    `site`: name, id or Site. `command_template`: shell text in which each `{{ name }}` becomes one quoted word.
    `parameters`: `{name: {"required": bool, "default": str, "help": str}}`; names that only the template has are
    required.
    `environment_variables`, `transfers`, `cleanup_files`: as in the guide.
    `monitors`: `{name: {"action": "notify" | "tag" | "kill", "file": "job.out", ...}}`, rules on what Jobs write, which
    their Site checks: a `pattern`, `not_finite`, or `stalled_sec`; see the guide to monitors.

    >>> class Hello(ApplicationDefinition):
    ...     site = "local"
    ...     command_template = "echo Hello, {{ name }}"
    >>> job = Hello.submit(workdir="hello/1", name="World")
    >>> job.wait(timeout=60)
    True
    """

    site: ClassVar["str | int | Site"]
    command_template: ClassVar[str | None] = None
    parameters: ClassVar[Mapping[str, Any]] = {}
    environment_variables: ClassVar[Mapping[str, str]] = {}
    transfers: ClassVar[Mapping[str, Any]] = {}
    cleanup_files: ClassVar[Iterable[str]] = ()
    monitors: ClassVar[Mapping[str, Any]] = {}
    python_exe: ClassVar[str | None] = None
    source_code = _SourceCode()

    _bound_client: ClassVar["Client | None"] = None
    _state: ClassVar[AppState] = AppState()

    def __init_subclass__(cls, bound_to: "Client | None" = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._state = AppState()  # never that of a parent class
        if bound_to is not None:
            cls._bound_client = bound_to
            cls._plain_base = cls.__mro__[1]  # what it is in another process

    _plain_base: ClassVar[type | None] = None
    # Set on instances, at the Site.
    _make_job: "Callable[[], Job] | None" = None
    _given: Mapping[str, Any] = {}

    @functools.cached_property
    def job(self) -> "Job":
        """The Job, inside of a method that runs at the Site: `self.job.id`, `self.job.tags`, `self.job.data` ..."""
        if self._make_job is None:
            raise RuntimeError("self.job is there while a method of the App runs at its Site")
        return self._make_job()

    def preprocess(self) -> None:
        """Hook before the first attempt, at the Site, in the workdir, with `self.job`. Sets `self.job.state`.

        By default, and when it sets no state: PREPROCESSED, the Job may run. FAILED ends it.

        >>> class Prepared(ApplicationDefinition):
        ...     site = "local"
        ...     command_template = "cat input.txt"
        ...     def preprocess(self):
        ...         with open("input.txt", "w") as file:
        ...             file.write(self.job.tags["name"])
        >>> job = Prepared.submit("prepared/1", tags={"name": "World"})
        >>> job.wait(timeout=60), job.read_text("job.out")
        (True, 'World')
        """
        self.job.state = JobState.PREPROCESSED

    def postprocess(self) -> None:
        """Hook after an attempt that ended well. By default POSTPROCESSED; RESTART_READY runs the Job again.

        >>> class Measured(ApplicationDefinition):
        ...     site = "local"
        ...     command_template = "echo 42 > answer"
        ...     def postprocess(self):
        ...         with open("answer") as file:
        ...             self.job.data = {"answer": int(file.read())}
        >>> job = Measured.submit("measured/1")
        >>> job.wait(timeout=60), job.data
        (True, {'answer': 42})
        """
        self.job.state = JobState.POSTPROCESSED

    def handle_error(self) -> None:
        """Hook after an attempt that ended in an error. By default FAILED; RESTART_READY runs the Job again.

        >>> class Stubborn(ApplicationDefinition):
        ...     site = "local"
        ...     command_template = "test {{ step }} -le 2"
        ...     def handle_error(self):
        ...         self.job.parameters = {"step": "2"}
        ...         self.job.state = "RESTART_READY"
        >>> job = Stubborn.submit("stubborn/1", step="4")
        >>> job.wait(timeout=60), job.attempt, job.return_code
        (True, 2, 0)
        """
        self.job.state = JobState.FAILED

    def handle_timeout(self) -> None:
        """Hook after an attempt that did not end in its time, or was lost. By default RESTART_READY; FAILED ends it.

        >>> class Punctual(ApplicationDefinition):
        ...     site = "local"
        ...     command_template = "sleep 1"
        ...     def handle_timeout(self):
        ...         self.job.state = "FAILED"
        >>> Punctual.submit("punctual/1", wall_time_min=1).wait(timeout=60)
        True
        """
        self.job.state = JobState.RESTART_READY

    def shell_preamble(self) -> str | list[str]:
        """Shell text that is sourced before the command, at the Site; lines of a list are joined with `&&`.

        >>> class Simulation(ApplicationDefinition):
        ...     site = "local"
        ...     command_template = "simulate {{ input }}"
        ...     def shell_preamble(self):
        ...         return ["module load gcc", "ulimit -s unlimited"]
        >>> Simulation().shell_preamble()
        ['module load gcc', 'ulimit -s unlimited']
        """
        return []

    def get_environ_vars(self) -> dict[str, str]:
        """The environment of the Job, at the Site: by default that of the launcher with `environment_variables`.

        >>> class Threaded(ApplicationDefinition):
        ...     site = "local"
        ...     command_template = "simulate"
        ...     def get_environ_vars(self):
        ...         return {**super().get_environ_vars(), "OMP_PLACES": "cores"}
        >>> Threaded().get_environ_vars()["OMP_PLACES"]
        'cores'
        """
        return dict(os.environ)

    def get_arg_str(self) -> str:
        """The command line, at the Site: by default `command_template` with the parameters filled in.

        >>> class Quiet(ApplicationDefinition):
        ...     site = "local"
        ...     command_template = "simulate"
        ...     def get_arg_str(self):
        ...         return super().get_arg_str() + " > /dev/null"
        >>> Quiet().get_arg_str()
        'simulate > /dev/null'
        """
        from balsam.domain.template import CommandTemplate

        return CommandTemplate.parse(self.command_template or "").render(self._given).shell

    @classmethod
    def sync(cls, rename_from: str | None = None) -> None:
        """Register the App at its Site, or replace its definition. Every save of a Job does so when it changed.

        `rename_from`: the name of the class until now; the App takes the new one and keeps its Jobs. Raises
        ValidationFailed with every fault of the definition, and when there is no App of the old name; Conflict when the
        Site has Apps of both names.

        >>> Hello.sync()
        >>> App.objects.get(name="Hello", site_id=site.id).description
        'Says hello.'
        """
        from balsam.client import registration

        registration.sync(cls, rename_from)

    @classmethod
    def submit(
        cls,
        workdir: str,
        *,
        tags: Mapping[str, str] | None = None,
        data: Mapping[str, Any] | None = None,
        num_nodes: int = 1,
        ranks_per_node: int = 1,
        threads_per_rank: int = 1,
        threads_per_core: int = 1,
        gpus_per_rank: float = 0.0,
        node_packing_count: int = 1,
        wall_time_min: int = 0,
        launch_params: Mapping[str, str] | None = None,
        parent_ids: Iterable[Any] | None = None,
        transfers: Mapping[str, Any] | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
        save: bool = True,
        **app_params: Any,
    ) -> "Job":
        """Make a Job of this App; `app_params` are its parameters. `save=False` leaves saving to you.

        `workdir` is relative to the Site's data directory. Raises ValidationFailed for parameters that do not match.

        >>> jobs = [Hello.submit(f"docs/{i}", name=str(i), save=False) for i in range(3)]
        >>> len(Job.objects.bulk_create(jobs))
        3
        """
        from balsam.client import registration

        given: dict[str, Any] = {
            "tags": tags,
            "data": data,
            "num_nodes": num_nodes,
            "ranks_per_node": ranks_per_node,
            "threads_per_rank": threads_per_rank,
            "threads_per_core": threads_per_core,
            "gpus_per_rank": gpus_per_rank,
            "node_packing_count": node_packing_count,
            "wall_time_min": wall_time_min,
            "launch_params": launch_params,
            "parent_ids": parent_ids,
            "transfers": transfers,
            "priority": priority,
            "max_attempts": max_attempts,
        }
        job = registration.new_job(cls, workdir, app_params, given)
        if save:
            job.save()
        return job

    @classmethod
    def check_parameters(cls, given: Mapping[str, Any]) -> None:
        """Raises ValidationFailed that names every missing and every unknown parameter.

        >>> Hello.check_parameters({"name": "you"})
        """
        from balsam.client import registration

        registration.check_parameters(cls, given)

    @classmethod
    def load_by_site(cls, site: "str | int | Site") -> dict[str, type["ApplicationDefinition"]]:
        """The Apps of a Site as classes, by name.

        >>> apps = ApplicationDefinition.load_by_site("local")
        >>> apps["Hello"].submit(workdir="hello/2", name="again").state.value
        'PREPROCESSED'
        """
        from balsam.client import registration

        return registration.load_by_site(cls, site)

    @classmethod
    def load_by_name(cls, name: str, site_name: str | None = None) -> type["ApplicationDefinition"]:
        """The App of this name as a class. Raises ValidationFailed when there is none, or several.

        >>> ApplicationDefinition.load_by_name("Hello", site.name).command_template
        'echo Hello, {{ name }}'
        """
        return cls.load_by_id(cls._client().apps.id_of(name, site_name))

    @classmethod
    def load_by_id(cls, app_id: int) -> type["ApplicationDefinition"]:
        """The App of this id as a class; its site is the Site's id. Raises `App.DoesNotExist`.

        >>> ApplicationDefinition.load_by_id(job.app_id).__name__
        'Hello'
        """
        from balsam.client import registration

        return registration.load_by_id(cls, app_id)

    @classmethod
    def resolve_site_id(cls) -> int:
        """The id of the App's Site. Raises ValidationFailed when there is no such Site, naming the nearest.

        >>> Hello.resolve_site_id() == site.id
        True
        """
        from balsam.client import registration

        return registration.site_id(cls)

    @classmethod
    def to_dict(cls) -> dict[str, Any]:
        """The definition as it is sent to the service.

        >>> Hello.to_dict()["command_template"]
        'echo Hello, {{ name }}'
        """
        from balsam.client import registration

        return registration.definition(cls).model_dump(mode="json")

    @classmethod
    def _client(cls) -> "Client":
        if cls._bound_client is not None:
            return cls._bound_client
        from balsam.client.client import default_client

        return default_client()

    @classmethod
    def _ensure_synced(cls) -> int:
        """The App's id, after a sync when the definition changed since the last one of this process."""
        from balsam.client import registration

        return registration.ensure_synced(cls)


def is_definition(value: Any) -> TypeGuard[type[ApplicationDefinition]]:
    """Whether a value is an App's class."""
    return isinstance(value, type) and issubclass(value, ApplicationDefinition)
