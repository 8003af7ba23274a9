"""Monitors: small rules of an App on what its Jobs write, checked at the Site while they run.

What a rule may be, and what is wrong with one that can't be; used by SDK, service and launcher alike. The launcher
judges by them (`launcher/output_rules.py`), whether or not anybody else is there.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from balsam.domain.transfers import WHOLE_WORKDIR, is_pattern, local_path_problem

OUTPUT_NAME = "job.out"
MAX_MONITORS = 16
MAX_PATTERN_LENGTH = 1000
MAX_STALLED_SEC = 30 * 24 * 3600
MAX_RESTARTS = 100


class MonitorAction(StrEnum):
    """What is done when a rule is met, once in each attempt."""

    NOTIFY = "notify"  # an event of the Job
    TAG = "tag"  # an event, and tags of the Job
    KILL = "kill"  # the attempt ends in an error of the class `monitor`


@dataclass(frozen=True, slots=True)
class Monitor:
    """A rule. `file` is relative to the workdir; `pattern` is searched in each line of it.

    With `stalled_sec` it is met when the file did not grow for so long, or with a pattern as well when no line had it;
    else when a line has the pattern, or with `not_finite` a number that is none. `tags` are those of the action `tag`,
    by default the name of the rule; `restarts` is how many more attempts may follow one that was killed.

    >>> Monitor(MonitorAction.KILL, pattern="CFL > 1").file
    'job.out'
    """

    action: MonitorAction
    file: str = OUTPUT_NAME
    pattern: str | None = None
    not_finite: bool = False
    stalled_sec: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    restarts: int = 0

    @classmethod
    def from_view(cls, view: Mapping[str, Any]) -> "Monitor":
        """Out of JSON. Raises ValueError for an action that is none."""
        return cls(**{**view, "action": MonitorAction(view["action"])})

    def problems(self) -> Iterator[tuple[str, str]]:
        """(field, what is wrong with it)."""
        if not self.not_finite and self.pattern is None and self.stalled_sec is None:
            yield "", "has no rule; give it a pattern, not_finite or stalled_sec"
        if self.not_finite and (self.pattern is not None or self.stalled_sec is not None):
            yield "not_finite", "can't stand beside pattern or stalled_sec; make another monitor of it"
        if self.file == WHOLE_WORKDIR or is_pattern(self.file):
            yield "file", f"{self.file!r} is not the name of one file"
        elif why := local_path_problem(self.file):
            yield "file", why
        if self.pattern is not None:
            yield from _pattern_problems(self.pattern)
        if self.stalled_sec is not None and not 1 <= self.stalled_sec <= MAX_STALLED_SEC:
            yield "stalled_sec", f"must be between 1 and {MAX_STALLED_SEC} seconds"
        if self.tags and self.action is not MonitorAction.TAG:
            yield "tags", f"are for the action tag, and the action is {self.action}"
        if any(not key or ":" in key for key in self.tags):
            yield "tags", "a tag's name must not be empty or contain ':'"
        if self.restarts and self.action is not MonitorAction.KILL:
            yield "restarts", f"are for the action kill, and the action is {self.action}"
        if not 0 <= self.restarts <= MAX_RESTARTS:
            yield "restarts", f"must be between 0 and {MAX_RESTARTS}"


def problems_of(monitors: Mapping[str, Monitor]) -> Iterator[tuple[str, str]]:
    """(where, what is wrong) with the monitors of an App."""
    if len(monitors) > MAX_MONITORS:
        yield "monitors", f"there are {len(monitors)}; an App may have {MAX_MONITORS}"
    for name, monitor in monitors.items():
        where = f"monitors.{name}"
        if not name.isidentifier():
            yield where, f"the name {name!r} must be a Python identifier"
        for part, why in monitor.problems():
            yield (f"{where}.{part}" if part else where), why


def tags_of(name: str, monitor: Monitor) -> dict[str, str]:
    """The tags that a monitor of the action `tag` gives."""
    return dict(monitor.tags) or {name: "yes"}


def _pattern_problems(pattern: str) -> Iterator[tuple[str, str]]:
    if len(pattern) > MAX_PATTERN_LENGTH:
        yield "pattern", f"has {len(pattern)} characters; at most {MAX_PATTERN_LENGTH} are allowed"
        return
    try:
        found = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        yield "pattern", f"is no regular expression: {error}"
        return
    if found.search(""):
        yield "pattern", "fits every line, also an empty one"
