"""Keys of people and opaque ids."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flakes.core.keys import format_id, has_prefix, is_key, key_from
from flakes.core.limits import KEY_LENGTH_MAX

MS = st.integers(0, (1 << 48) - 1)
BITS = st.integers(0, (1 << 80) - 1)


@pytest.mark.parametrize("key", ["a", "0", "a-b", "release-2-1", "x" * KEY_LENGTH_MAX])
def test_good_keys(key: str) -> None:
    assert is_key(key)


@pytest.mark.parametrize(
    "key",
    ["", "-", "a-", "-a", "a--b", "A", "a_b", "a b", "a\n", "a.b", "ä", "x" * (KEY_LENGTH_MAX + 1)],
)
def test_bad_keys(key: str) -> None:
    assert not is_key(key)


@given(st.text(max_size=200))
def test_any_text_gives_a_key(text: str) -> None:
    assert is_key(key_from(text))


@given(st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,6}", fullmatch=True))
def test_a_key_stays_as_it_is(key: str) -> None:
    assert key_from(key) == key


def test_long_text_is_cut_at_a_word() -> None:
    assert key_from("word " * 40) == "-".join(["word"] * 12)
    assert key_from("x" * 100) == "x" * KEY_LENGTH_MAX
    assert key_from("???", "nothing") == "nothing"


@given(MS, BITS)
def test_an_id_is_its_prefix_and_26_digits_and_never_a_key(at_ms: int, bits: int) -> None:
    made = format_id("task", at_ms, bits)
    assert re.fullmatch(r"task_[0-9a-hjkmnp-tv-z]{26}", made)
    assert has_prefix(made, "task")
    assert not has_prefix(made, "run")
    assert not is_key(made)


@given(MS, BITS, MS, BITS)
def test_ids_sort_by_time_and_are_as_different_as_their_numbers(
    at: int, bits: int, other_at: int, other_bits: int
) -> None:
    one, other = format_id("run", at, bits), format_id("run", other_at, other_bits)
    assert (one < other) == ((at, bits) < (other_at, other_bits))
    assert (one == other) == ((at, bits) == (other_at, other_bits))
