"""kill -9 of every process at every effect of a harness: the result and the children are those of a run without (F05).

Here each kind of process once, at moments of a printed seed. FLAKES_TEST_KILLS=all tries each kind at each effect, and
FLAKES_TEST_KILLS=worker:3,server:17 those that are named.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from e2e.kills import CHILDREN, EFFECTS, PHASES, VICTIMS, Moment, Theatre
from e2e.stage import Stage, say, seeded

pytestmark = pytest.mark.timeout(240)

HARMLESS = ("worker", "server", "postgresql", "host")
"""Kinds whose death lets no child run again."""
CHILDLESS = 34
"""The effect with which the last child is cancelled."""
ASKED = os.environ.get("FLAKES_TEST_KILLS", "")


def _chosen() -> list[tuple[str, int]]:
    # When the last of them is cancelled there is no child to kill any more.
    if ASKED == "all":
        return [(victim, effect) for effect in range(EFFECTS) for victim in VICTIMS
                if victim != "child" or effect < CHILDLESS]
    named = [each.partition(":") for each in ASKED.split(",") if each]
    return [(victim, int(effect)) for victim, _, effect in named]


@pytest.fixture(scope="module")
def theatre(stage: Stage) -> Theatre:
    stage.up()
    return Theatre(stage)


@pytest.fixture(scope="module")
def seed() -> int:
    return seeded()[0]


def test_without_a_kill(theatre: Theatre) -> None:
    began_s = time.monotonic()
    life = theatre.begin()
    theatre.end(life)
    say(f"it takes {time.monotonic() - began_s:.2f} s")
    theatre.check(life)
    assert {key for key in CHILDREN if CHILDREN[key] != "CANCELLED"} - {"live"} <= set(theatre.executions(life))
    assert set(theatre.executions(life).values()) == {1}, theatre.executions(life)


@pytest.mark.skipif(bool(ASKED), reason="others are asked for")
@pytest.mark.parametrize("part", [0, 1])
def test_kills_change_nothing(theatre: Theatre, seed: int, part: int) -> None:
    """Three of them in one run, far enough apart that each is waited for in time."""
    say(f"FLAKES_TEST_SEED={seed}")
    victims = random.Random(seed).sample(VICTIMS, len(VICTIMS))[part::2]
    rng = random.Random(f"{seed} {part}")
    third = EFFECTS // 3
    moments = [
        Moment(third * n + rng.randrange(third - 3), rng.choice(PHASES), victim) for n, victim in enumerate(victims)
    ]  # fmt: skip
    tried(theatre, moments, rng)


@pytest.mark.parametrize(("victim", "effect"), _chosen())
def test_a_kill_changes_nothing(theatre: Theatre, seed: int, victim: str, effect: int) -> None:
    rng = random.Random(f"{seed} {victim} {effect}")
    tried(theatre, [Moment(effect, rng.choice(PHASES), victim)], rng)


def tried(theatre: Theatre, moments: list[Moment], rng: random.Random) -> None:
    began_s = time.monotonic()
    life = theatre.kill_at(moments, rng)
    killed_s = time.monotonic()
    theatre.end(life)
    say(f"KILLED {moments}: {killed_s - began_s:.2f} s before, {time.monotonic() - killed_s:.2f} s after; {life.killed}")
    theatre.check(life)
    executions = theatre.executions(life)
    again = sum(each.victim not in HARMLESS for each in moments)
    assert max(executions.values(), default=0) <= 1 + again, (life.killed, executions)
