"""Groups of children: opened, closed and cancelled by the task that owns them, under the lock of its run."""

from __future__ import annotations

from typing import Any

from flakes.core import limits
from flakes.core.group import SETTLED, Counts, GroupStatus
from flakes.store import cancels, joins, tasks
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.definitions import check_key
from flakes.store.fences import Holder
from flakes.store.identifiers import new_id
from flakes.store.ledger import Ledger
from flakes.wire.errors import ApiError, not_found
from flakes.wire.groups import Group, GroupCancel, GroupOpen, Groups, Members

_COLUMNS = """group_id, group_key, name, run_id, owner_task_id, status, join_rule, quorum, children_max,
    total, succeeded, failed, cancelled, created_at, closed_at, settled_at"""

_INSERT = Query("""
    insert into task_groups (group_id, run_id, owner_task_id, group_key, name, join_rule, quorum, children_max)
    values (%(group_id)s, %(run_id)s, %(task_id)s, %(key)s, %(name)s, %(join)s, %(quorum)s, %(children_max)s)
    on conflict (owner_task_id, group_key) do nothing""")

_GET = Query(f"""
    select {_COLUMNS} from task_groups
    where owner_task_id = %(task_id)s and (group_key = %(group)s or group_id = %(group)s)""")

_OF_TASK = Query(f"""
    select {_COLUMNS} from task_groups where owner_task_id = %(task_id)s order by group_id""")

_COUNT = Query("select count(*) from task_groups where owner_task_id = %(task_id)s")

_CLOSE = Query("""
    update task_groups set status = 'CLOSED', closed_at = now()
    where group_id = %(group_id)s and status = 'OPEN'
    returning group_id, run_id, owner_task_id, group_key, status, join_rule, quorum,
              total, succeeded, failed, cancelled""")

_CANCEL = Query("""
    update task_groups set status = 'CANCELLED', settled_at = now()
    where group_id = %(group_id)s and status in ('OPEN', 'CLOSED')""")

_LIVE = Query("""
    select task_id, run_id, status, optional, true from tasks
    where group_id = %(group_id)s and status in ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING')
    order by task_id""")


async def open_(conn: Connection, ledger: Ledger, holder: Holder, body: GroupOpen) -> Group:
    """Open a group; the same under the same key finds it. 409 `operation_conflict` when it differs."""
    check_key("group", body.group_key)
    if (body.join == "quorum") != (body.quorum is not None):
        raise ApiError("invalid_request", "quorum goes with the join rule quorum, and that needs it", 'give {"join": "quorum", "quorum": 2}, or leave quorum out')
    counted = await row(conn, _COUNT, {"task_id": holder.task_id})
    made = False
    if counted is not None and counted[0] < limits.GROUPS_PER_TASK_MAX:
        made = bool(await run(conn, _INSERT, {
            "group_id": new_id("group"), "run_id": holder.run_id, "task_id": holder.task_id,
            "key": body.group_key, "name": body.name, "join": body.join, "quorum": body.quorum,
            "children_max": body.max_children,
        }))  # fmt: skip
    found = await row(conn, _GET, {"task_id": holder.task_id, "group": body.group_key})
    if found is None:
        raise ApiError("limit_exceeded", f"the task has {limits.GROUPS_PER_TASK_MAX} groups", "use fewer groups", limit=limits.GROUPS_PER_TASK_MAX)
    group = _group(found)
    if made:
        data = {"groupId": group.group_id, "groupKey": group.group_key, "joinRule": group.join_rule}
        ledger.event(holder.run_id, "group.opened", holder.task_id, data)
    same = (body.name, body.join, body.quorum, body.max_children)
    if same != (group.name, group.join_rule, group.quorum, group.max_children):
        raise ApiError("operation_conflict", f"the task has opened a group {body.group_key!r} with another meaning", "choose another group key", groupId=group.group_id)
    return group


async def close(conn: Connection, ledger: Ledger, holder: Holder, reference: str) -> Group:
    """No more children; from now on it can be awaited. Closing again changes nothing."""
    group = await get(conn, holder.task_id, reference)
    closed = await rows(conn, _CLOSE, {"group_id": group.group_id})
    if closed:
        data = {"groupId": group.group_id, "groupKey": group.group_key, "total": group.counts.total}
        ledger.event(holder.run_id, "group.closed", holder.task_id, data)
        await joins.groups_decided(conn, ledger, closed)
    return await get(conn, holder.task_id, group.group_id)


async def cancel(conn: Connection, ledger: Ledger, holder: Holder, body: GroupCancel) -> Group:
    """Cancel what lives of it. A group that was not settled is `CANCELLED`."""
    group = await get(conn, holder.task_id, body.group)
    reason = body.reason or "its group was cancelled"
    live = [cancels.Live(*r) for r in await rows(conn, _LIVE, {"group_id": group.group_id})]
    if await run(conn, _CANCEL, {"group_id": group.group_id}):
        data = {"groupId": group.group_id, "groupKey": group.group_key, "status": GroupStatus.CANCELLED}
        ledger.event(holder.run_id, "group.settled", holder.task_id, data)
    if live:
        ledger.ready += await cancels.cancel(conn, ledger, live, reason)
        await joins.settle(conn, ledger)
    after = await get(conn, holder.task_id, group.group_id)
    if GroupStatus(group.status) not in SETTLED:
        settled = {group.group_id: (GroupStatus.CANCELLED, counts_of(after))}
        await joins.group_waits(conn, ledger, settled)
    return after


async def get(conn: Connection, task_id: str, reference: str) -> Group:
    """A group of this task by id or key, or 404."""
    found = await row(conn, _GET, {"task_id": task_id, "group": reference})
    if found is None:
        raise not_found("group")
    return _group(found)


async def of_task(conn: Connection, owner_id: str, task_id: str) -> Groups:
    """All groups of a task of this owner, or 404."""
    await tasks.require(conn, owner_id, task_id)
    return Groups(groups=[_group(r) for r in await rows(conn, _OF_TASK, {"task_id": task_id})])


def counts_of(group: Group) -> Counts:
    """Its members, for `core.group`."""
    counts = group.counts
    return Counts(counts.total, counts.succeeded, counts.failed, counts.cancelled)


def _group(found: tuple[Any, ...]) -> Group:
    (group_id, key, name, run_id, owner_id, status, rule, quorum, children_max, total, succeeded, failed,
     cancelled, created_at, closed_at, settled_at) = found  # fmt: skip
    counts = Members(
        total=total, live=total - succeeded - failed - cancelled, succeeded=succeeded, failed=failed,
        cancelled=cancelled,
    )  # fmt: skip
    return Group(
        group_id=group_id, group_key=key, name=name, run_id=run_id, owner_task_id=owner_id,
        status=status, join_rule=rule, quorum=quorum, max_children=children_max, counts=counts,
        created_at=created_at, closed_at=closed_at, settled_at=settled_at,
    )  # fmt: skip
