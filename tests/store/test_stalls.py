"""Waits that lose their hope, by random families: after every step, none is left that could never be satisfied."""

from __future__ import annotations

import os
import random
import secrets
import sys
from collections.abc import AsyncIterator

import pytest

from flakes.core.task import Outcome
from flakes.store import fences, joins, spawning, transitions, waits
from flakes.store.database import rows
from flakes.store.ledger import LOCK_RUNS_OF_ASSIGNMENTS, Ledger
from flakes.store.transitions import End
from flakes.wire.codec import convert
from flakes.wire.errors import ApiError
from flakes.wire.groups import TaskSpawn
from flakes.wire.waits import WaitFor
from store.build import inconsistencies
from store.talking import Stage, staged

pytestmark = pytest.mark.anyio
FAMILIES = int(os.environ.get("FLAKES_STALL_FAMILIES", "15"))
STEPS = 25


@pytest.fixture
async def stage(database: str) -> AsyncIterator[Stage]:
    async with staged(database) as made:
        yield made


async def test_no_wait_outlives_its_hope(stage: Stage) -> None:
    seed = int(os.environ.get("FLAKES_TEST_SEED") or secrets.randbits(32))
    sys.stdout.write(f"FLAKES_TEST_SEED={seed}\n")
    rng = random.Random(seed)
    for family in range(FAMILIES):
        (first, *_) = await stage.start(*(f"f{family}-{n}" for n in range(3)))
        for step in range(STEPS):
            running = await stage.all(
                "select a.assignment_id from assignments a where a.run_id = %(r)s and a.live order by 1", r=first.run_id
            )
            if not running:
                break
            act = rng.choice((make_and_wait, make_and_wait, finish))
            await act(stage, rng, rng.choice(running)[0], f"{family}-{step}")
            await stage.schedule()
            async with stage.db.connection() as conn:
                problems = await inconsistencies(conn)
            assert not problems, (seed, family, step, act.__name__, problems)
        # Out of the way of the next family: its tasks would take part in every look.
        async with stage.db.connection() as conn:
            for table in ("ready_tasks", "assignments", "waits", "task_groups", "tasks", "runs"):
                await conn.execute(f"delete from {table} where run_id = %s".encode(), [first.run_id])
    stalled = await stage.all("select count(*) from events where type = 'wait.settled' and data::jsonb ? 'stalled'")
    sys.stdout.write(f"{stalled[0][0]} waits lost their hope\n")


async def make_and_wait(stage: Stage, rng: random.Random, assignment_id: str, name: str) -> None:
    """A running task makes children behind others, and waits for some of all that it has; then it may yield."""
    refused = False
    try:
        async with stage.db.transaction() as conn:
            ledger = Ledger.of(await rows(conn, LOCK_RUNS_OF_ASSIGNMENTS, {"assignment_ids": [assignment_id]}))
            holder = await fences.hold(conn, stage.sandbox_id, assignment_id)
            assert holder is not None
            known = [key for (key,) in await stage.all(
                "select task_key from tasks where run_id = %(r)s and task_id <> %(t)s order by 1",
                r=holder.run_id, t=holder.task_id,
            )]  # fmt: skip
            children = [{
                "title": "c", "adapter": "a", "dependsOn": rng.sample(known, rng.choice([0, 1, 1, 2])),
                "dependencyFailurePolicy": rng.choice(["wait", "wait", "wait", "continue", "fail"]),
            } for _ in range(rng.randint(1, 2))]  # fmt: skip
            made, _ = await spawning.spawn(conn, ledger, holder, convert({"operationId": name, "tasks": children}, TaskSpawn))
            join = rng.choice(["all_success", "all_settled", "first"])
            on = {"kind": "children", "join": join, "tasks": [each.task_id for each in made.children]}
            await waits.ask(conn, ledger, holder, convert({"operationId": name, "on": on}, WaitFor), yields=True)
            await joins.settle(conn, ledger)
            await ledger.flush(conn)
    except ApiError as error:
        if error.code not in ("wait_deadlock", "wait_stalled"):
            raise
        refused = True
    if not refused and rng.random() < 0.8:
        await end(stage, assignment_id, Outcome.RETRYABLE)


async def finish(stage: Stage, rng: random.Random, assignment_id: str, _: str) -> None:
    await end(stage, assignment_id, rng.choice([Outcome.SUCCEEDED, Outcome.FAILED, Outcome.FAILED, Outcome.CANCELLED]))


async def end(stage: Stage, assignment_id: str, outcome: Outcome) -> None:
    async with stage.db.pipelined() as conn:
        await transitions.apply(conn, [End(assignment_id, stage.sandbox_id, outcome)])
