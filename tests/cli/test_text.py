"""Text from agents and machines cannot act on the terminal, and short forms read well."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flakes.cli.render.text import clean, duration, excerpt, one_line, shortened, size


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        ("plain ✔ text\n\tindented", "plain ✔ text\n\tindented"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0\x1b\\sixel", "sixel"),
        ("a\x9b31mb", "ab"),
        ("a\x08\x07\x00b", "ab"),
        ("10%\r50%\r100%\n", "100%\n"),
        ("dos\r\nlines\r\n", "dos\nlines\n"),
        ("right\u202eleft", "rightleft"),
        ("half \x1b[", "half "),
    ],
)
def test_clean(dirty: str, expected: str) -> None:
    assert clean(dirty) == expected


@given(st.text(st.characters(codec="utf-8")))
def test_clean_leaves_nothing_that_a_terminal_acts_on(text: str) -> None:
    left = clean(text)
    assert not any(ord(c) < 32 and c not in "\n\t" for c in left)
    assert not any(0x7F <= ord(c) <= 0x9F for c in left)


def test_short_forms() -> None:
    assert [duration(s) for s in (0.25, 12.34, 245, 7620, 273600)] == [
        "250ms", "12.3s", "4m05s", "2h07m", "3d04h",
    ]  # fmt: skip
    assert [size(n) for n in (12, 4096, 3 * 1024**2, 5 * 1024**3)] == [
        "12 B", "4.0 KiB", "3.0 MiB", "5.0 GiB",
    ]  # fmt: skip
    assert shortened("abcdef", 4) == "abc…"
    assert one_line(" a\n b\t c ") == "a b c"


def test_an_excerpt_keeps_both_bounds_and_counts_the_rest() -> None:
    text = "\n".join(f"line {n}" for n in range(100))
    assert excerpt(text, 3, 1000) == ("line 0\nline 1\nline 2", 97)
    assert excerpt(text, 100, 14) == ("line 0\nline 1", 98)
    assert excerpt("x" * 50, 10, 10) == ("x" * 9 + "…", 0)
