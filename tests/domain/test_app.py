"""Apps: what a definition may be, and the hash by which a Site pins it."""

from dataclasses import replace

import pytest

from balsam.domain.app import AppParameter, AppSpec, TransferSlot, with_template_parameters
from balsam.domain.lifecycle import Hook
from balsam.domain.monitors import Monitor, MonitorAction
from balsam.domain.template import TemplateError

HELLO = AppSpec("hello", "echo {{ name }} {{ n }}", {"name": AppParameter(), "n": AppParameter(False, "1")})


def test_a_sound_definition_has_no_problems() -> None:
    assert list(HELLO.problems()) == []
    assert HELLO.required_parameters == {"name"}
    assert HELLO.optional_parameters == {"n"}
    assert HELLO.defaults == {"n": "1"}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (replace(HELLO, name="not a name"), "Python identifier"),
        (replace(HELLO, name="x" * 201), "at most 200"),
        (replace(HELLO, command_template=None), "command_template is missing"),
        (replace(HELLO, command_template="echo '{{ name }}' {{ n }}"), "single quotes"),
        (replace(HELLO, command_template="echo {{ name }}"), "not used in command_template: n"),
        (replace(HELLO, parameters={"name": AppParameter(True, "x"), "n": AppParameter(False, "1")}), "choose one"),
        (replace(HELLO, parameters={"name": AppParameter(), "n": AppParameter(False)}), "needs a default"),
        (replace(HELLO, parameters={"a b": AppParameter()}), "parameter name 'a b'"),
    ],
)
def test_faults_are_named(spec: AppSpec, said: str) -> None:
    assert any(said in problem for _, problem in spec.problems())


def test_faults_have_their_place() -> None:
    slot, monitor = TransferSlot(True, "in", "../x"), Monitor(MonitorAction.KILL, pattern="(")
    spec = replace(HELLO, transfers={"slot": slot}, cleanup_files=["/abs"], monitors={"m": monitor})
    places = [where for where, _ in spec.problems()]
    assert places[:2] == ["transfers.slot.local_path", "cleanup_files"]
    assert places[2].startswith("monitors.m")


def test_parameters_that_only_the_template_names_are_required() -> None:
    assert with_template_parameters("echo {{ a }} {{ b }}", {"b": AppParameter(False, "x")}) == {
        "a": AppParameter(),
        "b": AppParameter(False, "x"),
    }
    with pytest.raises(TemplateError):
        with_template_parameters("echo {{ a", {})


@pytest.mark.parametrize(
    "other",
    [
        replace(HELLO, name="hallo"),
        replace(HELLO, command_template="echo {{ name }}  {{ n }}"),
        replace(HELLO, parameters={"name": AppParameter(), "n": AppParameter(False, "2")}),
        replace(HELLO, environment_variables={"A": "1"}),
        replace(HELLO, transfers={"x": TransferSlot(True, "in", "x")}),
        replace(HELLO, cleanup_files=("*.tmp",)),
        replace(HELLO, hooks=frozenset({Hook.PREPROCESS})),
        replace(HELLO, source_code="def run(self): ..."),
    ],
)
def test_s15_everything_that_decides_what_runs_is_in_the_hash(other: AppSpec) -> None:
    assert HELLO.content_hash != other.content_hash
    assert len(HELLO.content_hash) == 64


def test_the_hash_does_not_depend_on_the_order_of_writing() -> None:
    turned = replace(HELLO, parameters=dict(reversed(HELLO.parameters.items())))
    assert turned.content_hash == HELLO.content_hash
    hooks = replace(HELLO, hooks=frozenset(Hook))
    assert hooks.content_hash == replace(HELLO, hooks=frozenset(reversed(list(Hook)))).content_hash
