"""BalsamExecutor: libEnsemble's Executor over the Balsam service, from any machine to any machine with a site.

Also importable as `libensemble.executors.balsam_executor` and `...balsam_executors`. User scripts create one, register
Apps, ask for an allocation; user functions submit. It holds no connection of its own and pickles to worker processes.
The names of `balsam.api` imported here are looked up as globals of this module, where tests of others patch them.
"""

import os
import secrets
import time
from collections.abc import Mapping
from numbers import Real
from pathlib import PurePath
from typing import Any

from libensemble.executors.executor import NOT_STARTED_STATES, Application, Executor, ExecutorException, jassert
from libensemble.message_numbers import MAN_KILL_SIGNALS, STOP_TAG

from balsam.api import ApplicationDefinition, BatchJob, EventLog, Job, JobMode, NotFound
from balsam.domain.paths import BadPath, contained
from balsam.libensemble.definition import (
    check_definition,
    checked_parameters,
    class_of,
    packed_application,
    run_line,
    unpacked_application,
)
from balsam.libensemble.interrupt import Interrupt
from balsam.libensemble.log import MANAGER_WARNING, logger
from balsam.libensemble.placement import Placement, gpus, positive, resolve_placement
from balsam.libensemble.revocation import Revocation, cancel_tasks, end_allocations, end_tasks
from balsam.libensemble.task import BalsamTask

__all__ = ["ApplicationDefinition", "BalsamExecutor", "BalsamTask", "BatchJob", "EventLog", "Job"]

# The documented defaults. Never handed on and never changed: every use copies.
_NO_ITEMS: dict[str, Any] = {}
_NO_PARTITIONS: list[dict[str, Any]] = []

EXECUTOR_TAG = "libe_executor"
WORKER_TAG = "libe_worker"
# Workers over tcp are processes that run the calling script, and enter a block of their own within that of the manager.
_OUTER_BLOCK = "BALSAM_LIBE_EXECUTOR"
_JOB_MODES = tuple(mode.value for mode in JobMode)


