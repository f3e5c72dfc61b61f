"""Slices of a shared budget."""

from __future__ import annotations

import random

from flakes.core.budget import extended, slice_of


def test_slices_get_smaller_as_the_rest_does() -> None:
    assert slice_of(1000, 0, 0) == 250
    assert slice_of(1000, 250, 0) == 187
    assert slice_of(1000, 0, 999) == 1000
    assert slice_of(1000, 400, 600) is None
    assert slice_of(1000, 0, 2000) is None
    assert slice_of(0, 0, 0) is None


def test_attempts_side_by_side_never_reserve_more_than_there_is(request: object) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    draw = random.Random(seed)
    for _ in range(200):
        limit = draw.randrange(1, 100_000)
        spent, granted = [0] * 8, [0] * 8
        while True:
            who = draw.randrange(8)
            others = sum(max(s, g) for n, (s, g) in enumerate(zip(spent, granted, strict=True)) if n != who)
            upto = slice_of(limit, others, spent[who])
            if upto is None:
                break
            granted[who] = upto
            spent[who] = draw.randint(spent[who], upto)
            assert sum(map(max, spent, granted)) <= limit
        assert sum(map(max, spent, granted)) <= limit


def test_as_much_again() -> None:
    assert extended(1000, 1000, 1000) == 2000
    assert extended(2000, 2300, 1000) == 3300
    assert extended(0, 0, 0) == 1
