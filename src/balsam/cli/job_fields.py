"""Options that describe a Job: those of `job create`, and those that `job modify` can change."""

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from balsam.cli.output import parse_pairs

Command = Callable[..., Any]


def json_pairs(option: str) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], dict[str, Any]]:
    """A click callback that turns repeated KEY=JSON into a dict."""
    pairs = parse_pairs(option)

    def parse(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, text in pairs(ctx, param, values).items():
            try:
                found[key] = json.loads(text)
            except ValueError as error:
                raise click.BadParameter(f"{key}={text} is no JSON ({error}); a text needs quotes of its own") from None
        return found

    return parse


def pairs_option(*names: str, text: str) -> Callable[[Command], Command]:
    """A repeatable KEY=VALUE option; the last but one of `names` is the one that messages tell."""
    return click.option(*names, multiple=True, metavar="KEY=VALUE", callback=parse_pairs(names[-2]), help=text)


def json_option_of(*names: str, text: str) -> Callable[[Command], Command]:
    """A repeatable KEY=JSON option."""
    return click.option(*names, multiple=True, metavar="KEY=JSON", callback=json_pairs(names[-2]), help=text)


def _shape(name: str, *short: str, default: Any, text: str, kind: Any) -> Callable[[bool], Any]:
    def option(for_new: bool) -> Any:
        given = {"default": default, "show_default": default is not None} if for_new else {"default": None}
        return click.option(*short, f"--{name}", type=kind, help=text, **given)

    return option


_ONE_OR_MORE = click.IntRange(min=1)
_SHAPE = (
    _shape("num-nodes", "-n", default=1, text="Nodes.", kind=_ONE_OR_MORE),
    _shape("ranks-per-node", "-rpn", default=1, text="Ranks on each node.", kind=_ONE_OR_MORE),
    _shape("threads-per-rank", "-tpr", default=1, text="Threads of each rank.", kind=_ONE_OR_MORE),
    _shape("threads-per-core", "-tpc", default=1, text="Hardware threads to use of each core.", kind=_ONE_OR_MORE),
    _shape("gpus-per-rank", "-g", default=0.0, text="GPUs of each rank.", kind=click.FloatRange(min=0)),
    _shape("node-packing-count", "-npc", default=1, text="How many such Jobs share a node.", kind=_ONE_OR_MORE),
    _shape("priority", default=0, text="Jobs with a higher one run first.", kind=click.INT),
    _shape("max-attempts", default=None, text="Attempts before it fails for good.", kind=_ONE_OR_MORE),
)
_WALL_TIME = ("--wall-time-min", "Estimate of the run time in minutes; 0: unknown.", click.IntRange(min=0))


def shape_of_new_job(command: Command) -> Command:
    """Resources, priority and attempts of a new Job, under the names of its fields."""
    name, text, kind = _WALL_TIME
    for option in reversed(_SHAPE):
        command = option(True)(command)
    return click.option("-t", name, type=kind, default=1, show_default=True, help=text)(command)


def changed_fields(command: Command) -> Command:
    """The options of `job modify`; the command gets `changes`, fields of `JobPatch`."""

    @wraps(command)
    def with_changes(
        *,
        set_tags: dict[str, str],
        unset_tags: tuple[str, ...],
        parameters: dict[str, str],
        json_parameters: dict[str, Any],
        unset_parameters: tuple[str, ...],
        data: dict[str, Any],
        launch_params: dict[str, str],
        **options: Any,
    ) -> Any:
        merged = {
            "merge_tags": set_tags | dict.fromkeys(unset_tags),
            "merge_parameters": parameters | json_parameters | dict.fromkeys(unset_parameters),
            "merge_data": data,
        }
        plain = {name: options.pop(name) for name in _SHAPE_FIELDS}
        changes = {name: value for name, value in merged.items() if value}
        changes |= {name: value for name, value in plain.items() if value is not None}
        changes |= {"launch_params": launch_params} if launch_params else {}
        return command(changes=changes, **options)

    wrapped: Command = with_changes
    name, text, kind = _WALL_TIME
    for option in reversed((*_CHANGES, *(shape(False) for shape in _SHAPE))):
        wrapped = option(wrapped)
    return click.option(name, type=kind, help=text)(wrapped)


_SHAPE_FIELDS = (
    *("num_nodes", "ranks_per_node", "threads_per_rank", "threads_per_core", "gpus_per_rank"),
    *("node_packing_count", "wall_time_min", "priority", "max_attempts"),
)
_CHANGES = (
    pairs_option("--set-tag", "set_tags", text="Add or replace a tag; repeat."),
    click.option("--unset-tag", "unset_tags", multiple=True, metavar="KEY", help="Remove a tag; repeat."),
    pairs_option("-p", "--param", "parameters", text="Set a parameter to a text; repeat."),
    json_option_of("--param-json", "json_parameters", text="Set a parameter to a JSON value; repeat."),
    click.option("--unset-param", "unset_parameters", multiple=True, metavar="KEY", help="Remove a parameter; repeat."),
    json_option_of("--data-json", "data", text="Set a key of `data`; null removes it; repeat."),
    pairs_option("-lp", "--launch-param", "launch_params", text="Replace the launch parameters by these; repeat."),
)
