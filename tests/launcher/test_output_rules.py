"""Lines and rules, without files: what is a line, what meets a rule, and when it is too long ago."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam.domain.monitors import Monitor, MonitorAction
from balsam.launcher.output_rules import LONGEST_LINE, Lines, Rule, rules_by_file

KILL = MonitorAction.KILL


def lines_of(*pieces: bytes) -> list[tuple[int, str]]:
    lines = Lines()
    return [line for piece in pieces for line in lines.feed(piece)] + lines.rest()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"a\nb\n", [(1, "a"), (2, "b")]),
        (b"a\n\n\nb", [(1, "a"), (4, "b")]),
        (b"a\r\nb\r\n", [(1, "a"), (2, "b")]),
        (b"1%\r2%\rdone\nend", [(1, "1%"), (1, "2%"), (1, "done"), (2, "end")]),
        (b"\xff\n", [(1, "\ufffd")]),
        (b"", []),
    ],
)
def test_lines_have_numbers(text: bytes, lines: list[tuple[int, str]]) -> None:
    assert lines_of(text) == lines


@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"\n", b"\r", b"\r\n", b"x" * LONGEST_LINE])))
def test_pieces_make_no_difference_and_no_line_is_too_long(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    found = lines_of(*pieces)
    assert all(0 < len(text) <= LONGEST_LINE for _, text in found)
    if not any(len(line) > LONGEST_LINE for line in whole.split(b"\n")):
        assert found == lines_of(whole)


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    lines = Lines()
    found = [line for _ in range(10) for line in lines.feed(b"x" * LONGEST_LINE)]
    assert len(found) == 10 and len(lines._begun) <= LONGEST_LINE


def met(monitor: Monitor, *texts: str, from_start: bool = True) -> str:
    found = Rule.of("it", monitor).read(list(enumerate(texts, 1)), from_start)
    return "" if found is None else found.message


def test_the_first_line_with_the_pattern_is_told() -> None:
    monitor = Monitor(KILL, "log", pattern=r"CFL > \d")
    assert met(monitor, "CFL > x", "so CFL > 1", "CFL > 2") == r"monitor it: log, line 2 has 'CFL > \\d': so CFL > 1"
    assert "line" not in met(monitor, "CFL > 1", from_start=False)
    assert met(monitor, "CFL > x") == ""


@pytest.mark.parametrize(
    ("line", "is_met"),
    [
        *((line, True) for line in ("nan", "E = -NaN", "1.0 inf 2.0", "[nan, 1]", "e=Infinity;", "x,1.#QNAN,y")),
        *((line, True) for line in ("1\tnan", "(nan)", "+inf")),
        *((line, False) for line in ("info: all well", "banana", "nano 3", "inf.dat", "no_nan", "1e30", "nan3", "-")),
    ],
)
def test_numbers_that_are_none(line: str, is_met: bool) -> None:
    assert bool(met(Monitor(KILL, not_finite=True), line)) is is_met


def test_a_file_that_does_not_change_is_stalled_after_its_time() -> None:
    rule = Rule.of("it", Monitor(KILL, "out", stalled_sec=10))
    assert rule.wait(9, False) is None
    assert rule.wait(5, True) is None, "it changed"
    assert rule.read([(1, "any line")], True) is None
    assert rule.wait(9, False) is None
    found = rule.wait(1, False)
    assert found is not None and found.message == "monitor it: out has not changed for 10 s"


def test_a_file_may_grow_without_the_line_that_is_waited_for() -> None:
    rule = Rule.of("it", Monitor(KILL, "out", pattern="^step", stalled_sec=10))
    assert rule.wait(9, True) is None
    assert rule.read([(1, "step 1")], True) is None
    assert rule.wait(9, True) is None
    rule.read([(2, "warning: no step")], True)
    found = rule.wait(1, True)
    assert found is not None and found.message == "monitor it: out had no line with '^step' for 10 s"


def test_each_file_is_read_once() -> None:
    one, two, other = Monitor(KILL, pattern="a"), Monitor(KILL, pattern="b"), Monitor(KILL, "x", pattern="a")
    assert rules_by_file({"one": one, "two": two, "other": other}) == {
        "job.out": {"one": one, "two": two},
        "x": {"other": other},
    }
