"""Log lines of tasks: appended in chunks, read by cursor across all attempts of a task.

A cursor is ``<assignment id>:<line>``, the last line that was read. Assignment ids sort by time, so the
order over attempts is the order of the cursor. What a task may keep is bounded: see `log_retention`.

Chunks are read a few at a time and attempt by attempt, each by a range of the primary key, so reading
goes on where the cursor is however long the log before it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from flakes.core import limits
from flakes.store import log_retention
from flakes.store.database import Connection, Query, rows, run
from flakes.wire.codec import Issue, encode
from flakes.wire.errors import ApiError
from flakes.wire.sandbox_stream import LogLine, LogLines
from flakes.wire.tasks import LogEntry

CHUNKS_A_READ: Final = 16

_FORM = re.compile(r"(assignment_[0-9a-z]{26}):(\d{1,9})\Z")

# Only a live assignment of the sending sandbox may write (F03); a chunk that was there is a replay, also
# after the assignment has ended, and also when it was among those that were dropped since.
_APPEND = Query("""
    with u as (
        select * from unnest(%(assignment_ids)s::text[], %(first)s::integer[], %(counts)s::integer[],
                             %(lines)s::json[], %(sizes)s::integer[], %(sandbox_ids)s::text[])
            as u(assignment_id, first_line, line_count, lines, size_bytes, sandbox_id)
    ), allowed as (
        select u.assignment_id, u.first_line, u.line_count, u.lines, u.size_bytes, a.task_id
        from u join assignments a on a.assignment_id = u.assignment_id
        where a.sandbox_id = u.sandbox_id
          and (a.live or exists (
              select 1 from log_chunks c where c.assignment_id = u.assignment_id
                and (c.first_line = u.first_line
                     or (c.dropped_bytes is not null and u.first_line >= c.first_line
                         and u.first_line < c.first_line + c.line_count))))
    ), added as (
        insert into log_chunks (assignment_id, first_line, line_count, lines, size_bytes)
        select assignment_id, first_line, line_count, lines, size_bytes from allowed w
        where not exists (
            select 1 from log_chunks g
            where g.assignment_id = w.assignment_id and g.dropped_bytes is not null
              and w.first_line >= g.first_line and w.first_line < g.first_line + g.line_count)
        on conflict do nothing
        returning assignment_id, size_bytes
    ), grown as (
        insert into task_logs (task_id, size_bytes)
        select w.task_id, sum(added.size_bytes)
        from added join (select distinct assignment_id, task_id from allowed) w using (assignment_id)
        group by w.task_id order by w.task_id
        on conflict (task_id) do update set size_bytes = task_logs.size_bytes + excluded.size_bytes
        returning task_id, size_bytes
    )
    select distinct w.assignment_id, w.task_id, grown.size_bytes
    from allowed w left join grown on grown.task_id = w.task_id""")

_ATTEMPTS = Query("""
    select assignment_id from assignments
    where task_id = %(task_id)s and assignment_id >= %(assignment_id)s order by assignment_id""")

# The chunk that holds the line, and those after it.
_FROM_LINE = Query("""
    select assignment_id, first_line, line_count, dropped_bytes, lines::text from log_chunks
    where assignment_id = %(assignment_id)s and first_line >= coalesce(
        (select max(first_line) from log_chunks
         where assignment_id = %(assignment_id)s and first_line <= %(line)s), 0)
    order by first_line limit %(limit)s""")

_BEFORE_LINE = Query("""
    select assignment_id, first_line, line_count, dropped_bytes, lines::text from log_chunks
    where assignment_id = %(assignment_id)s and first_line < %(line)s
    order by first_line desc limit %(limit)s""")

_LINE_MAX = 2**31 - 1

_decoder = msgspec.json.Decoder(list[LogLine])


@dataclass(frozen=True, slots=True)
class Appended:
    """What came of a batch: assignments that were refused as stale, and tasks whose log grew."""

    stale: set[str]
    task_ids: set[str]


_REFUSED = Query("""
    insert into events (owner_id, run_id, task_id, type, data)
    select r.owner_id, a.run_id, a.task_id, 'attempt.refused', json_build_object(
        'assignmentId', a.assignment_id, 'what', 'log', 'sandboxId', %(sandbox_id)s::text)
    from assignments a join runs r using (run_id)
    where a.assignment_id = any(%(assignment_ids)s) and r.owner_id = %(owner_id)s""")


def parse_cursor(text: str) -> tuple[str, int]:
    """A cursor back from its opaque form."""
    match = _FORM.match(text)
    if match is None:
        issue = Issue(path="after", message="not a cursor of a task's log")
        raise ApiError("invalid_request", "the cursor is not one of a task's log", "use `nextCursor` as it came", issues=[issue])
    return match[1], int(match[2])


async def append(
    conn: Connection,
    chunks: Sequence[tuple[str, LogLines]],
    *,
    kept_bytes: int = limits.TASK_LOG_SIZE_BYTES_MAX,
) -> Appended:
    """Append (sandbox id, lines) pairs, and drop what a task may not keep. In one transaction."""
    lines = [encode(c.lines).decode() for _, c in chunks]
    allowed = await rows(conn, _APPEND, {
        "assignment_ids": [c.assignment_id for _, c in chunks],
        "first": [c.first_line for _, c in chunks],
        "counts": [len(c.lines) for _, c in chunks],
        "lines": lines,
        "sizes": [len(text) for text in lines],
        "sandbox_ids": [sandbox_id for sandbox_id, _ in chunks],
    })  # fmt: skip
    for task_id in sorted({task for _, task, size in allowed if size is not None and size > kept_bytes}):
        await log_retention.drop_middle(conn, task_id, kept_bytes)
    stale = {c.assignment_id for _, c in chunks} - {r[0] for r in allowed}
    return Appended(stale, {r[1] for r in allowed})


async def record_refused(
    conn: Connection, owner_id: str, sandbox_id: str, assignment_ids: Sequence[str]
) -> None:
    """An `attempt.refused` event for each of these assignments of this owner (F30)."""
    params = {"owner_id": owner_id, "sandbox_id": sandbox_id, "assignment_ids": list(assignment_ids)}
    await run(conn, _REFUSED, params)


async def page(
    conn: Connection, task_id: str, *, after: str | None, limit: int, channel: str | None
) -> tuple[list[LogEntry], str | None]:
    """Lines after the cursor, oldest first, and the cursor to go on from (also at the end).

    Fewer than `limit` means that there are no more now, whatever the channel.
    """
    entries: list[LogEntry] = []
    cursor = after
    async for entry in _forward(conn, task_id, after):
        cursor = entry.cursor
        if channel is None or entry.channel == channel:
            entries.append(entry)
            if len(entries) == limit:
                break
    return entries, cursor


async def tail(
    conn: Connection, task_id: str, *, count: int, channel: str | None
) -> tuple[list[LogEntry], str | None]:
    """The last `count` lines (of the channel), oldest first, and the cursor to follow from."""
    entries: list[LogEntry] = []
    cursor: str | None = None
    async for entry in _backward(conn, task_id):
        cursor = cursor or entry.cursor
        if channel is None or entry.channel == channel:
            entries.append(entry)
            if len(entries) == count:
                break
    return entries[::-1], cursor


async def _forward(conn: Connection, task_id: str, after: str | None) -> AsyncIterator[LogEntry]:
    begin, read = parse_cursor(after) if after else ("", -1)
    params = {"task_id": task_id, "assignment_id": begin}
    for (assignment_id,) in await rows(conn, _ATTEMPTS, params):
        line = read + 1 if assignment_id == begin else 0
        while True:
            params = {"assignment_id": assignment_id, "line": line, "limit": CHUNKS_A_READ}
            chunks = await rows(conn, _FROM_LINE, params)
            for chunk in chunks:
                for entry in _entries(chunk):
                    if _line(entry) >= line:
                        yield entry
                line = max(line, chunk[1] + chunk[2])
            if len(chunks) < CHUNKS_A_READ:
                break


async def _backward(conn: Connection, task_id: str) -> AsyncIterator[LogEntry]:
    attempts = await rows(conn, _ATTEMPTS, {"task_id": task_id, "assignment_id": ""})
    for (assignment_id,) in reversed(attempts):
        line = _LINE_MAX
        while True:
            params = {"assignment_id": assignment_id, "line": line, "limit": CHUNKS_A_READ}
            chunks = await rows(conn, _BEFORE_LINE, params)
            for chunk in chunks:
                for entry in reversed(_entries(chunk)):
                    yield entry
                line = chunk[1]
            if len(chunks) < CHUNKS_A_READ:
                break


def _entries(chunk: tuple[Any, ...]) -> list[LogEntry]:
    assignment_id, first_line, line_count, dropped_bytes, lines = chunk
    # What stands for dropped lines has the number of the last of them: whoever had read some sees it too.
    first = first_line if dropped_bytes is None else first_line + line_count - 1
    return [
        LogEntry(
            cursor=f"{assignment_id}:{first + offset}", channel=line.channel, text=line.text,
            at=datetime.fromtimestamp(line.at_ms / 1000, UTC), assignment_id=assignment_id,
        )
        for offset, line in enumerate(_decoder.decode(lines))
    ]  # fmt: skip


def _line(entry: LogEntry) -> int:
    return int(entry.cursor.rsplit(":", 1)[1])
