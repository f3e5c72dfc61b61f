"""Live tasks that nobody prompts: after a while they are asked to end, and cancelled when they do not.

A live task without a prompt holds no slot, but it keeps its run from ending. Its definition says how long it may
(`liveIdle`); the wait for a prompt is due then (`waits.for_prompt`).
"""

from __future__ import annotations

from collections.abc import Collection

from flakes.core import limits
from flakes.store import cancels, joins
from flakes.store.database import Connection, Query, row, rows
from flakes.store.ledger import Ledger

_BOUNDS = """
    coalesce((definition #>> '{liveIdle,afterS}')::float8, %(after_s)s::float8),
    coalesce((definition #>> '{liveIdle,graceS}')::float8, %(grace_s)s::float8)"""

_AFTER = Query(f"select {_BOUNDS} from task_payloads where task_id = %(task_id)s")

_FINISH = Query(f"""
    with told as (
        select p.task_id, t.run_id, {_BOUNDS} from task_payloads p join tasks t on t.task_id = p.task_id
        where p.task_id = any(%(task_ids)s)
    ), made as (
        insert into finishing_tasks (task_id, run_id, idle, due_at)
        select task_id, run_id, true, now() + grace * interval '1 s' from told as u(task_id, run_id, after, grace)
        on conflict do nothing returning task_id
    )
    select u.task_id, u.run_id, u.after, u.grace from told as u(task_id, run_id, after, grace)
    join made on made.task_id = u.task_id order by u.task_id""")

# Uses finishing_tasks_due.
_DUE = Query("""
    select task_id, run_id from finishing_tasks where due_at <= now() order by due_at limit %(limit)s""")

_NEXT_DUE = Query("""
    select extract(epoch from min(due_at) - now())::float8 from finishing_tasks where due_at is not null""")

_HURRIED = Query("""
    with hurried as (
        update finishing_tasks set due_at = null
        where task_id = any(%(task_ids)s) and due_at <= now() returning task_id
    )
    select t.task_id, t.run_id, t.status, t.optional, true
    from hurried h join tasks t on t.task_id = h.task_id
    where t.status in ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING') order by t.task_id""")

_USUAL = {"after_s": limits.LIVE_IDLE_S_DEFAULT, "grace_s": limits.LIVE_GRACE_S_DEFAULT}
REASON = "nobody had prompted it for long, and it did not end when it was asked to"


async def after_s(conn: Connection, task_id: str) -> float:
    """How long a live task may go without a prompt."""
    found = await row(conn, _AFTER, {"task_id": task_id} | _USUAL)
    return found[0] if found else limits.LIVE_IDLE_S_DEFAULT


async def finish(conn: Connection, ledger: Ledger, task_ids: Collection[str]) -> None:
    """No more prompts to these, and not much time. The caller holds the locks of their runs, and wakes them."""
    if not task_ids:
        return
    for task_id, run_id, idle_s, grace_s in await rows(conn, _FINISH, {"task_ids": list(task_ids)} | _USUAL):
        ledger.event(run_id, "round.finishing", task_id, {"idleS": idle_s, "graceS": grace_s})


async def expire(conn: Connection, limit: int) -> tuple[int, Ledger | None]:
    """Cancel what was asked to end and did not in time: how many, and what that did."""
    due = await rows(conn, _DUE, {"limit": limit})
    if not due:
        return 0, None
    ledger = await Ledger.lock(conn, [run_id for _, run_id in due])
    late = await rows(conn, _HURRIED, {"task_ids": [task_id for task_id, _ in due]})
    live = [cancels.Live(*fields) for fields in late if fields[1] in ledger.runs]
    if live:
        ledger.ready += await cancels.cancel(conn, ledger, live, REASON)
        await joins.settle(conn, ledger)
    await ledger.flush(conn)
    return len(due), ledger


async def next_due_s(conn: Connection) -> float | None:
    """Seconds until the next one is late; None when none can be."""
    found = await row(conn, _NEXT_DUE)
    return None if found is None else found[0]