class BalsamExecutor(Executor):
    """Wraps the Balsam service. Via this Executor, Balsam ``Jobs`` can be submitted to sites, local or remote.

    >>> exctr = BalsamExecutor()  # doctest: +SKIP
    >>> exctr.register_app(HelloApp, app_name="hello")  # doctest: +SKIP
    >>> batch = exctr.submit_allocation(site_id=1, num_nodes=1, wall_time_min=30)  # doctest: +SKIP
    >>> task = exctr.submit(app_name="hello", app_args={"my_name": "World"}, num_procs=4)  # doctest: +SKIP
    >>> task.wait(timeout=60)  # doctest: +SKIP
    >>> exctr.revoke_allocation(batch)  # doctest: +SKIP
    True

    With ``with BalsamExecutor() as exctr:`` nothing goes on once the block is left, also by an error or Ctrl-C: what it
    submitted from any process is killed, and its allocations are revoked.
    """

    def __init__(self) -> None:
        """Instantiate a new ``BalsamExecutor`` instance. Contacts nobody."""
        super().__init__()
        self.workflow_name = "libe_workflow"
        self.allocations: list[Any] = []
        self.own_tags: dict[str, str] = {}
        self._interrupt: Interrupt | None = None

    def __enter__(self) -> "BalsamExecutor":
        """Give what is submitted from here on a tag ``libe_executor``, by which ``__exit__`` finds it."""
        own, here = secrets.token_hex(8), str(os.getpid())
        pid, _, outer = os.environ.get(_OUTER_BLOCK, here).partition(":")
        tags = self.own_tags = {EXECUTOR_TAG: own} if pid == here else {EXECUTOR_TAG: outer, WORKER_TAG: own}
        os.environ.setdefault(_OUTER_BLOCK, f"{here}:{own}")
        self._interrupt = Interrupt(lambda: cancel_tasks(Job.objects, tags))
        self._interrupt.watch()
        return self

    def __exit__(self, *exc: object) -> None:
        """Kill the tasks of this block that are not done, and revoke its allocations; waits a minute for their end."""
        tags, self.own_tags = self.own_tags, {}
        if os.environ.get(_OUTER_BLOCK) == f"{os.getpid()}:{tags.get(EXECUTOR_TAG)}":
            del os.environ[_OUTER_BLOCK]
        if self._interrupt is not None:
            self._interrupt.leave()
        end_tasks(Job.objects, tags)
        end_allocations([Revocation(allocation, BatchJob.objects) for allocation in self.allocations])

    def __getstate__(self) -> dict[str, Any]:
        """What travels to a worker process: the registered Apps, without the comm of this process."""
        state = dict(self.__dict__)
        state["comm"] = state["_interrupt"] = None
        state["apps"] = {name: packed_application(app) for name, app in self.apps.items()}
        defaults = self.default_apps.items()
        state["default_apps"] = {kind: None if app is None else app.name for kind, app in defaults}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.apps = {name: unpacked_application(form) for name, form in state["apps"].items()}
        defaults = state["default_apps"].items()
        self.default_apps = {kind: None if name is None else self.apps[name] for kind, name in defaults}

    def add_app(self, *args: object) -> None:
        """Does nothing; scripts written for the first Balsam call it."""

    def set_resources(self, resources: object) -> None:
        """Keep libEnsemble's resources. They divide local nodes and say nothing about those of a site."""
        self.resources = resources

    def manager_poll(self) -> int | None:
        """The manager's signal to stop or kill, None without one; the same until the user function has returned.

        libEnsemble's own tells it once, and whoever polls after ``wait_on_start`` met it would never learn.
        """
        held = getattr(self.comm, "recv_buffer", None)
        if held is not None and held[0] == STOP_TAG and held[1] in MAN_KILL_SIGNALS:
            self.manager_signal = held[1]
            return int(held[1])
        signal: int | None = super().manager_poll()
        return signal

    def register_app(
        self,
        BalsamApp: Any,  # noqa: N803 - the documented name
        app_name: str | None = None,
        calc_type: str | None = None,
        desc: str | None = None,
        precedent: str | None = None,
    ) -> None:
        """Registers a Balsam ``ApplicationDefinition`` to libEnsemble. It must have ``site`` and ``command_template``.

        ``app_name`` defaults to the first word of the command template; ``calc_type`` makes the App the default
        ``'sim'`` or ``'gen'`` application. Raises ExecutorException when the definition can't be used.
        """
        app = class_of(BalsamApp)
        check_definition(app)
        jassert(calc_type is None or calc_type in self.default_apps, "Unrecognized calculation type", calc_type)
        name = app_name or app.command_template.split()[0]
        self.apps[name] = Application(" ", name, calc_type, desc, app, precedent or "")
        if calc_type is not None:
            self.default_apps[calc_type] = self.apps[name]

    def submit_allocation(
        self,
        site_id: int,
        num_nodes: int,
        wall_time_min: int,
        job_mode: str = "mpi",
        queue: str = "local",
        project: str = "local",
        optional_params: Mapping[str, Any] = _NO_ITEMS,
        filter_tags: Mapping[str, str] = _NO_ITEMS,
        partitions: list[dict[str, Any]] = _NO_PARTITIONS,
    ) -> Any:
        """Submits a Balsam ``BatchJob`` machine allocation request to Balsam, and returns it.

        Parameters
        ----------
        site_id: int
            The site, from ``balsam site ls``
        num_nodes, wall_time_min: int
            Nodes and minutes to ask for
        job_mode: str, Optional
            ``"mpi"``, or ``"serial"`` for many single-process Jobs
        queue, project: str, Optional
            Where to queue and what to charge
        optional_params: dict, Optional
            Values for the optional fields of the site's ``job-template.sh``
        filter_tags: dict, Optional
            Run only Jobs that carry these tags
        partitions: list[dict], Optional
            Slices of the allocation, each with its ``job_mode``, ``num_nodes``, ``filter_tags``

        Raises ExecutorException for an unknown site or job mode, and ``balsam.api.ValidationFailed`` for a queue,
        project, size or option that the site does not allow. What only its scheduler can know shows as state
        ``submit_failed``, with the reason in ``status_info``.
        """
        jassert(job_mode in _JOB_MODES, f"job_mode={job_mode!r} must be one of: {', '.join(_JOB_MODES)}")
        try:
            allocation = BatchJob.objects.create(
                site_id=site_id,
                num_nodes=num_nodes,
                wall_time_min=wall_time_min,
                job_mode=job_mode,
                queue=queue,
                project=project,
                optional_params=_texts("optional_params", optional_params),
                filter_tags=_texts("filter_tags", filter_tags),
                partitions=_parts(partitions),
            )
        except NotFound as error:
            raise ExecutorException(f"site_id={site_id!r}: {error}") from error
        self.allocations.append(allocation)
        logger.info(f"Submitted allocation to site {site_id}: nodes {num_nodes} queue {queue} project {project}")
        return allocation

    def revoke_allocation(self, allocation: Any, timeout: float = 60) -> bool:
        """Terminates a Balsam ``BatchJob`` machine allocation remotely, queued or running.

        Returns True once the allocation is over. After ``timeout`` seconds it warns and returns False; the request
        stays recorded, and the site obeys it as soon as it is reachable again.
        """
        if not hasattr(allocation, "id"):
            raise ExecutorException(f"allocation is {allocation!r}; give the BatchJob that submit_allocation returned")
        revocation = Revocation(allocation, BatchJob.objects)
        revocation.start()
        if revocation.is_over(timeout):
            logger.info(f"Allocation {allocation.id} is over")
            return True
        logger.log(
            MANAGER_WARNING,
            f"Allocation {allocation.id} was not seen to end within {timeout} seconds (state {allocation.state}); "
            f"{revocation.progress}",
        )
        return False

    def submit(
        self,
        calc_type: str | None = None,
        app_name: str | None = None,
        app_args: Mapping[str, Any] | None = None,
        num_procs: int | None = None,
        num_nodes: int | None = None,
        procs_per_node: int | None = None,
        max_tasks_per_node: int | None = None,
        machinefile: str | None = None,
        gpus_per_rank: float = 0,
        transfers: Mapping[str, Any] = _NO_ITEMS,
        workdir: str = "",
        dry_run: bool = False,
        wait_on_start: bool | float = False,
        extra_args: Mapping[str, Any] = _NO_ITEMS,
        tags: Mapping[str, str] = _NO_ITEMS,
    ) -> BalsamTask:
        """Initializes and submits a Balsam ``Job`` of a registered App; returns the matching libEnsemble ``Task``.

        Parameters
        ----------
        calc_type: str, Optional
            ``'sim'`` or ``'gen'``: use the default application of that type, when ``app_name`` is not given
        app_name: str, Optional
            The name given to ``register_app``
        app_args: dict
            A value for each parameter of the App's ``command_template``
        num_procs, num_nodes, procs_per_node: int, Optional
            Ranks in all, nodes, ranks on each node; what is left out follows from the others (one rank on one node)
        max_tasks_per_node: int, Optional
            At most this many such tasks share a node. Default: the task has its nodes to itself
        machinefile: str, Optional
            Ignored: the site places the ranks
        gpus_per_rank: int, Optional
            GPUs to reserve for each rank
        transfers: dict, Optional
            Where the App's transfer slots come from or go to
        workdir: str, Optional
            Name of the output directory under ``libe_workflow`` in the site's data directory. Default: one of its own
        dry_run: bool, Optional
            Log the run line at INFO and launch nothing; needs no service
        wait_on_start: bool or int, Optional
            Block until the task is polled as running or ended; a number of seconds bounds the wait, and so does a kill
            signal of libEnsemble's manager
        extra_args: dict, Optional
            Additional arguments for the site's MPI launcher
        tags: dict, Optional
            Tags of the Job; allocations with ``filter_tags`` run only Jobs that match

        Raises ExecutorException, before anything is sent, for unknown Apps, parameters that do not match the template,
        numbers that do not fit together and directories outside the site's data; a dry run as well. What only the
        service can know raises ``balsam.api.ValidationFailed``: a slot that the App does not have, limits of the Site.
        """
        app = self._chosen_app(app_name, calc_type)
        parameters = checked_parameters(app.pyobj, app_args)
        placement = resolve_placement(num_procs, num_nodes, procs_per_node)
        share = positive("max_tasks_per_node", max_tasks_per_node) or 1
        if machinefile is not None:
            logger.debug(f"machinefile {machinefile} is ignored: the site places the ranks")
        start_limit = _start_limit(wait_on_start)
        task = self._new_task(app, parameters, workdir)
        all_tags = {**_texts("tags", tags), **self.own_tags}
        job = self._new_job(task, placement, share, gpus(gpus_per_rank), transfers, extra_args, all_tags)
        if dry_run:
            return self._finish_dry_run(task, placement)
        job.save()
        task.mark_submitted(job)
        self.list_of_tasks.append(task)
        logger.info(f"Submitted task {task.name} to site {app.pyobj.site} ({_sizes(placement)}): {task.runline}")
        if wait_on_start:
            self._wait_on_start(task, start_limit)
        return task

    def _chosen_app(self, app_name: str | None, calc_type: str | None) -> Application:
        if app_name is not None:
            return self.get_app(app_name)
        if calc_type is not None:
            return self.default_app(calc_type)
        raise ExecutorException("Either app_name or calc_type must be set")

    def _new_task(self, app: Application, parameters: dict[str, Any], workdir: str) -> BalsamTask:
        task = BalsamTask(app, parameters, None, None, None, self.workerID)
        jassert(isinstance(workdir, (str, PurePath)), f"workdir must be text, not {workdir!r}")
        # Task names repeat in the next run and in other worker processes; a directory must not.
        place = str(workdir) if workdir else f"{task.name}_{secrets.token_hex(4)}"
        try:
            task.workdir = f"{self.workflow_name}/{contained(place)}"
        except BadPath as error:
            raise ExecutorException(str(error)) from error
        task.runline = run_line(app.pyobj, parameters)
        return task

    @staticmethod
    def _new_job(
        task: BalsamTask,
        placement: Placement,
        share: int,
        gpus_per_rank: float,
        transfers: Mapping[str, Any],
        extra_args: Mapping[str, Any],
        tags: dict[str, str],
    ) -> Any:
        return Job(
            app_id=task.app.pyobj,
            workdir=task.workdir,
            parameters=task.app_args,
            tags=tags,
            num_nodes=placement.num_nodes,
            ranks_per_node=placement.procs_per_node,
            gpus_per_rank=gpus_per_rank,
            node_packing_count=share,
            launch_params=_texts("extra_args", extra_args),
            transfers=_items("transfers", transfers),
        )

    def _finish_dry_run(self, task: BalsamTask, placement: Placement) -> BalsamTask:
        task.dry_run = True
        logger.info(f"Test (No submit) Runline: {task.runline} ({_sizes(placement)}, site {task.app.pyobj.site})")
        task.poll()
        self.list_of_tasks.append(task)
        return task

    def _wait_on_start(self, task: BalsamTask, fail_time: float | None = None) -> None:
        """Block until the task is polled as running or ended, or for ``fail_time`` seconds."""
        deadline = None if fail_time is None else time.monotonic() + fail_time
        while True:
            task.poll()
            if task.state not in NOT_STARTED_STATES:
                return
            # In the queue of a cluster that may take hours, and a worker that is a thread can't be ended otherwise.
            if self.comm is not None and self.manager_kill_received():
                return
            if deadline is not None and time.monotonic() >= deadline:
                logger.warning(f"Task {task.name} did not start within {fail_time:g} seconds; it stays submitted")
                return
            time.sleep(0.005)


def _items(name: str, value: Mapping[str, Any] | None) -> dict[str, Any]:
    """A dict of the caller's own. Raises ExecutorException for what is none."""
    jassert(value is None or isinstance(value, Mapping), f"{name} must be a dict, not {value!r}")
    return dict(value or {})


def _start_limit(wait_on_start: object) -> float | None:
    """The seconds that bound the wait; None does not. Raises ExecutorException for what is neither."""
    if wait_on_start is None or isinstance(wait_on_start, bool):
        return None
    if not isinstance(wait_on_start, Real) or not float(wait_on_start) >= 0:
        raise ExecutorException(f"wait_on_start={wait_on_start!r} must be True, False or a number of seconds")
    return float(wait_on_start)


def _texts(name: str, value: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(key): str(text) for key, text in _items(name, value).items()}


def _parts(value: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    is_list = value is None or (isinstance(value, (list, tuple)) and all(isinstance(part, Mapping) for part in value))
    jassert(is_list, f"partitions must be a list of dicts, not {value!r}")
    return [dict(part) for part in value or []] or None


def _sizes(placement: Placement) -> str:
    return f"{placement.num_procs} ranks: {placement.num_nodes} nodes x {placement.procs_per_node}"
