"""kill -9 of every process at every effect of a harness: the result and the children are those of a run without (F05).

Here a moment for each kind of process, by a printed seed. FLAKES_TEST_KILLS=all tries each kind at each effect, and
FLAKES_TEST_KILLS=worker:3,server:17 those that are named.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from e2e.kills import CHILDREN, EFFECTS, PHASES, VICTIMS, Theatre
from e2e.stage import Stage, say, seeded

pytestmark = pytest.mark.timeout(240)

AGAIN = {"worker": (), "server": (), "postgresql": (), "host": ()}
"""Kinds whose death lets no child run again."""


def _chosen() -> list[tuple[str, int | None]]:
    asked = os.environ.get("FLAKES_TEST_KILLS", "")
    if asked == "all":
        return [(victim, effect) for effect in range(EFFECTS) for victim in VICTIMS]
    if asked:
        return [(each.partition(":")[0], int(each.partition(":")[2])) for each in asked.split(",")]
    return [(victim, None) for victim in VICTIMS]


@pytest.fixture(scope="module")
def theatre(stage: Stage) -> Theatre:
    stage.up()
    return Theatre(stage)


def test_without_a_kill(theatre: Theatre) -> None:
    began_s = time.monotonic()
    life = theatre.begin()
    theatre.end(life)
    say(f"it takes {time.monotonic() - began_s:.2f} s")
    theatre.check(life)
    assert {key for key in CHILDREN if CHILDREN[key] != "CANCELLED"} - {"live"} <= set(theatre.executions(life))
    assert set(theatre.executions(life).values()) == {1}


@pytest.mark.parametrize(("victim", "effect"), _chosen())
def test_a_kill_changes_nothing(theatre: Theatre, victim: str, effect: int | None) -> None:
    seed, rng = seeded()
    if effect is None:
        effect = rng.randrange(EFFECTS)
    else:
        rng = random.Random(f"{seed} {victim} {effect}")
    phase = rng.choice(PHASES)
    began_s = time.monotonic()
    life = theatre.kill_at(effect, phase, victim, rng)
    killed_s = time.monotonic()
    theatre.end(life)
    say(f"KILL {victim} at effect {effect} {phase}: {killed_s - began_s:.2f} s before, {time.monotonic() - killed_s:.2f} s after; {life.killed}")
    theatre.check(life)
    executions = theatre.executions(life)
    if victim in AGAIN:
        assert set(executions.values()) <= {1}, (life.killed, executions)
    assert max(executions.values(), default=0) <= 2, (life.killed, executions)
