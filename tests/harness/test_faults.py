"""kill -9 at every effect of a harness of thirty: the result and its children are those of a run without faults (F05).

The process is a call of `run` here, and a kill is an engine that goes away: before it did what it was asked for, or
after, with its answer lost. What was written and done stays. `tests/e2e/test_harness_kills.py` kills real processes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from flakes.harness.cases import Case, Done, Failed, FixtureChild
from flakes.harness.checking.fixtures import FixtureEngine
from flakes.harness.engine import Condition, Entry, Settled
from flakes.harness.errors import EngineGone
from flakes.harness.running import Ended, run
from harness.modules import given

pytestmark = pytest.mark.timeout(240)

BODY = """
    said = [ctx.random() > 2, str(ctx.now())]
    three = await ctx.all(ctx.command("x", title=f"t{n}") for n in range(3))
    await asyncio.sleep(5)
    async with ctx.group("g", join="all_settled") as group:
        for n in range(3):
            group.command("y", title=f"g{n}")
            said.append(ctx.random())
    best = await ctx.any(*(ctx.command("z", title=f"z{n}") for n in range(3)), cancel_rest=True)
    try:
        async with asyncio.timeout(9):
            await ctx.signal("never")
    except TimeoutError:
        said.append(await ctx.workpads.save("timeout"))
    async def branch(n):
        await ctx.sleep(3 - n)
        first = await ctx.command("b", title=f"b{n}")
        return (await first_of(ctx.command("c", inputs=[first], title=f"c{n}"))).text
    async def first_of(child):
        return await child.settled()
    said += await asyncio.gather(*(branch(n) for n in range(3)))
    said.append(await ctx.signal("go"))
    return ctx.succeeded(said=said, best=best.key, group=[each.status for each in group.results])
"""


class Mortal(FixtureEngine):
    """Goes away at some of its calls, counted over all attempts."""

    def __init__(self, case: Case, dies: Sequence[tuple[int, bool]]) -> None:
        super().__init__(case)
        self._dies = dict(dies)
        self.calls = 0

    def _mortal(self, what: Any) -> Any:
        self.calls += 1
        after = self._dies.get(self.calls)
        if after is False:
            raise EngineGone("killed before")
        answer = what()
        if after:
            raise EngineGone("killed after")
        return answer

    def append_journal(self, at: int, entries: Sequence[Entry]) -> None:
        return self._mortal(lambda: super(Mortal, self).append_journal(at, entries))

    def perform(self, operation: str, body: dict[str, Any]) -> Any:
        return self._mortal(lambda: super(Mortal, self).perform(operation, body))

    def wait(self, conditions: Sequence[Condition], hold_s: float | None) -> list[Settled]:
        return self._mortal(lambda: super(Mortal, self).wait(conditions, hold_s))


def children(child: FixtureChild) -> Any:
    return Failed("no") if child.title in ("g1", "z0") else Done(child.title)


def lived(dies: Sequence[tuple[int, bool]] = ()) -> tuple[Ended, Mortal]:
    engine = Mortal(Case("case", children, signals={"go": [1, 2]}), dies)
    for _ in range(500):
        try:
            ended = run(given(BODY), engine)
        except EngineGone:
            continue
        if ended.status != "yielded":
            return ended, engine
    raise AssertionError("it does not end")


def seen(ended: Ended, engine: Mortal) -> Any:
    """All that a kill must not change. Times and random numbers of a turn that was not written down yet may."""
    assert ended.outcome is not None, ended.error
    data = dict(ended.outcome.data)
    data["said"] = [each for each in data["said"] if not isinstance(each, float) and "-01-" not in str(each)]
    kept = [(each.seen.key, each.seen.definition, each.status) for each in engine._children.values()]
    return data, kept, [each["k"] for each in engine._entries]


def test_a_kill_at_every_effect_changes_nothing() -> None:
    whole, engine = lived()
    wanted = seen(whole, engine)
    assert sum(each["k"] == "start" for each in engine._entries) >= 30
    for call in range(1, engine.calls + 1):
        # Before it is done, and when it is asked for again, after it.
        assert seen(*lived([(call, False), (call + 1, True)])) == wanted, call


@pytest.mark.parametrize("seed", range(8))
def test_many_kills_change_nothing(seed: int) -> None:
    rng = random.Random(seed)
    wanted = seen(*lived())
    dies = [(call, rng.random() < 0.5) for call in range(1, 200) if rng.random() < 0.4]
    assert seen(*lived(dies)) == wanted
