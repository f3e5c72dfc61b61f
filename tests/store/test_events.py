"""The event log: every change is there, a cursor never skips what commits late and never repeats."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from flakes.core.task import Outcome
from flakes.store import events, interventions
from flakes.store.database import Connection, Query, run
from flakes.store.events import Cursor
from flakes.wire.errors import ApiError
from flakes.wire.events import TYPES
from store.build import World, accept, end, opened, task

pytestmark = pytest.mark.anyio

_WRITE = Query("""
    insert into events (owner_id, type, data)
    values (%(owner_id)s, 'project.updated', json_build_object('n', %(n)s::text))""")


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with opened(database, size=20) as world:
        yield world


async def write(conn: Connection, world: World, n: str) -> None:
    await run(conn, _WRITE, {"owner_id": world.owner_id, "n": n})


async def read(
    world: World, after: Cursor = (0, 0), limit: int = 1_000
) -> tuple[list[str], Cursor]:
    """What `write` wrote since the cursor, and the new cursor."""
    async with world.db.connection() as conn:
        found = await events.read(conn, world.owner_id, after, limit)
    cursor = events.parse_cursor(found[-1].cursor) if found else after
    return [event.data["n"] for event in found if "n" in event.data], cursor


async def test_f06_an_event_that_commits_late_is_not_skipped(world: World) -> None:
    async with world.db.connection() as slow, world.db.connection() as quick:
        async with slow.transaction():
            await write(slow, world, "slow")  # has the lower transaction id and commits last
            await write(quick, world, "quick")
            seen, cursor = await read(world)
            assert seen == []  # not below the transaction that is still open
        await world.settled()
        seen, cursor = await read(world, cursor)
        assert seen == ["slow", "quick"]
        assert await read(world, cursor) == ([], cursor)


async def test_an_event_of_a_transaction_that_fails_never_shows(world: World) -> None:
    async with world.db.connection() as conn:
        async with conn.transaction(force_rollback=True):
            await write(conn, world, "never")
        await write(conn, world, "kept")
    await world.settled()
    assert (await read(world))[0] == ["kept"]


async def test_f06_a_reader_beside_many_writers_sees_everything_once_in_order(world: World) -> None:
    writers, each = 12, 25
    done = asyncio.Event()

    async def writer(number: int) -> None:
        rng = random.Random(number)
        for n in range(each):
            async with world.db.connection() as conn, conn.transaction():
                await write(conn, world, f"{number}.{n}.a")
                await asyncio.sleep(rng.choice([0, 0, 0.001, 0.01]))  # commits overtake each other
                await write(conn, world, f"{number}.{n}.b")

    async def reader(limit: int) -> list[str]:
        seen, cursor = list[str](), (0, 0)
        while True:
            ended = done.is_set()
            found, cursor = await read(world, cursor, limit)
            seen += found
            if ended and not found:
                return seen

    async def write_all() -> None:
        await asyncio.gather(*map(writer, range(writers)))
        await world.settled()
        done.set()

    *followed, _ = await asyncio.gather(reader(7), reader(1_000), write_all())
    expected = {f"{w}.{n}.{half}" for w in range(writers) for n in range(each) for half in "ab"}
    for seen in followed:
        assert len(seen) == len(set(seen)), "an event came twice"
        assert set(seen) == expected, "an event was skipped"
        for w in range(writers):
            own = [name for name in seen if name.startswith(f"{w}.")]
            assert own == [f"{w}.{n}.{half}" for n in range(each) for half in "ab"]
    assert followed[0] == followed[1]


async def test_the_horizon_is_now(world: World) -> None:
    async with world.db.connection() as slow, world.db.connection() as other:
        await write(other, world, "before")
        await world.settled()
        async with slow.transaction():
            await write(slow, world, "under way")
            async with world.db.connection() as conn:
                horizon = await events.horizon(conn)
            await write(other, world, "after")
        await world.settled()
        assert (await read(world, horizon))[0] == ["under way", "after"]
        assert (await read(world))[0] == ["before", "under way", "after"]


async def test_tail_names_whoever_has_news(world: World) -> None:
    await world.settled()
    async with world.db.connection() as conn:
        start = await events.horizon(conn)
        assert await events.tail(conn, start, 100) == events.News(start, set(), set(), more=False)
    run_id = await world.submit("run", task("a"))
    async with world.db.connection() as conn:
        await write(conn, world, "fleet")
        await world.settled()
        news = await events.tail(conn, start, 100)
        assert news.scopes == {(world.owner_id, run_id), (world.owner_id, None)}
        assert not news.more
        assert news.cursor > start
        assert (await events.tail(conn, start, 2)).more


async def test_pages_of_one_run_and_one_task(world: World) -> None:
    run_id = await world.submit("run", task("a"), task("b", "a"), close=True)
    other = await world.submit("other", task("c"))
    await world.sandbox(2)
    ids = await world.ids(run_id)
    (offer,) = [o for o in await world.start() if o == await world.offer_of(ids["a"])]
    await world.apply(end(offer))
    for offer in await world.schedule():
        await world.apply(accept(offer), end(offer, Outcome.FAILED))
    await world.settled()
    async with world.db.connection() as conn:
        every = await events.read(conn, world.owner_id, (0, 0), 1_000, run_id=run_id)
        paged, cursor = [], (0, 0)
        while page := await events.read(conn, world.owner_id, cursor, 2, run_id=run_id):
            paged += page
            cursor = events.parse_cursor(page[-1].cursor)
        of_a = await events.read(
            conn, world.owner_id, (0, 0), 1_000, run_id=run_id, task_id=ids["a"]
        )
        ends = await events.read(
            conn, world.owner_id, (0, 0), 1_000, types=["task.succeeded", "task.failed"]
        )
        assert await events.read(conn, "user_other", (0, 0), 1_000, run_id=run_id) == []
    assert paged == every
    assert {event.type for event in every} <= TYPES.keys()
    assert {event.run_id for event in every} == {run_id} != {other}
    assert [event.type for event in of_a] == [
        "task.admitted", "task.running", "task.succeeded",
    ]  # fmt: skip
    assert {event.task_key for event in of_a} == {"a"}
    assert [(event.task_key, event.type) for event in ends] == [
        ("a", "task.succeeded"), ("b", "task.failed"),
    ]  # fmt: skip
    states = [event.data["state"] for event in every if event.type == "run.state"]
    assert states == ["QUEUED", "RUNNING", "QUEUED", "FAILED"]


async def test_events_outlive_their_run(world: World) -> None:
    run_id = await world.submit("run", task("a"))
    (task_id,) = (await world.ids(run_id)).values()
    await world.sandbox()
    (offer,) = await world.start()
    await world.apply(end(offer))
    async with world.db.transaction() as conn:
        await interventions.delete_run(conn, world.owner_id, "run")
    await world.settled()
    async with world.db.connection() as conn:
        left = await events.read(conn, world.owner_id, (0, 0), 100, run_id=run_id)
    assert [event.type for event in left][-2:] == ["run.state", "run.deleted"]
    assert task_id in {event.task_id for event in left}


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "a-b", "1-2-3", "1-2\n", "9" * 20 + "-1"])
def test_a_cursor_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        events.parse_cursor(text)
    assert refused.value.code == "invalid_request"


def test_a_cursor_comes_back_from_its_text() -> None:
    assert events.parse_cursor(events.format_cursor((12, 2**62))) == (12, 2**62)
