"""Logical paths: what they are made into, what is refused, and what covers what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flakes.core.paths import PathRefused, logical_path, self_and_ancestors


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a", "a"), ("a/b.py", "a/b.py"), ("./a", "a"), ("a//b/", "a/b"), ("a/./b", "a/b"),
        (" a", " a"), ("..a/b..", "..a/b.."), ("\u00fc/%_\\", "\u00fc/%_\\"), (".git", ".git"),
    ],
)  # fmt: skip
def test_a_path_is_normalised(text: str, path: str) -> None:
    assert logical_path(text) == path


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"), (".", "empty"), ("./", "empty"), ("/", "absolute"), ("/etc", "absolute"),
        ("..", "`..`"), ("a/../b", "`..`"), ("a/..", "`..`"), ("a\0b", "control"), ("a\nb", "control"),
    ],
)  # fmt: skip
def test_what_is_no_logical_path_is_refused(text: str, why: str) -> None:
    with pytest.raises(PathRefused, match=why):
        logical_path(text)


@given(st.text(alphabet="ab./", max_size=12))
def test_normalising_again_changes_nothing(text: str) -> None:
    try:
        path = logical_path(text)
    except PathRefused:
        return
    assert logical_path(path) == path
    assert self_and_ancestors(path)[0] == path
    for above in self_and_ancestors(path)[1:]:
        assert path.startswith(f"{above}/")
    assert len(self_and_ancestors(path)) == path.count("/") + 1
