"""Routes of project roots and bindings. Paths are stored and shown, never looked at: the host does that."""

from __future__ import annotations

from flakes.server.routing import Answer, Call, Endpoint, Page, bounded
from flakes.server.streams.hosts import push_bindings
from flakes.store import bindings
from flakes.wire.bindings import (
    Binding,
    BindingDeleted,
    BindingPut,
    Bindings,
    WorkspaceRoot,
    WorkspaceRootPut,
)


async def put_root(call: Call) -> WorkspaceRoot:
    """Store where a host has the directories of its projects."""
    plane, host_id = call.plane, call.path["hostId"]
    async with plane.database.transaction() as conn:
        root = await bindings.set_root(conn, call.owner_id, host_id, call.body.path)
    await push_bindings(plane, host_id)
    plane.wrote(freed=1)
    return root


async def put(call: Call) -> Answer:
    """Bind a project to pools of a host: from then on it is placed on bound pools only."""
    plane, host_id = call.plane, call.path["hostId"]
    async with plane.database.transaction() as conn:
        binding, created = await bindings.put(
            conn, call.owner_id, host_id, call.path["projectKey"], call.body.pool_keys
        )
    await push_bindings(plane, host_id)
    plane.wrote(freed=1)
    return Answer(binding, 201 if created else 200)


async def page(call: Call) -> Bindings:
    """List the bindings of a host, newest first."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        found = await bindings.page(
            conn, call.owner_id, call.path["hostId"], before=call.query.cursor, limit=limit
        )
    cursor = found[-1].binding_id if len(found) == limit else None
    return Bindings(bindings=found, next_cursor=cursor)


async def delete(call: Call) -> BindingDeleted:
    """Unbind a project from a host."""
    plane, host_id, key = call.plane, call.path["hostId"], call.path["projectKey"]
    async with plane.database.transaction() as conn:
        await bindings.delete(conn, call.owner_id, host_id, key)
    await push_bindings(plane, host_id)
    plane.wrote(freed=1)
    return BindingDeleted(status="deleted", host_id=host_id, project_key=key)


_ONE = "/v1/hosts/{hostId}/project-bindings/{projectKey}"

ENDPOINTS = [
    Endpoint("PUT", "/v1/hosts/{hostId}/project-workspace-root", put_root, WorkspaceRoot, WorkspaceRootPut,
             tag="hosts"),
    Endpoint("GET", "/v1/hosts/{hostId}/project-bindings", page, Bindings, query=Page, tag="hosts"),
    Endpoint("PUT", _ONE, put, Binding, BindingPut, tag="hosts", creates=True,
             errors=("project_archived", "host_conflict", "limit_exceeded")),
    Endpoint("DELETE", _ONE, delete, BindingDeleted, tag="hosts"),
]  # fmt: skip
