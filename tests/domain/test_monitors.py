"""Monitors: what a rule may be, and which field is named when it can't."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from balsam.domain.app import AppSpec
from balsam.domain.monitors import MAX_MONITORS, Monitor, MonitorAction, problems_of, tags_of

KILL, TAG, NOTIFY = MonitorAction.KILL, MonitorAction.TAG, MonitorAction.NOTIFY


@pytest.mark.parametrize(
    "monitor",
    [
        Monitor(KILL, pattern="CFL > [1-9]", restarts=2),
        Monitor(TAG, "run/energy.dat", not_finite=True, tags={"quality": "bad"}),
        Monitor(NOTIFY, pattern="^step", stalled_sec=600),
        Monitor(KILL, stalled_sec=1),
    ],
)
def test_sound_rules_have_no_problems(monitor: Monitor) -> None:
    assert list(problems_of({"it": monitor})) == []
    assert Monitor.from_view(asdict(monitor)) == monitor


@pytest.mark.parametrize(
    ("given", "where", "said"),
    [
        ({}, "monitors.it", "no rule"),
        ({"pattern": "(a"}, "monitors.it.pattern", "no regular expression"),
        ({"pattern": "a{99999999999999}"}, "monitors.it.pattern", "no regular expression"),
        ({"pattern": "x*"}, "monitors.it.pattern", "every line"),
        ({"pattern": "x" * 1001}, "monitors.it.pattern", "at most 1000"),
        ({"not_finite": True, "stalled_sec": 5}, "monitors.it.not_finite", "another monitor"),
        ({"not_finite": True, "file": "../x"}, "monitors.it.file", ".."),
        ({"not_finite": True, "file": "*.dat"}, "monitors.it.file", "one file"),
        ({"not_finite": True, "file": "."}, "monitors.it.file", "one file"),
        ({"stalled_sec": 0}, "monitors.it.stalled_sec", "between 1 and"),
        ({"stalled_sec": 5, "tags": {"a": "b"}}, "monitors.it.tags", "action tag"),
        ({"stalled_sec": 5, "action": TAG, "tags": {"a:b": "c"}}, "monitors.it.tags", "':'"),
        ({"stalled_sec": 5, "action": TAG, "restarts": 1}, "monitors.it.restarts", "action kill"),
        ({"stalled_sec": 5, "restarts": 101}, "monitors.it.restarts", "between 0 and 100"),
    ],
)
def test_faults_name_their_field(given: dict[str, Any], where: str, said: str) -> None:
    ((found, why),) = problems_of({"it": Monitor(**{"action": KILL, **given})})
    assert found == where
    assert said in why


def test_names_and_number_are_limited() -> None:
    sound = Monitor(KILL, not_finite=True)
    assert [where for where, _ in problems_of({"no name": sound})] == ["monitors.no name"]
    many = {f"m{number}": sound for number in range(MAX_MONITORS + 1)}
    assert [where for where, _ in problems_of(many)] == ["monitors"]


def test_tags_are_those_given_or_the_name() -> None:
    assert tags_of("bad", Monitor(TAG, not_finite=True)) == {"bad": "yes"}
    assert tags_of("bad", Monitor(TAG, not_finite=True, tags={"a": "b"})) == {"a": "b"}


def test_s15_rules_are_in_the_hash_and_apps_without_keep_theirs() -> None:
    """A launcher that does not know monitors refuses such an App for its hash, and runs it nowhere without them."""
    plain = AppSpec("hello", "echo hello")
    assert plain.content_hash == "7d797ef664289cf10bbaefd399caa8fe8e5fbb3effd03f4e35296984d1b0c177"
    watched = replace(plain, monitors={"bad": Monitor(KILL, not_finite=True)})
    again = replace(plain, monitors={"bad": Monitor(KILL, not_finite=True, restarts=1)})
    assert len({plain.content_hash, watched.content_hash, again.content_hash}) == 3
