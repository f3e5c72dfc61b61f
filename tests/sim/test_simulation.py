"""The fault simulation over seeds (F01, F02, F03, F07, F12, F19, F20, F28, F30).

`FLAKES_SIM_SEED=n` runs that one seed, `FLAKES_SIM_SEEDS=n` that many. A failure prints the seed and the last
steps before it.
"""

from __future__ import annotations

import os

import pytest

from sim.simulation import simulation

pytestmark = pytest.mark.anyio

STEPS = 500
_ONE = os.environ.get("FLAKES_SIM_SEED")
SEEDS = [int(_ONE)] if _ONE else list(range(int(os.environ.get("FLAKES_SIM_SEEDS", "30"))))


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_happens_nothing_is_lost_doubled_or_wedged(database: str, seed: int) -> None:
    async with simulation(database, seed) as made:
        try:
            await made.run(STEPS)
        except BaseException:
            print(f"FLAKES_SIM_SEED={seed} fails after {len(made.trace)} steps; the last ones:")  # noqa: T201
            print("\n".join(made.trace[-60:]))  # noqa: T201
            raise
