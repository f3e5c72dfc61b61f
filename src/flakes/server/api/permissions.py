"""Routes of permission requests: the inbox of a person, and the answer."""

from __future__ import annotations

from functools import partial
from typing import get_args

import msgspec
from starlette.responses import Response

from flakes.core import limits
from flakes.server.handling import refusal
from flakes.server.routing import Call, Endpoint, Page, PageLength, bounded
from flakes.store import permissions
from flakes.wire.codec import Issue
from flakes.wire.errors import ApiError
from flakes.wire.permissions import Permission, PermissionAnswer, Permissions, Status


class InboxQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of the requests of all tasks; without a status, every one."""

    limit: PageLength = limits.PAGE_LENGTH_DEFAULT
    cursor: str | None = None
    status: str | None = None


async def inbox(call: Call) -> Permissions:
    """List the permission requests of all tasks, newest first."""
    query: InboxQuery = call.query
    limit = bounded(query.limit)
    if query.status is not None and query.status not in get_args(Status):
        known = ", ".join(get_args(Status))
        issue = Issue(path="status", message=f"one of {known}")
        raise ApiError("invalid_request", f"unknown status {query.status!r}", f"one of {known}", issues=[issue])
    async with call.plane.database.connection() as conn:
        found = await permissions.page(
            conn, call.owner_id, status=query.status, before=query.cursor, limit=limit
        )
    return _page(found, limit)


async def get(call: Call) -> Permission:
    """Read one permission request."""
    async with call.plane.database.connection() as conn:
        return await permissions.get(conn, call.owner_id, call.path["permissionRequestId"])


async def of_task(call: Call) -> Permissions:
    """List the permission requests of a task, newest first."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        found = await permissions.of_task(
            conn, call.owner_id, call.path["taskId"], before=call.query.cursor, limit=limit
        )
    return _page(found, limit)


async def respond(call: Call) -> Permission | Response:
    """Answer a permission request; the first answer counts."""
    plane, body = call.plane, call.body
    permission_id = call.path["permissionRequestId"]
    async with plane.database.transaction() as conn:
        answered = await permissions.respond(
            conn, call.owner_id, call.path["taskId"], permission_id, body.decision, body.reason
        )
    plane.wrote()
    await plane.after(partial(plane.answered, permission_id))
    if answered.refusal is not None:
        # Not raised: finding the request overdue has decided it, and that stays.
        return refusal(answered.refusal)
    return answered.permission


def _page(found: list[Permission], limit: int) -> Permissions:
    cursor = found[-1].permission_request_id if len(found) == limit else None
    return Permissions(permissions=found, next_cursor=cursor)


ENDPOINTS = [
    Endpoint("GET", "/v1/permissions", inbox, Permissions, query=InboxQuery, tag="permissions"),
    Endpoint("GET", "/v1/permissions/{permissionRequestId}", get, Permission, tag="permissions"),
    Endpoint("GET", "/v1/tasks/{taskId}/permissions", of_task, Permissions, query=Page, tag="permissions"),
    Endpoint("POST", "/v1/tasks/{taskId}/permissions/{permissionRequestId}/respond", respond, Permission,
             PermissionAnswer, tag="permissions",
             errors=("permission_already_responded", "permission_stale_assignment")),
]  # fmt: skip
