"""Reading the event log without gaps.

Events carry the id of the transaction that wrote them. A reader takes them in (transaction, event) order
and only below the oldest transaction that is still running: whatever commits later has a larger
transaction id than everything already read, so a cursor never has to look back.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from flakes.store.database import Connection, Query, row, rows
from flakes.wire.codec import Issue
from flakes.wire.errors import ApiError
from flakes.wire.events import Event

Cursor = tuple[int, int]
"""(transaction id, event id); `(0, 0)` is the beginning."""

_FORM = re.compile(r"(\d{1,19})-(\d{1,19})\Z")

_COLUMNS = "e.transaction_id, e.event_id, e.type, e.at, e.run_id, e.task_id, t.task_key, e.data"

# Both use an index in the order of the cursor: events_of_run, and the primary key.
_OF_RUN = Query(f"""
    select {_COLUMNS} from events e left join tasks t on t.task_id = e.task_id
    where e.run_id = %(run_id)s and e.owner_id = %(owner_id)s
      and (e.transaction_id, e.event_id) > (%(transaction)s::text::xid8, %(event)s)
      and e.transaction_id < pg_snapshot_xmin(pg_current_snapshot())
      and (%(task_id)s::text is null or e.task_id = %(task_id)s)
      and (%(types)s::text[] is null or e.type = any(%(types)s))
    order by e.transaction_id, e.event_id limit %(limit)s""")

_OF_OWNER = Query(f"""
    select {_COLUMNS} from events e left join tasks t on t.task_id = e.task_id
    where e.owner_id = %(owner_id)s
      and (e.transaction_id, e.event_id) > (%(transaction)s::text::xid8, %(event)s)
      and e.transaction_id < pg_snapshot_xmin(pg_current_snapshot())
      and (%(types)s::text[] is null or e.type = any(%(types)s))
    order by e.transaction_id, e.event_id limit %(limit)s""")

_TAIL = Query("""
    select e.transaction_id, e.event_id, e.owner_id, e.run_id, e.task_id from events e
    where (e.transaction_id, e.event_id) > (%(transaction)s::text::xid8, %(event)s)
      and e.transaction_id < pg_snapshot_xmin(pg_current_snapshot())
    order by e.transaction_id, e.event_id limit %(limit)s""")

_HORIZON = Query("select pg_snapshot_xmin(pg_current_snapshot())::text")


def parse_cursor(text: str) -> Cursor:
    """A cursor back from its opaque form."""
    match = _FORM.match(text)
    if match is None:
        issue = Issue(path="after", message="not a cursor of this event log")
        raise ApiError("invalid_request", "the cursor is not one of this event log", "use `nextCursor` or the `id` of an event as it came", issues=[issue])
    return int(match[1]), int(match[2])


def format_cursor(cursor: Cursor) -> str:
    """The opaque form of a cursor."""
    return f"{cursor[0]}-{cursor[1]}"


async def read(
    conn: Connection,
    owner_id: str,
    after: Cursor,
    limit: int,
    *,
    run_id: str | None = None,
    task_id: str | None = None,
    types: Collection[str] | None = None,
) -> list[Event]:
    """Events after the cursor, oldest first. `task_id` needs its `run_id`."""
    assert task_id is None or run_id is not None
    params: dict[str, Any] = {
        "owner_id": owner_id, "transaction": str(after[0]), "event": after[1], "limit": limit,
        "run_id": run_id, "task_id": task_id, "types": sorted(types) if types else None,
    }  # fmt: skip
    found = await rows(conn, _OF_RUN if run_id else _OF_OWNER, params)
    return [
        Event(
            cursor=f"{transaction}-{event_id}", type=type_, at=at, run_id=run, task_id=task,
            task_key=key, data=data or {},
        )
        for transaction, event_id, type_, at, run, task, key, data in found
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class News:
    """Who has news: (owner id, run id) pairs and task ids, up to a cursor; and whether there is more."""

    cursor: Cursor
    scopes: set[tuple[str, str | None]]
    task_ids: set[str]
    more: bool


async def tail(conn: Connection, after: Cursor, limit: int) -> News:
    """Who has news after the cursor."""
    params = {"transaction": str(after[0]), "event": after[1], "limit": limit}
    found = await rows(conn, _TAIL, params)
    if not found:
        return News(after, set(), set(), False)
    cursor = (int(found[-1][0]), found[-1][1])
    task_ids = {r[4] for r in found if r[4] is not None}
    return News(cursor, {(r[2], r[3]) for r in found}, task_ids, len(found) == limit)


async def horizon(conn: Connection) -> Cursor:
    """A cursor for "from now on": everything readable so far lies before it."""
    found = await row(conn, _HORIZON)
    assert found is not None
    return int(found[0]) - 1, 2**62
