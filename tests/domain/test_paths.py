"""Containment of paths: a corpus, and everything hypothesis can think of."""

import posixpath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balsam.domain.paths import BadPath, contained

ESCAPES = [
    *("..", "../x", "a/../../b", "a/..", "/", "/etc/passwd", "//host/x", "", " ", ".", "./", "a/./..", "..//.."),
    *("a\0b", "a\nb", "a\tb", "a\x7fb", "\x1b[31m", "x" * 257, "\ud800", "a/../a", "/..", "a//../.."),
]


@pytest.mark.parametrize("path", ESCAPES)
def test_escapes_are_refused(path: str) -> None:
    with pytest.raises(BadPath, match="workdir"):
        contained(path)


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("a", "a"),
        ("runs//a/./b/", "runs/a/b"),
        ("...", "..."),
        ("a/..b", "a/..b"),
        (".hidden/x", ".hidden/x"),
        ("~root", "~root"),
        ("-rf", "-rf"),
        ("%2e%2e/x", "%2e%2e/x"),
        ("ä b/ü", "ä b/ü"),
        ("x" * 256, "x" * 256),
    ],
)
def test_ordinary_names_pass_in_normal_form(path: str, normal: str) -> None:
    assert contained(path) == normal
    assert contained(normal) == normal


def test_the_text_names_what_it_is_about() -> None:
    with pytest.raises(BadPath, match="local_path '/x' is absolute"):
        contained("/x", "local_path")
    with pytest.raises(BadPath, match="at most 3"):
        contained("abcd", max_length=3)


@settings(max_examples=3000)
@given(st.text(st.sampled_from("ab./-_~ \\é\n\0"), max_size=12) | st.text(max_size=300))
def test_nothing_that_passes_leaves_the_root(path: str) -> None:
    try:
        normal = contained(path)
    except BadPath:
        return
    joined = posixpath.normpath(posixpath.join("/root", normal))
    assert joined.startswith("/root/")
    assert joined == posixpath.join("/root", normal)
    assert contained(normal) == normal
    assert all(ord(char) >= 32 for char in normal)
