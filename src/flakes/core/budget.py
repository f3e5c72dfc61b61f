"""How much of a shared budget one attempt may reserve: pure arithmetic.

What is bounded is spent after the fact: a model call says what it took when it is over. So an attempt reserves a
slice before it spends, and asks for the next one when that is used up. Slices get smaller as the rest does, so that
attempts side by side share it, and what is spent too much is at most what calls that are under way take.
"""

from __future__ import annotations

from typing import Final

SHARE: Final = 4
"""A slice is this part of what is left."""
LEAST: Final = 100
"""But not less than this part of the whole."""


def slice_of(limit: int, others: int, spent: int) -> int | None:
    """Up to where an attempt may spend now, given what it has spent and what others have spent or reserved.
    None when nothing is left."""
    left = limit - others - spent
    if left <= 0:
        return None
    return spent + min(left, max(1, left // SHARE, limit // LEAST))


def extended(limit: int, spent: int, first: int) -> int:
    """The bound after its owner allowed as much again: on top of what was spent, if that was more."""
    return max(limit, spent) + max(1, first)
