"""Log lines of tasks: appended in chunks, read by cursor across all attempts of a task.

A cursor is ``<assignment id>:<line>``, the last line that was read. Assignment ids sort by time, so the
order over attempts is the order of the cursor.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from flakes.store.database import Connection, Query, rows, run
from flakes.wire.codec import Issue, encode
from flakes.wire.errors import ApiError
from flakes.wire.sandbox_stream import LogLine, LogLines
from flakes.wire.tasks import LogEntry

_FORM = re.compile(r"(assignment_[0-9a-z]{26}):(\d{1,9})\Z")

# Only a live assignment of the sending sandbox may write (F03); a chunk that was there is a replay, also
# after the assignment has ended.
_APPEND = Query("""
    with u as (
        select * from unnest(%(assignment_ids)s::text[], %(first)s::integer[], %(counts)s::integer[],
                             %(lines)s::json[], %(sandbox_ids)s::text[])
            as u(assignment_id, first_line, line_count, lines, sandbox_id)
    ), allowed as (
        select u.assignment_id, u.first_line, u.line_count, u.lines from u
        join assignments a on a.assignment_id = u.assignment_id
        where a.sandbox_id = u.sandbox_id
          and (a.live or exists (select 1 from log_chunks c where c.assignment_id = u.assignment_id
                                 and c.first_line = u.first_line))
    ), added as (
        insert into log_chunks (assignment_id, first_line, line_count, lines)
        select * from allowed on conflict do nothing
    )
    select distinct assignment_id from allowed""")

_AFTER = Query("""
    select c.assignment_id, c.first_line, c.lines from log_chunks c
    join assignments a on a.assignment_id = c.assignment_id
    where a.task_id = %(task_id)s
      and (c.assignment_id > %(assignment_id)s
           or (c.assignment_id = %(assignment_id)s and c.first_line + c.line_count > %(line)s))
    order by c.assignment_id, c.first_line limit %(limit)s""")

_LAST = Query("""
    select c.assignment_id, c.first_line, c.lines from log_chunks c
    join assignments a on a.assignment_id = c.assignment_id
    where a.task_id = %(task_id)s
    order by c.assignment_id desc, c.first_line desc limit %(limit)s""")


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
    conn: Connection, chunks: Sequence[tuple[str, LogLines]]
) -> set[str]:
    """Append (sandbox id, lines) pairs; the ids of assignments that were refused as stale."""
    allowed = await rows(conn, _APPEND, {
        "assignment_ids": [c.assignment_id for _, c in chunks],
        "first": [c.first_line for _, c in chunks],
        "counts": [len(c.lines) for _, c in chunks],
        "lines": [encode(c.lines).decode() for _, c in chunks],
        "sandbox_ids": [sandbox_id for sandbox_id, _ in chunks],
    })  # fmt: skip
    return {c.assignment_id for _, c in chunks} - {r[0] for r in allowed}


async def record_refused(
    conn: Connection, owner_id: str, sandbox_id: str, assignment_ids: Sequence[str]
) -> None:
    """An `attempt.refused` event for each of these assignments of this owner (F30)."""
    params = {"owner_id": owner_id, "sandbox_id": sandbox_id, "assignment_ids": list(assignment_ids)}
    await run(conn, _REFUSED, params)


async def page(
    conn: Connection, task_id: str, *, after: str | None, limit: int, channel: str | None
) -> tuple[list[LogEntry], str | None]:
    """Lines after the cursor, oldest first, and the cursor to go on from (also at the end)."""
    assignment_id, line = parse_cursor(after) if after else ("", -1)
    params = {"task_id": task_id, "assignment_id": assignment_id, "line": line + 1, "limit": limit}
    entries: list[LogEntry] = []
    cursor = after
    for chunk in await rows(conn, _AFTER, params):
        for entry in _entries(chunk):
            if (chunk[0], _line(entry)) <= (assignment_id, line):
                continue
            if len(entries) == limit:
                return entries, cursor
            cursor = entry.cursor
            if channel is None or entry.channel == channel:
                entries.append(entry)
    return entries, cursor


async def tail(
    conn: Connection, task_id: str, *, count: int, channel: str | None
) -> tuple[list[LogEntry], str | None]:
    """The last `count` lines, oldest first, and the cursor to follow from."""
    found = await rows(conn, _LAST, {"task_id": task_id, "limit": count})
    entries = [e for chunk in reversed(found) for e in _entries(chunk)]
    cursor = entries[-1].cursor if entries else None
    return [e for e in entries if channel is None or e.channel == channel][-count:], cursor


def _entries(chunk: tuple[Any, ...]) -> list[LogEntry]:
    assignment_id, first_line, lines = chunk
    return [
        LogEntry(
            cursor=f"{assignment_id}:{first_line + offset}", channel=line.channel, text=line.text,
            at=datetime.fromtimestamp(line.at_ms / 1000, UTC), assignment_id=assignment_id,
        )
        for offset, line in enumerate(msgspec.convert(lines, list[LogLine]))
    ]  # fmt: skip


def _line(entry: LogEntry) -> int:
    return int(entry.cursor.rsplit(":", 1)[1])
