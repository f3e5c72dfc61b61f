"""Waits that can never be satisfied: whatever could still end is blocked for good, or waits for the waiter itself.

A wait has hope while a task can be reached from it that runs, is queued, or waits for something outside (a time, a
signal, a prompt, its own time-out). One goes from a wait to its members, from a blocked task to what it depends on,
unless one of that has ended badly and the task waits for it to be retried, and from a waiting task to what that waits
for. Looked at under the lock of the run: when a wait is registered, when a member has ended and decided nothing, when
a task yields, and when an end leaves tasks blocked that depended on it. So hope is lost in a transaction that looks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from flakes.store.database import Connection, Query, rows

KEYS_TOLD_MAX = 50

# By the id of the wait, of its group, or of the task that waits; or all of a run.
_PENDING = Query("""
    select wait_id from waits
    where wait_id = any(%(ids)s) and state = 'pending' and kind in ('group', 'children', 'round')
    union select wait_id from waits where group_id = any(%(ids)s) and state = 'pending'
    union select wait_id from waits
    where task_id = any(%(ids)s) and state = 'pending' and kind in ('group', 'children', 'round')
    union select w.wait_id from tasks t join waits w on w.task_id = t.task_id
    where t.run_id = any(%(run_ids)s) and t.status in ('QUEUED', 'RUNNING', 'WAITING')
      and w.state = 'pending' and w.kind in ('group', 'children', 'round')""")

# Most waits have a member that is under way; the others are looked at closely.
_DOUBTFUL = Query("""
    select w.wait_id from waits w
    where w.wait_id = any(%(wait_ids)s)
      and not exists (
          select from wait_members m join tasks t on t.task_id = m.task_id
          where m.wait_id = w.wait_id and t.status in ('QUEUED', 'RUNNING'))
      and not exists (
          select from tasks t where t.group_id = w.group_id and t.status in ('QUEUED', 'RUNNING'))
      and not exists (
          select from rounds r join tasks t on t.task_id = r.task_id
          where r.round_id = w.round_id and t.status in ('QUEUED', 'RUNNING'))""")

_MEMBERS = """
    select w.wait_id, w.task_id as waiter, m.task_id from waits w join wait_members m on m.wait_id = w.wait_id
    where w.state = 'pending' and {of}
    union all
    select w.wait_id, w.task_id, g.task_id from waits w join tasks g on g.group_id = w.group_id
    where w.state = 'pending' and {of}
    union all
    select w.wait_id, w.task_id, r.task_id from waits w join rounds r on r.round_id = w.round_id
    where w.state = 'pending' and {of}"""

_REACHED = Query(f"""
    with recursive reach as (
        select s.wait_id as root, s.task_id from ({_MEMBERS.format(of="w.wait_id = any(%(wait_ids)s)")}) s
        join tasks x on x.task_id = s.task_id
        where x.status in ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING')
        union
        select reach.root, n.task_id
        from reach join tasks t on t.task_id = reach.task_id
        cross join lateral (
            select d.depends_on as task_id from task_dependencies d
            where t.status = 'BLOCKED' and d.task_id = t.task_id and not exists (
                select from task_dependencies e join tasks b on b.task_id = e.depends_on
                where e.task_id = t.task_id and t.failure_policy <> 'continue'
                  and b.status in ('FAILED', 'CANCELLED'))
            union all
            select s.task_id from ({_MEMBERS.format(of="w.task_id = t.task_id")}) s where t.status = 'WAITING'
        ) n
        join tasks x on x.task_id = n.task_id
        where x.status in ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING') and x.task_id <> all(%(asking)s)
    )
    select reach.root,
           bool_or(t.status in ('QUEUED', 'RUNNING') or t.status = 'WAITING' and exists (
               select from waits o where o.task_id = t.task_id and o.state = 'pending'
                 and (o.kind in ('timer', 'signal', 'prompt') or o.due_at is not null))),
           array_agg(t.task_key order by t.task_key) filter (where t.status = 'BLOCKED'),
           bool_or(exists (select from task_dependencies d
                           where d.task_id = t.task_id and d.depends_on = any(%(asking)s)))
    from reach join tasks t on t.task_id = reach.task_id
    group by reach.root""")


@dataclass(frozen=True, slots=True)
class Stall:
    """A wait without hope: the tasks that are blocked for good. `circle`: one of them depends on who asks."""

    wait_id: str
    task_keys: list[str]
    circle: bool


async def find(
    conn: Connection, wait_ids: Collection[str], asking: Collection[str] = ()
) -> list[Stall]:
    """Those of these pending waits that have no hope. `asking`: tasks that are about to wait, and so are none."""
    if not wait_ids:
        return []
    doubtful = [wait_id for (wait_id,) in await rows(conn, _DOUBTFUL, {"wait_ids": list(wait_ids)})]
    if not doubtful:
        return []
    reached = await rows(conn, _REACHED, {"wait_ids": doubtful, "asking": list(asking)})
    return [
        Stall(wait_id, (keys or [])[:KEYS_TOLD_MAX], circle)
        for wait_id, hope, keys, circle in sorted(reached) if not hope
    ]


async def pending(
    conn: Connection, ids: Collection[str], run_ids: Collection[str]
) -> list[str]:
    """Pending waits for tasks, by their own ids, those of their groups or of who waits, or all of these runs."""
    found = await rows(conn, _PENDING, {"ids": list(ids), "run_ids": list(run_ids)})
    return [wait_id for (wait_id,) in found]
