"""Routes of workpads, for people: reading, saving, and the versions."""

from __future__ import annotations

from flakes.server.routing import Call, Endpoint, Page, bounded
from flakes.store import tasks, workpads
from flakes.wire.workpads import Workpad, WorkpadPut, WorkpadVersions


async def get(call: Call) -> Workpad:
    """Read a task's workpad; version 0 is the empty one that nobody has written."""
    task_id = call.path["taskId"]
    async with call.plane.database.connection() as conn:
        await tasks.require(conn, call.owner_id, task_id)
        return await workpads.read(conn, task_id)


async def put(call: Call) -> Workpad:
    """Save a new version of a task's workpad, made from `baseVersion`."""
    task_id = call.path["taskId"]
    user_id = call.identity.subject_id
    async with call.plane.database.transaction() as conn:
        saved = await workpads.save_as_user(conn, call.owner_id, user_id, task_id, call.body)
    call.plane.wrote()
    return saved


async def versions(call: Call) -> WorkpadVersions:
    """List the versions of a task's workpad, newest first, without their text."""
    limit = bounded(call.query.limit)
    task_id = call.path["taskId"]
    async with call.plane.database.connection() as conn:
        await tasks.require(conn, call.owner_id, task_id)
        return await workpads.versions(conn, task_id, cursor=call.query.cursor, limit=limit)


async def version(call: Call) -> Workpad:
    """Read one version of a task's workpad."""
    task_id = call.path["taskId"]
    async with call.plane.database.connection() as conn:
        await tasks.require(conn, call.owner_id, task_id)
        return await workpads.read_version(conn, task_id, call.path["version"])


_WORKPAD = "/v1/tasks/{taskId}/workpad"

ENDPOINTS = [
    Endpoint("GET", _WORKPAD, get, Workpad, tag="workpads"),
    Endpoint("PUT", _WORKPAD, put, Workpad, WorkpadPut, tag="workpads",
             errors=("workpad_version_conflict", "workpad_too_large")),
    Endpoint("GET", f"{_WORKPAD}/versions", versions, WorkpadVersions, query=Page, tag="workpads"),
    Endpoint("GET", f"{_WORKPAD}/versions/{{version}}", version, Workpad, tag="workpads"),
]  # fmt: skip
