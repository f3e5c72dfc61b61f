"""What is kept of a log over its limit: beginnings and the newest, cursors unchanged, counters exact."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flakes.store import logs
from flakes.store.database import Connection, Database
from flakes.store.identifiers import new_id
from flakes.wire.sandbox_stream import LogLine, LogLines
from flakes.wire.tasks import LogEntry

pytestmark = pytest.mark.anyio
KEPT = 64_000


@pytest.fixture
async def conn(database: str) -> AsyncIterator[Connection]:
    pool = Database(database, size=2)
    await pool.open()
    try:
        async with pool.connection() as connection:
            yield connection
    finally:
        await pool.close()


async def assignment(conn: Connection, task_id: str, attempt: int = 1) -> str:
    assignment_id = new_id("assignment")
    await conn.execute(
        "insert into assignments (assignment_id, task_id, run_id, sandbox_id, attempt, state)"
        " values (%s, %s, 'run_1', 'sandbox_1', %s, 'accepted')",
        [assignment_id, task_id, attempt],
    )
    return assignment_id


def chunk(assignment_id: str, first: int, count: int, size: int = 40) -> tuple[str, LogLines]:
    lines = [
        LogLine(channel="stdout", at_ms=n, text=f"{n} ".ljust(size, "."))
        for n in range(first, first + count)
    ]
    return "sandbox_1", LogLines(assignment_id=assignment_id, first_line=first, lines=lines)


async def write(conn: Connection, *chunks: tuple[str, LogLines]) -> logs.Appended:
    async with conn.transaction():
        return await logs.append(conn, chunks, kept_bytes=KEPT)


async def everything(conn: Connection, task_id: str, limit: int = 37) -> list[LogEntry]:
    found: list[LogEntry] = []
    cursor = None
    while True:
        entries, cursor = await logs.page(conn, task_id, after=cursor, limit=limit, channel=None)
        found += entries
        if len(entries) < limit:
            return found


async def check_counters(conn: Connection, task_id: str) -> int:
    """The counter is what is stored, and within the limit."""
    cursor = await conn.execute(
        "select sum(c.size_bytes), sum(octet_length(c.lines::text)) from log_chunks c"
        " join assignments a using (assignment_id) where a.task_id = %s",
        [task_id],
    )
    stored = await cursor.fetchone()
    cursor = await conn.execute("select size_bytes from task_logs where task_id = %s", [task_id])
    counted = await cursor.fetchone()
    assert stored is not None
    assert counted is not None
    assert stored[0] == stored[1] == counted[0]
    return counted[0]


def number(entry: LogEntry) -> int:
    return int(entry.cursor.rsplit(":", 1)[1])


async def test_the_first_and_the_newest_stay_and_a_line_tells_of_the_rest(conn: Connection) -> None:
    task_id = new_id("task")
    assignment_id = await assignment(conn, task_id)
    total = 4_000
    for first in range(0, total, 20):
        appended = await write(conn, chunk(assignment_id, first, 20))
        assert appended.task_ids == {task_id}
        assert appended.stale == set()
        assert await check_counters(conn, task_id) <= KEPT
    found = await everything(conn, task_id)
    marks = [entry for entry in found if entry.channel == "system"]
    assert len(marks) == 1
    at = found.index(marks[0])
    head, rest = found[:at], found[at + 1 :]
    assert [number(e) for e in head] == list(range(len(head)))
    assert len(head) >= 100, "about a quarter of the limit"
    assert [number(e) for e in rest] == list(range(total - len(rest), total))
    assert number(marks[0]) == total - len(rest) - 1
    dropped = total - len(head) - len(rest)
    assert marks[0].text.startswith(f"[{dropped:,} lines (")
    assert all(e.text.startswith(f"{number(e)} ") for e in head + rest)


async def test_a_reader_in_the_middle_is_told(conn: Connection) -> None:
    """Whoever had read up to a line that was dropped sees the notice next, and nothing twice."""
    task_id = new_id("task")
    assignment_id = await assignment(conn, task_id)
    seen: list[LogEntry] = []
    cursor = None
    rng = random.Random(3)
    for first in range(0, 6_000, 20):
        await write(conn, chunk(assignment_id, first, 20))
        if rng.random() < 0.05:
            entries, cursor = await logs.page(conn, task_id, after=cursor, limit=50, channel=None)
            seen += entries
    while True:
        entries, cursor = await logs.page(conn, task_id, after=cursor, limit=500, channel=None)
        seen += entries
        if len(entries) < 500:
            break
    numbers = [number(e) for e in seen]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 5_999
    for before, after in itertools.pairwise(seen):
        if number(after) != number(before) + 1:
            assert after.channel == "system", "a gap is always told"


async def test_replays_of_dropped_chunks_change_nothing(conn: Connection) -> None:
    task_id = new_id("task")
    assignment_id = await assignment(conn, task_id)
    chunks = [chunk(assignment_id, first, 20) for first in range(0, 3_000, 20)]
    for each in chunks:
        await write(conn, each)
    before = await everything(conn, task_id)
    size = await check_counters(conn, task_id)
    assert any(e.channel == "system" for e in before)
    appended = await write(conn, *chunks)
    assert appended.stale == set()
    assert await everything(conn, task_id) == before
    assert await check_counters(conn, task_id) == size


@pytest.mark.parametrize("seed", range(6))
async def test_any_attempts_of_any_size(conn: Connection, seed: int) -> None:
    """Random attempts and chunk sizes: bounded, exact, in order, at most one notice an attempt."""
    rng = random.Random(seed)
    task_id = new_id("task")
    totals: dict[str, int] = {}
    for attempt in range(1, rng.randint(2, 8)):
        assignment_id = await assignment(conn, task_id, attempt)
        first = 0
        for _ in range(rng.randint(1, 120)):
            count = rng.randint(1, 30)
            await write(conn, chunk(assignment_id, first, count, rng.choice([10, 40, 300])))
            first += count
            assert await check_counters(conn, task_id) <= KEPT
        totals[assignment_id] = first
    found = await everything(conn, task_id)
    assert [(e.assignment_id, number(e)) for e in found] == sorted(
        {(e.assignment_id, number(e)) for e in found}
    )
    for assignment_id, total in totals.items():
        mine = [e for e in found if e.assignment_id == assignment_id]
        marks = [e for e in mine if e.channel == "system"]
        assert len(marks) <= 1
        dropped = total - len(mine) + len(marks)
        assert bool(marks) == (dropped > 0)
        if marks:
            assert marks[0].text.startswith(f"[{dropped:,} lines (")
    last, total = list(totals.items())[-1]
    assert (found[-1].assignment_id, number(found[-1])) == (last, total - 1)
    tail, _ = await logs.tail(conn, task_id, count=25, channel=None)
    assert tail == found[-25:]


async def test_one_batch_of_many_tasks(conn: Connection) -> None:
    """Tasks of one batch are bounded each for itself; foreign and ended assignments are refused."""
    tasks = [new_id("task") for _ in range(5)]
    ids = [await assignment(conn, task_id) for task_id in tasks]
    batch: list[Any] = [chunk(i, first, 50) for first in range(0, 1_000, 50) for i in ids[:3]]
    batch += [chunk(ids[3], 0, 5), ("sandbox_2", chunk(ids[4], 0, 5)[1])]
    appended = await write(conn, *batch)
    assert appended.stale == {ids[4]}
    assert appended.task_ids == set(tasks[:4])
    for task_id in tasks[:4]:
        assert await check_counters(conn, task_id) <= KEPT
    assert await everything(conn, tasks[4]) == []
