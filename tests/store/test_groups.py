"""Groups and waits in the store: many members that end at once, and ends that race with new waits."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import msgspec
import pytest

from flakes.core.task import Outcome
from flakes.store import fences, groups, joins, spawning, transitions, waits
from flakes.store.database import Connection, rows
from flakes.store.fences import Holder
from flakes.store.ledger import LOCK_RUNS_OF_ASSIGNMENTS, Ledger
from flakes.store.transitions import End
from flakes.wire.groups import GroupOpen, TaskSpawn
from flakes.wire.waits import OnChildren, OnGroup, WaitFor
from store.build import inconsistencies
from store.talking import Running, Stage, staged

RACES = int(os.environ.get("FLAKES_RACES", "500"))
"""How often a child's end races with its parent's wait and yield; F17 asks for 10,000."""
PAIRS = 10


pytestmark = pytest.mark.anyio


@pytest.fixture
async def stage(database: str) -> AsyncIterator[Stage]:
    async with staged(database) as made:
        yield made


async def locked(conn: Connection, stage: Stage, running: Running) -> tuple[Ledger, Holder]:
    """The run under lock, and the assignment that acts."""
    params = {"assignment_ids": [running.assignment_id]}
    ledger = Ledger.of(await rows(conn, LOCK_RUNS_OF_ASSIGNMENTS, params))
    holder = await fences.hold(conn, stage.sandbox_id, running.assignment_id)
    assert holder is not None
    return ledger, holder


async def filled(stage: Stage, parent: Running, count: int, **fields: Any) -> None:
    """A closed group `g` of so many children, none of them started."""
    child = {"title": "c", "adapter": "a"}
    async with stage.db.transaction() as conn:
        ledger, holder = await locked(conn, stage, parent)
        await groups.open_(conn, ledger, holder, GroupOpen(group_key="g", **fields))
        body = {"operationId": "o", "group": "g", "tasks": [child] * count}
        await spawning.spawn(conn, ledger, holder, msgspec.convert(body, TaskSpawn))
        await groups.close(conn, ledger, holder, "g")
        await ledger.flush(conn)


async def wait(stage: Stage, parent: Running, **fields: Any) -> str:
    """The state of a wait for the group, told to yield."""
    body = WaitFor(operation_id="w", on=OnGroup(group="g"), **fields)
    async with stage.db.transaction() as conn:
        ledger, holder = await locked(conn, stage, parent)
        found = await waits.ask(conn, ledger, holder, body, yields=True)
        await ledger.flush(conn)
    return found.state


async def apply(stage: Stage, *ends: End) -> None:
    async with stage.db.pipelined() as conn:
        applied = await transitions.apply(conn, ends)
    assert not applied.stale


def end(stage: Stage, assignment_id: str, outcome: Outcome = Outcome.SUCCEEDED) -> End:
    return End(assignment_id, stage.sandbox_id, outcome)


async def live(stage: Stage, parent: Running) -> list[str]:
    found = await stage.all(
        "select a.assignment_id from assignments a join tasks t using (task_id)"
        " where t.parent_task_id = %(p)s and a.live order by 1", p=parent.task_id,
    )  # fmt: skip
    return [assignment_id for (assignment_id,) in found]


async def status(stage: Stage, task_id: str) -> str:
    return (await stage.all("select status from tasks where task_id = %(t)s", t=task_id))[0][0]


async def consistent(stage: Stage) -> None:
    async with stage.db.connection() as conn:
        assert await inconsistencies(conn) == []


async def test_64_children_end_at_once_each_in_a_transaction_of_its_own(stage: Stage) -> None:
    """F16: no deadlock, nothing lost, and the parent goes on."""
    (parent,) = await stage.start("parent")
    await filled(stage, parent, 64)
    await stage.schedule()
    assert await wait(stage, parent) == "pending"
    await apply(stage, end(stage, parent.assignment_id, Outcome.RETRYABLE))
    assert await status(stage, parent.task_id) == "WAITING"
    children = await live(stage, parent)
    assert len(children) == 64
    await asyncio.gather(*(apply(stage, end(stage, child)) for child in children))
    assert await status(stage, parent.task_id) == "QUEUED"
    counted = await stage.all("select status, total, succeeded from task_groups")
    assert counted == [("SUCCEEDED", 64, 64)]
    await consistent(stage)


async def test_no_end_of_a_child_is_missed_by_a_wait_that_comes_at_the_same_time(stage: Stage) -> None:
    """F17: whatever comes first, nobody sleeps for ever."""
    seed = secrets.randbits(32)
    sys.stdout.write(f"seed {seed}\n")
    rng = random.Random(seed)
    for _ in range(0, RACES, 250):
        await races(stage, rng, min(250, RACES))
    await consistent(stage)


async def races(stage: Stage, rng: random.Random, count: int) -> None:
    """So many parents with a child each, in five runs; both sides of all of them at the same time."""
    sides = []
    asleep: list[str] = []
    told: list[str] = []
    for _ in range(5):
        running = await stage.start(*(f"t{n}" for n in range(2 * count // 5)))
        half = len(running) // 2
        parents, children = running[:half], running[half:]
        async with stage.db.connection() as conn:
            await conn.execute(
                "update tasks c set parent_task_id = u.parent from unnest(%s::text[], %s::text[])"
                " as u(child, parent) where c.task_id = u.child",
                [[c.task_id for c in children], [p.task_id for p in parents]],
            )
        pairs = list(zip(parents, children, strict=True))
        for at in range(0, len(pairs), PAIRS):
            some = pairs[at : at + PAIRS]
            sides.append(parent_side(stage, [p for p, _ in some], told))
            sides.append(child_side(stage, rng, [c for _, c in some]))
        asleep += [p.task_id for p in parents]
    rng.shuffle(sides)
    turn = asyncio.Semaphore(10)  # of twelve connections

    async def in_turn(side: Awaitable[None]) -> None:
        async with turn:
            await side

    await asyncio.gather(*(in_turn(side) for side in sides))
    left = await stage.all(
        "select status, count(*) from tasks where task_id = any(%(ids)s) group by 1", ids=asleep
    )
    counts = dict(left)
    assert counts.pop("RUNNING", 0) == len(told), "who was told that it is settled went on"
    assert counts.pop("QUEUED", 0) == len(asleep) - len(told), counts
    assert not counts
    # Make room for the next ones.
    found = await stage.all("select distinct run_id from tasks where task_id = any(%(ids)s)", ids=asleep)
    async with stage.db.connection() as conn:
        ids = [run_id for (run_id,) in found]
        await conn.execute("delete from ready_tasks where run_id = any(%s)", [ids])
        await conn.execute("delete from assignments where run_id = any(%s)", [ids])
        await conn.execute("delete from tasks where run_id = any(%s)", [ids])
        await conn.execute("delete from runs where run_id = any(%s)", [ids])


async def parent_side(stage: Stage, parents: Sequence[Running], told: list[str]) -> None:
    """Wait for the child; those that are told to yield do."""
    yielding = []
    async with stage.db.transaction() as conn:
        params = {"assignment_ids": [p.assignment_id for p in parents]}
        ledger = Ledger.of(await rows(conn, LOCK_RUNS_OF_ASSIGNMENTS, params))
        for parent in parents:
            holder = await fences.hold(conn, stage.sandbox_id, parent.assignment_id)
            assert holder is not None
            body = WaitFor(operation_id="w", on=OnChildren())
            found = await waits.ask(conn, ledger, holder, body, yields=True)
            if found.state == "pending":
                yielding.append(end(stage, parent.assignment_id, Outcome.RETRYABLE))
            else:
                told.append(parent.task_id)
        await joins.settle(conn, ledger)
        await ledger.flush(conn)
    if yielding:
        await apply(stage, *yielding)


async def child_side(stage: Stage, rng: random.Random, children: Sequence[Running]) -> None:
    """End them, in pieces."""
    left = [end(stage, c.assignment_id) for c in children]
    rng.shuffle(left)
    while left:
        size = rng.randint(1, len(left))
        await apply(stage, *left[:size])
        left = left[size:]
