"""Back-off: bounded, growing up to its cap, and spread by half."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flakes.core.retry import backoff_s

ATTEMPT = st.integers(1, 10_000)
SECONDS = st.floats(0.0, 86_400.0)
JITTER = st.floats(0.0, 1.0, exclude_max=True)


@given(ATTEMPT, SECONDS, SECONDS, JITTER)
def test_never_below_zero_and_never_over_the_cap(
    attempt: int, base: float, cap: float, jitter: float
) -> None:
    assert 0.0 <= backoff_s(attempt, base, cap, jitter) <= cap


@given(ATTEMPT, SECONDS, SECONDS, JITTER)
def test_grows_with_every_attempt_up_to_the_cap(
    attempt: int, base: float, cap: float, jitter: float
) -> None:
    now = backoff_s(attempt, base, cap, jitter)
    later = backoff_s(attempt + 1, base, cap, jitter)
    assert now <= later


@given(ATTEMPT, st.floats(0.001, 86_400.0), st.floats(0.001, 86_400.0), JITTER, JITTER)
def test_half_is_certain_and_half_is_drawn(
    attempt: int, base: float, cap: float, one: float, other: float
) -> None:
    full = min(cap, base * 2.0 ** min(attempt - 1, 62))
    assert backoff_s(attempt, base, cap, 0.0) == full / 2
    assert full / 2 <= backoff_s(attempt, base, cap, one) <= full
    if one < other:
        assert backoff_s(attempt, base, cap, one) <= backoff_s(attempt, base, cap, other)


def test_doubles_from_its_base() -> None:
    assert [backoff_s(n, 1.0, 20.0, 0.0) * 2 for n in range(1, 8)] == [1, 2, 4, 8, 16, 20, 20]


@given(ATTEMPT, SECONDS, JITTER)
def test_no_base_is_no_delay(attempt: int, cap: float, jitter: float) -> None:
    assert backoff_s(attempt, 0.0, cap, jitter) == 0.0
