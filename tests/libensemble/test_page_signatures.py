"""Every method, parameter and default of the product page exists, in the page's order."""

from __future__ import annotations

import ast
import inspect

import pytest
from libensemble.executors.executor import Executor, Task

from balsam.libensemble import BalsamExecutor, BalsamTask

PAGE = {
    BalsamExecutor: """
__init__()
register_app(BalsamApp, app_name=None, calc_type=None, desc=None, precedent=None)
submit_allocation(site_id, num_nodes, wall_time_min, job_mode='mpi', queue='local', project='local', optional_params={}, filter_tags={}, partitions=[])
revoke_allocation(allocation, timeout=60)
submit(calc_type=None, app_name=None, app_args=None, num_procs=None, num_nodes=None, procs_per_node=None, max_tasks_per_node=None, machinefile=None, gpus_per_rank=0, transfers={}, workdir='', dry_run=False, wait_on_start=False, extra_args={}, tags={})
""",  # noqa: E501
    BalsamTask: """
__init__(app=None, app_args=None, workdir=None, stdout=None, stderr=None, workerid=None)
poll()
wait(timeout=None)
kill()
""",
}
CASES = [(owner, line) for owner, text in PAGE.items() for line in text.strip().splitlines()]
# libEnsemble's own Executor.kill() calls task.kill(wait_time), so that this one parameter is more than the page says.
BEYOND_THE_PAGE = {"kill": {"wait_time": 60}}


def on_page(line: str) -> tuple[str, dict[str, object]]:
    """Name and parameters (with defaults, or `inspect.Parameter.empty`) of a line of the page."""
    function = ast.parse(f"def {line}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    names = [argument.arg for argument in function.args.args]
    values: list[object] = [ast.literal_eval(value) for value in function.args.defaults]
    return function.name, dict(zip(names, [inspect.Parameter.empty] * (len(names) - len(values)) + values, strict=True))


@pytest.mark.parametrize(
    ("owner", "line"), CASES, ids=[f"{owner.__name__}.{line.split('(')[0]}" for owner, line in CASES]
)
def test_signature_is_the_page_s(owner: type, line: str) -> None:
    name, expected = on_page(line)
    found = dict(inspect.signature(getattr(owner, name)).parameters)
    found.pop("self")
    assert {key: parameter.default for key, parameter in found.items()} == expected | BEYOND_THE_PAGE.get(name, {})
    assert list(found)[: len(expected)] == list(expected)
    assert inspect.getdoc(getattr(owner, name))


def test_classes_are_libensemble_s_own_kind() -> None:
    assert issubclass(BalsamExecutor, Executor)
    assert issubclass(BalsamTask, Task)


@pytest.mark.parametrize("module", ["balsam_executor", "balsam_executors"])
def test_both_module_names_lead_to_the_same_classes(module: str) -> None:
    namespace: dict[str, object] = {}
    exec(f"from libensemble.executors.{module} import BalsamExecutor, BalsamTask", namespace)
    assert namespace["BalsamExecutor"] is BalsamExecutor
    assert namespace["BalsamTask"] is BalsamTask
