"""What is kept of a task's log when it outgrows its limit: the beginning of each attempt, and the newest.

The oldest lines behind an attempt's beginning go first. In their place stands one chunk with a single
`system` line that says how many lines and bytes were dropped there; it covers their line numbers, so
cursors stay what they were, and it grows as more is dropped. Dropping goes an eighth below the limit, so
that a log at its limit costs one such pass for every eighth of it that is written.
"""

from __future__ import annotations

import time
from typing import Final

from flakes.store.database import Connection, Query, row, rows, run
from flakes.wire.codec import encode
from flakes.wire.sandbox_stream import LogLine

HEADS_PART: Final = 4
"""A quarter of the limit is for the beginnings of all attempts together."""
SLACK_PART: Final = 8

_SIZE = Query("select size_bytes from task_logs where task_id = %(task_id)s for update")

# Candidates lie behind the beginning of their attempt; the oldest go until enough is gone. The last chunk
# of the log is never one of them.
_RANGES = Query("""
    with attempt as (
        select assignment_id from assignments where task_id = %(task_id)s
    ), logged as (
        select count(*) as n from attempt a
        where exists (select 1 from log_chunks c where c.assignment_id = a.assignment_id)
    ), chunk as (
        select c.assignment_id, c.first_line, c.line_count, c.size_bytes, c.dropped_bytes,
               sum(c.size_bytes) over (partition by c.assignment_id order by c.first_line) as upto_bytes,
               lead(c.first_line) over (order by c.assignment_id, c.first_line) is null as is_last
        from log_chunks c join attempt using (assignment_id)
    ), candidate as (
        select *, sum(size_bytes) over (order by assignment_id, first_line) - size_bytes as gone_bytes
        from chunk
        where dropped_bytes is null and not is_last
          and upto_bytes > %(heads_bytes)s / greatest(1, (select n from logged))
    )
    select v.assignment_id, least(min(v.first_line), min(g.first_line)),
           greatest(max(v.first_line + v.line_count), max(g.first_line + g.line_count))
    from candidate v
    left join log_chunks g on g.assignment_id = v.assignment_id and g.dropped_bytes is not null
    where v.gone_bytes < %(excess_bytes)s
    group by v.assignment_id order by v.assignment_id""")

_DROP = Query("""
    with gone as (
        delete from log_chunks where assignment_id = %(assignment_id)s
          and first_line >= %(first)s and first_line < %(end)s
        returning size_bytes, dropped_bytes
    )
    select sum(size_bytes), sum(coalesce(dropped_bytes, size_bytes)) from gone""")

_MARK = Query("""
    insert into log_chunks (assignment_id, first_line, line_count, lines, size_bytes, dropped_bytes)
    values (%(assignment_id)s, %(first)s, %(count)s, %(lines)s::json, %(size_bytes)s, %(dropped)s)""")

_SHRINK = Query("""
    update task_logs set size_bytes = size_bytes - %(bytes)s where task_id = %(task_id)s""")


async def drop_middle(conn: Connection, task_id: str, kept_bytes: int) -> int:
    """Bring the log of a task below its limit; how many bytes were dropped."""
    found = await row(conn, _SIZE, {"task_id": task_id})
    if found is None or found[0] <= kept_bytes:
        return 0
    params = {
        "task_id": task_id, "heads_bytes": kept_bytes // HEADS_PART,
        "excess_bytes": found[0] - kept_bytes + kept_bytes // SLACK_PART,
    }  # fmt: skip
    dropped = 0
    for assignment_id, first, end in await rows(conn, _RANGES, params):
        where = {"assignment_id": assignment_id, "first": first, "end": end}
        sums = await row(conn, _DROP, where)
        assert sums is not None
        size_bytes, dropped_bytes = int(sums[0]), int(sums[1])
        text = (
            f"[{end - first:,} lines ({dropped_bytes / 2**20:,.1f} MiB) dropped here:"
            f" the log of this task is over {kept_bytes / 2**20:,.0f} MiB]"
        )
        line = LogLine(channel="system", at_ms=time.time_ns() // 1_000_000, text=text)
        lines = encode([line]).decode()
        await run(conn, _MARK, {
            "assignment_id": assignment_id, "first": first, "count": end - first, "lines": lines,
            "size_bytes": len(lines), "dropped": dropped_bytes,
        })  # fmt: skip
        dropped += size_bytes - len(lines)
    await run(conn, _SHRINK, {"task_id": task_id, "bytes": dropped})
    return dropped
