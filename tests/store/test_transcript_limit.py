"""What is kept of a transcript over its limit: its beginning, what people say, and a notice; cursors stay."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flakes.store import transcripts
from flakes.store.database import Connection, Database
from flakes.store.identifiers import new_id
from flakes.wire.sandbox_stream import TranscriptChunk
from flakes.wire.transcripts import EntryBody

pytestmark = pytest.mark.anyio
KEPT = 20_000
CHUNKS = 200


@pytest.fixture
async def conn(database: str) -> AsyncIterator[Connection]:
    pool = Database(database, size=2)
    await pool.open()
    try:
        async with pool.connection() as connection:
            yield connection
    finally:
        await pool.close()


async def running(conn: Connection, task_id: str) -> str:
    assignment_id = new_id("assignment")
    await conn.execute(
        "insert into assignments (assignment_id, task_id, run_id, sandbox_id, attempt, state)"
        " values (%s, %s, 'run_1', 'sandbox_1', 1, 'accepted')",
        [assignment_id, task_id],
    )
    return assignment_id


def chunk(assignment_id: str, number: int) -> TranscriptChunk:
    said: list[tuple[Any, str]] = [("text", f"said {number} " + "x" * 200), ("prompt", f"asked {number}")]
    entries = [
        EntryBody(at_ms=number, kind=kind, data={"text": text}, raw=json.dumps({"native": text}))
        for kind, text in said
    ]
    return TranscriptChunk(assignment_id=assignment_id, first_entry=2 * number, entries=entries)


async def append(conn: Connection, *chunks: TranscriptChunk) -> transcripts.Appended:
    return await transcripts.append(conn, [("sandbox_1", each) for each in chunks], kept_bytes=KEPT)


async def test_a_transcript_is_bounded_and_says_so(conn: Connection) -> None:
    one, other = await running(conn, "task_1"), await running(conn, "task_2")
    for number in range(0, CHUNKS, 10):
        await append(conn, *(chunk(one, n) for n in range(number, number + 10)))
        await append(conn, chunk(one, number))  # a replay counts nothing
    await append(conn, chunk(other, 0))
    stored = await conn.execute(
        "select sum(octet_length(entries::text)), sum(entry_count) from transcript_chunks where assignment_id = %s", [one]
    )
    size, count = await stored.fetchone() or (0, 0)
    assert size < KEPT * 1.5 + CHUNKS * 4
    assert count == 2 * CHUNKS, "every entry has its number"
    entries, _ = await transcripts.page(conn, "task_1", after=None, limit=10_000)
    cursors = [int(entry.cursor.partition(":")[2]) for entry in entries]
    assert cursors == sorted(set(cursors))
    texts = [entry.data["text"] for entry in entries]
    assert texts[:2] == ["said 0 " + "x" * 200, "asked 0"]
    (notice,) = [n for n, entry in enumerate(entries) if entry.kind == "notice"]
    assert "not kept" in texts[notice]
    behind = entries[notice + 1 :]
    assert behind
    assert all(entry.kind == "prompt" for entry in behind), "what people say is kept for a while longer"
    records = [json.loads(line) async for line in transcripts.raw(conn, "task_1", None)]
    assert [r for r in records if "flakes" in r] == [records[-1]]
    whole, _ = await transcripts.page(conn, "task_2", after=None, limit=10)
    assert [entry.kind for entry in whole] == ["text", "prompt"]


async def test_reading_goes_on_from_a_cursor_behind_the_limit(conn: Connection) -> None:
    one = await running(conn, "task_1")
    await append(conn, *(chunk(one, n) for n in range(CHUNKS)))
    assert await transcripts.page(conn, "task_1", after=f"{one}:{2 * CHUNKS - 1}", limit=10) == ([], f"{one}:{2 * CHUNKS - 1}")
