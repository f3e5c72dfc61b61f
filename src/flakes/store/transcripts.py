"""Transcripts of attempts, in chunks that are appended and never rewritten (F11), and what attempts spent.

A chunk that comes again is known by the number of its first entry. What was spent comes as totals of the
attempt, so it may come again and in any order too: the larger one counts. Only a live assignment of the
sending sandbox may write (F03); a replay of what is there is fine after its end.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from flakes.core import limits
from flakes.store import transcript_limit
from flakes.store.database import Connection, Query, row, rows, run
from flakes.wire.codec import Issue, encode
from flakes.wire.errors import ApiError
from flakes.wire.sandbox_stream import TranscriptChunk
from flakes.wire.transcripts import AgentUsage, EntryBody, TranscriptEntry

CHUNKS_A_READ: Final = 16

_FORM = re.compile(r"(assignment_[0-9a-z]{26}):(\d{1,9})\Z")

_APPEND = Query("""
    with u as (
        select * from unnest(%(assignment_ids)s::text[], %(first)s::integer[], %(counts)s::integer[],
                             %(entries)s::json[], %(sandbox_ids)s::text[])
            as u(assignment_id, first_entry, entry_count, entries, sandbox_id)
    ), allowed as (
        select u.assignment_id, u.first_entry, u.entry_count, u.entries, a.task_id
        from u join assignments a on a.assignment_id = u.assignment_id
        where a.sandbox_id = u.sandbox_id
          and (a.live or exists (
              select 1 from transcript_chunks c
              where c.assignment_id = u.assignment_id and c.first_entry = u.first_entry))
    ), added as (
        insert into transcript_chunks (assignment_id, first_entry, entry_count, entries)
        select assignment_id, first_entry, entry_count, entries from allowed
        on conflict do nothing
        returning assignment_id, first_entry
    )
    select w.assignment_id, w.first_entry, w.task_id, added.first_entry is not null
    from allowed w left join added using (assignment_id, first_entry)""")

_SPENT = Query("""
    insert into attempt_usage as s (assignment_id, task_id, run_id, input_total, cached_read, cached_write,
                                    output, reasoning, cost_micro_usd, calls, worked_ms)
    select u.assignment_id, a.task_id, a.run_id, u.input_total, u.cached_read, u.cached_write,
           u.output, u.reasoning, u.cost_micro_usd, u.calls, u.worked_ms
    from unnest(%(assignment_ids)s::text[], %(input_total)s::bigint[], %(cached_read)s::bigint[],
                %(cached_write)s::bigint[], %(output)s::bigint[], %(reasoning)s::bigint[],
                %(cost_micro_usd)s::bigint[], %(calls)s::bigint[], %(worked_ms)s::bigint[])
        as u(assignment_id, input_total, cached_read, cached_write, output, reasoning, cost_micro_usd, calls,
             worked_ms)
    join assignments a on a.assignment_id = u.assignment_id
    on conflict (assignment_id) do update set
        input_total = greatest(s.input_total, excluded.input_total),
        cached_read = greatest(s.cached_read, excluded.cached_read),
        cached_write = greatest(s.cached_write, excluded.cached_write),
        output = greatest(s.output, excluded.output),
        reasoning = greatest(s.reasoning, excluded.reasoning),
        cost_micro_usd = greatest(s.cost_micro_usd, excluded.cost_micro_usd),
        calls = greatest(s.calls, excluded.calls),
        worked_ms = greatest(s.worked_ms, excluded.worked_ms)""")

# That an agent began, or went on with, a session belongs to what happened to the task (F13).
_SESSIONS = Query("""
    insert into events (owner_id, run_id, task_id, type, data)
    select r.owner_id, a.run_id, a.task_id, 'attempt.session', u.data
    from unnest(%(assignment_ids)s::text[], %(data)s::json[]) as u(assignment_id, data)
    join assignments a on a.assignment_id = u.assignment_id join runs r on r.run_id = a.run_id""")

_ATTEMPTS = Query("""
    select assignment_id from assignments
    where task_id = %(task_id)s and assignment_id >= %(assignment_id)s order by assignment_id""")

# The chunk that holds the entry, and those after it.
_FROM_ENTRY = Query("""
    select first_entry, entry_count, entries::text from transcript_chunks
    where assignment_id = %(assignment_id)s and first_entry >= coalesce(
        (select max(first_entry) from transcript_chunks
         where assignment_id = %(assignment_id)s and first_entry <= %(entry)s), 0)
    order by first_entry limit %(limit)s""")

_SUM = """sum(input_total)::bigint, sum(cached_read)::bigint, sum(cached_write)::bigint,
    sum(output)::bigint, sum(reasoning)::bigint, sum(cost_micro_usd)::bigint, sum(calls)::bigint,
    sum(worked_ms)::bigint"""
_OF_TASKS = Query(f"""
    select task_id, {_SUM} from attempt_usage where task_id = any(%(task_ids)s) group by task_id""")
_OF_RUN = Query(f"select {_SUM} from attempt_usage where run_id = %(run_id)s")
_OF_PROJECT = Query(f"""
    select {_SUM} from attempt_usage
    where run_id in (select run_id from runs where project_id = %(project_id)s)""")

_decoder = msgspec.json.Decoder(list[EntryBody])


@dataclass(frozen=True, slots=True)
class Appended:
    """What came of a batch: assignments that were refused as stale, tasks whose transcript grew, and
    whether there are events."""

    stale: set[str]
    task_ids: set[str]
    events: bool


def parse_cursor(text: str) -> tuple[str, int]:
    """A cursor back from its opaque form."""
    match = _FORM.match(text)
    if match is None:
        issue = Issue(path="after", message="not a cursor of a task's transcript")
        raise ApiError("invalid_request", "the cursor is not one of a task's transcript", "use `nextCursor` as it came", issues=[issue])
    return match[1], int(match[2])


async def append(
    conn: Connection,
    chunks: Sequence[tuple[str, TranscriptChunk]],
    *,
    kept_bytes: int = limits.TRANSCRIPT_SIZE_BYTES_MAX,
) -> Appended:
    """Append (sandbox id, chunk) pairs, of each attempt about `kept_bytes`. In one transaction."""
    fits = await transcript_limit.fitted(conn, [c for _, c in chunks], kept_bytes)
    found = await rows(conn, _APPEND, {
        "assignment_ids": [c.assignment_id for _, c in chunks],
        "first": [c.first_entry for _, c in chunks],
        "counts": [len(c.entries) for _, c in chunks],
        "entries": [fit.entries for fit in fits],
        "sandbox_ids": [sandbox_id for sandbox_id, _ in chunks],
    })  # fmt: skip
    allowed = {(assignment_id, first) for assignment_id, first, _, _ in found}
    new = {(assignment_id, first) for assignment_id, first, _, is_new in found if is_new}
    await transcript_limit.count(conn, [fit for fit in fits if (fit.assignment_id, fit.first_entry) in new])
    spent: dict[str, AgentUsage] = {}
    opened: list[tuple[str, str]] = []
    for _, chunk in chunks:
        if (chunk.assignment_id, chunk.first_entry) not in new:
            continue
        if chunk.usage is not None:
            spent[chunk.assignment_id] = chunk.usage
        opened += [
            (chunk.assignment_id, encode({"assignmentId": chunk.assignment_id, **entry.data}).decode())
            for entry in chunk.entries if entry.kind == "session"
        ]  # fmt: skip
    if spent:
        columns = {name: [getattr(u, name) for u in spent.values()] for name in AgentUsage.__struct_fields__}
        await run(conn, _SPENT, {"assignment_ids": list(spent), **columns})
    if opened:
        await run(conn, _SESSIONS, {"assignment_ids": [a for a, _ in opened], "data": [d for _, d in opened]})
    stale = {c.assignment_id for _, c in chunks if (c.assignment_id, c.first_entry) not in allowed}
    return Appended(stale, {task_id for _, _, task_id, is_new in found if is_new}, bool(opened))


async def page(
    conn: Connection, task_id: str, *, after: str | None, limit: int
) -> tuple[list[TranscriptEntry], str | None]:
    """Entries after the cursor, oldest first, and the cursor to go on from (also at the end). Entries that
    are nothing but a native record are left out. Fewer than `limit` means that there are no more now."""
    entries: list[TranscriptEntry] = []
    cursor = after
    async for at, body in _forward(conn, task_id, after):
        cursor = at
        if body.kind != "record":
            entries.append(TranscriptEntry(
                cursor=at, at=datetime.fromtimestamp(body.at_ms / 1000, UTC),
                assignment_id=at.partition(":")[0], kind=body.kind, data=body.data,
            ))  # fmt: skip
            if len(entries) == limit:
                break
    return entries, cursor


async def raw(conn: Connection, task_id: str, after: str | None) -> AsyncIterator[bytes]:
    """The native records of all attempts as lines."""
    async for _, body in _forward(conn, task_id, after):
        if body.raw is not None:
            yield body.raw.encode() + (b"" if body.more else b"\n")


async def of_tasks(conn: Connection, task_ids: Sequence[str]) -> dict[str, AgentUsage]:
    """What tasks have spent, over all their attempts; those that spent nothing are left out."""
    found = await rows(conn, _OF_TASKS, {"task_ids": list(task_ids)})
    return {task_id: usage for task_id, *sums in found if (usage := _usage(sums)) is not None}


async def of_run(conn: Connection, run_id: str) -> AgentUsage | None:
    """What a run has spent; None when no agent told of anything."""
    return _usage(await row(conn, _OF_RUN, {"run_id": run_id}))


async def of_project(conn: Connection, project_id: str) -> AgentUsage | None:
    """What the runs of a project have spent, deleted ones aside."""
    return _usage(await row(conn, _OF_PROJECT, {"project_id": project_id}))


def _usage(sums: Sequence[int | None] | None) -> AgentUsage | None:
    if sums is None or sums[0] is None:
        return None
    total, read, written, output, reasoning, cost, calls, worked_ms = sums
    return AgentUsage(
        input_total=total or 0, cached_read=read or 0, cached_write=written or 0, output=output or 0,
        reasoning=reasoning or 0, cost_micro_usd=cost, calls=calls or 0, worked_ms=worked_ms or 0,
    )  # fmt: skip


async def _forward(
    conn: Connection, task_id: str, after: str | None
) -> AsyncIterator[tuple[str, EntryBody]]:
    begin, read = parse_cursor(after) if after else ("", -1)
    params: dict[str, Any] = {"task_id": task_id, "assignment_id": begin}
    for (assignment_id,) in await rows(conn, _ATTEMPTS, params):
        entry = read + 1 if assignment_id == begin else 0
        while True:
            params = {"assignment_id": assignment_id, "entry": entry, "limit": CHUNKS_A_READ}
            chunks = await rows(conn, _FROM_ENTRY, params)
            for first, count, text in chunks:
                for number, body in enumerate(_decoder.decode(text), first):
                    if number >= entry:
                        yield f"{assignment_id}:{number}", body
                entry = max(entry, first + count)
            if len(chunks) < CHUNKS_A_READ:
                break
