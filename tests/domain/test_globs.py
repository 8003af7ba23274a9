"""Patterns of cleanup_files: what they match, where a walk has to look, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam.domain.globs import BadPattern, Glob


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*.tmp", ["a.tmp", ".tmp", ".hidden.tmp"], ["a.tmp2", "x/a.tmp", "tmp"]),
        ("core", ["core"], ["core.1", "x/core"]),
        ("x/*.o", ["x/a.o"], ["a.o", "x/y/a.o", "xx/a.o"]),
        ("**/*.o", ["a.o", "x/a.o", "x/y/a.o"], ["a.c", "x/o"]),
        ("x/**", ["x/a", "x/y/z"], ["a", "y/x/a"]),
        ("**", ["a", "x/y"], []),
        ("a/**/b/*.c", ["a/b/x.c", "a/p/q/b/x.c", "a/b/b/x.c"], ["b/x.c", "a/x.c"]),
        ("./run[12]//log?", ["run1/log1", "run2/logx"], ["run3/log1", "run1/log", "run1/log12"]),
        ("a\\b(c)", ["a\\b(c)"], ["ab(c)"]),
    ],
)
def test_what_matches(pattern: str, matching: list[str], other: list[str]) -> None:
    glob = Glob.parse(pattern)
    assert [path for path in matching if not glob.matches(path.split("/"))] == []
    assert [path for path in other if glob.matches(path.split("/"))] == []


@pytest.mark.parametrize("pattern", ["", "/etc/passwd", "../x", "a/../../b", ".", "//", "a\nb", "\0", "x" * 300])
def test_patterns_that_lead_out_or_name_nothing_are_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        Glob.parse(pattern)


names = st.text(st.sampled_from("ab.*"), min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
patterns = st.lists(st.one_of(names, st.just("**"), st.just("*")), min_size=1, max_size=4).map("/".join)
paths = st.lists(names, min_size=1, max_size=5)


@given(patterns, paths)
def test_a_walk_finds_whatever_matches(pattern: str, path: list[str]) -> None:
    glob = Glob.parse(pattern)
    if glob.matches(path):
        assert all(glob.may_lie_below(path[:depth]) for depth in range(len(path)))
