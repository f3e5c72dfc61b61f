"""What a task had changed when an earlier attempt of it had to end before its time.

An attempt that yielded goes on later, wherever that is, with the files as they were then. One that was lost may be
taken up where it was by an agent, which looks at what it finds; a command begins again from the start. An attempt
that ended in any other way has ended: what comes after it begins anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from flakes.store import workspaces
from flakes.store.database import Connection, Query, rows
from flakes.wire.workspaces import OwnWorkspace

ATTEMPTS_MAX = 20
"""Attempts of a task that are looked back at."""

_EARLIER = Query("""
    select u.task_id, a.state, w.workspace_id
    from unnest(%(task_ids)s::text[]) as u(task_id)
    cross join lateral (
        select assignment_id, state from assignments
        where task_id = u.task_id and not live and accepted_at is not null
        order by assignment_id desc limit %(attempts_max)s) a
    left join lateral (
        select workspace_id from workspaces
        where task_id = u.task_id and assignment_id = a.assignment_id and kind = 'candidate'
        order by workspace_id desc limit 1) w on true
    order by u.task_id, a.assignment_id desc""")

# Along the bases of a task's own handles, to what the task itself began from.
_ORIGIN = Query("""
    with recursive line(first, task_id, base, depth) as (
        select workspace_id, task_id, base_workspace_id, 0 from workspaces
        where workspace_id = any(%(workspace_ids)s)
        union all
        select l.first, l.task_id, w.base_workspace_id, l.depth + 1
        from line l join workspaces w on w.workspace_id = l.base and w.task_id = l.task_id
        where l.depth < 1000
    )
    select distinct on (first) first, base from line order by first, depth desc""")


async def of_tasks(conn: Connection, task_ids: Sequence[str]) -> dict[str, list[OwnWorkspace]]:
    """By task id, newest first: what lost attempts left, up to what one left that yielded."""
    chosen: defaultdict[str, list[tuple[Literal["yielded", "lost"], str]]] = defaultdict(list)
    over: set[str] = set()
    params = {"task_ids": list(task_ids), "attempts_max": ATTEMPTS_MAX}
    for task_id, state, workspace_id in await rows(conn, _EARLIER, params):
        if task_id in over:
            continue
        if state != "lost":
            over.add(task_id)
        if state in ("lost", "yielded") and workspace_id is not None:
            chosen[task_id].append((state, workspace_id))
    if not chosen:
        return {}
    wanted = [workspace_id for found in chosen.values() for _, workspace_id in found]
    handles = await workspaces.some(conn, wanted)
    origins = dict(await rows(conn, _ORIGIN, {"workspace_ids": wanted}))
    return {
        task_id: [
            OwnWorkspace(
                after=state, handle=handles[workspace_id], base_workspace_id=origins[workspace_id]
            )
            for state, workspace_id in found
            if workspace_id in handles and origins.get(workspace_id) is not None
        ]
        for task_id, found in chosen.items()
    }
