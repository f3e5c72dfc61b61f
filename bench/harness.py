"""How long a harness takes to come back to where it was: a journal of 10,000 entries, replayed from the top."""

from __future__ import annotations

import time
from typing import Any

from bench.measure import emit
from flakes.harness.cases import Case
from flakes.harness.checking.fixtures import FixtureEngine
from flakes.harness.engine import Condition, Settled
from flakes.harness.loading import Source
from flakes.harness.running import Given, run
from flakes.harness.surroundings import Task

ENTRIES = 10_000
TEXT = """
from flakes.harness import define_harness

@define_harness
async def main(ctx):
    total = 0
    for n in range(ctx.args["steps"]):
        if ctx.random() < 2:
            total += len((await ctx.command(f"echo {n}")).text)
    return ctx.succeeded(total=total)
"""


class Patient(FixtureEngine):
    """Holds every wait to its end, so that the journal is written in one process."""

    def wait(self, conditions: list[Condition], hold_s: float | None) -> list[Settled]:  # type: ignore[override]
        return super().wait(conditions, hold_s) or super().wait(conditions, hold_s)

    def _running(self) -> Any:
        return list(self._children.values())[-1:]


def main() -> None:
    source = Source("bench.py", TEXT, {})
    # A command is four entries: begun, made, awaited, ended; and a random number before it.
    given = Given(source, Task("task_bench"), {"steps": ENTRIES // 5})
    engine = Patient(Case("bench"))
    started = time.monotonic()
    ended = run(given, engine)
    assert ended.status == "succeeded", ended.error
    written_s = time.monotonic() - started
    started = time.monotonic()
    again = run(given, engine)
    replayed_s = time.monotonic() - started
    assert again.outcome == ended.outcome
    emit("harness", entries=ended.journal_length, written_s=round(written_s, 3), replayed_s=round(replayed_s, 3))
