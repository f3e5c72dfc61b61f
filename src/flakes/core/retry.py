"""How long to wait before trying again: exponential, capped, with jitter."""

from __future__ import annotations


def backoff_s(attempt: int, base_s: float, max_s: float, jitter: float) -> float:
    """Delay in seconds after the `attempt`-th try (from 1).

    Doubles from `base_s` up to `max_s`, then keeps between half and all of it ("equal jitter":
    half is certain, half is drawn), so that many tasks failing together do not return together.
    `jitter` is a number in [0, 1).
    """
    assert attempt >= 1
    assert 0.0 <= jitter < 1.0
    if base_s <= 0.0:
        return 0.0
    full_s = min(max_s, base_s * 2.0 ** min(attempt - 1, 62))
    return full_s / 2.0 + full_s / 2.0 * jitter
