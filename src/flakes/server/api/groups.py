"""Routes of what tasks make and wait for: children, groups, waits, signals."""

from __future__ import annotations

import msgspec

from flakes.core import limits
from flakes.server.routing import Answer, Call, Endpoint, Page, bounded
from flakes.store import groups, signals, spawning, waits
from flakes.wire.groups import Children, Groups
from flakes.wire.waits import Signal, SignalPost, Waits


class ChildrenQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of a task's children: all, or those of a group (by id or key)."""

    group: str | None = None
    limit: int = limits.PAGE_LENGTH_DEFAULT
    cursor: str | None = None


async def children(call: Call) -> Children:
    """List the children of a task, in the order they were made."""
    query = call.query
    async with call.plane.database.connection() as conn:
        return await spawning.of_task(
            conn, call.owner_id, call.path["taskId"], group=query.group, after=query.cursor,
            limit=bounded(query.limit, limits.CHILDREN_PAGE_MAX),
        )  # fmt: skip


async def of_task(call: Call) -> Groups:
    """List the groups of a task."""
    async with call.plane.database.connection() as conn:
        return await groups.of_task(conn, call.owner_id, call.path["taskId"])


async def waited(call: Call) -> Waits:
    """List what a task waits for and has waited for, newest first."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        found = await waits.page(
            conn, call.owner_id, call.path["taskId"], before=call.query.cursor, limit=limit
        )
    return Waits(waits=found, next_cursor=found[-1].wait_id if len(found) == limit else None)


async def signal(call: Call) -> Answer:
    """Send a signal to a task; it is kept until the task waits for it."""
    async with call.plane.database.transaction() as conn:
        sent, ledger = await signals.post(
            conn, call.owner_id, call.path["taskId"], call.path["name"], call.body.payload,
            call.owner_id,
        )  # fmt: skip
    call.plane.joined(ledger)
    return Answer(sent, 202)


ENDPOINTS = [
    Endpoint("GET", "/v1/tasks/{taskId}/children", children, Children, query=ChildrenQuery, tag="tasks"),
    Endpoint("GET", "/v1/tasks/{taskId}/groups", of_task, Groups, tag="tasks"),
    Endpoint("GET", "/v1/tasks/{taskId}/waits", waited, Waits, query=Page, tag="tasks"),
    Endpoint("POST", "/v1/tasks/{taskId}/signals/{name}", signal, Signal, SignalPost, status=202, tag="tasks",
             errors=("task_ended", "limit_exceeded")),
]  # fmt: skip
