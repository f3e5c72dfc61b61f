"""More children than results come in one piece: awaited together, in bounded entries of the journal."""

from __future__ import annotations

import json

from flakes.core import limits
from flakes.harness.cases import Case, Done
from flakes.harness.checking.fixtures import FixtureEngine
from flakes.harness.context import JOINED_MAX
from flakes.harness.loading import Source
from flakes.harness.running import Ended, Given, run
from flakes.harness.surroundings import Task

CHILDREN = 1_100
TEXT = f"""
from flakes.harness import define_harness

@define_harness
async def main(ctx):
    every = [ctx.command("true", title=f"N {{n}}") for n in range({CHILDREN})]
    two = await ctx.quorum(every, need=2)
    results = await ctx.all(every)
    return ctx.succeeded(count=len(results), two=len(two), same=[each.key for each in results] == [each.key for each in every])
"""


def test_all_and_quorum_of_more_than_a_thousand() -> None:
    engine = FixtureEngine(Case("many", lambda _: Done("\u00e4" * 4_000)))
    given = Given(Source("many.py", TEXT, {}), Task("task_many"))
    ended: Ended | None = None
    while ended is None or ended.status == "yielded":
        ended = run(given, engine)
    assert ended.error is None, ended.error
    assert ended.outcome is not None
    assert ended.outcome.data == {"count": CHILDREN, "two": 2, "same": True}
    entries, more = engine.read_journal(0)
    while more:
        found, more = engine.read_journal(len(entries))
        entries += found
    settled = [len(each["values"][0]) for each in entries if each["k"] == "settle" and isinstance(each.get("values", [0])[0], list)]
    assert max(settled) <= JOINED_MAX
    assert max(len(json.dumps(each)) for each in entries) < limits.JOURNAL_ENTRY_BYTES_MAX
