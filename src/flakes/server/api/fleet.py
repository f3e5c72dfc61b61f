"""Routes of the sandbox fleet."""

from __future__ import annotations

from flakes.server.plane import Plane
from flakes.server.routing import Answer, Call, Endpoint, Page, bounded
from flakes.server.streams.hosts import end_lost, push_leases, withdraw
from flakes.store import fleet, sandboxes
from flakes.store.fleet import Asked
from flakes.wire.hosts import (
    Sandbox,
    SandboxAbandon,
    SandboxDeleteAnswer,
    SandboxDrainAnswer,
    Sandboxes,
    SandboxPost,
    SandboxPostAnswer,
)
from flakes.wire.tasks import Reason


async def register_sandbox(call: Call) -> Answer:
    """Create a sandbox that is run by hand, and its credential; shown in this answer only."""
    async with call.plane.database.transaction() as conn:
        return Answer(await sandboxes.register(conn, call.owner_id, call.body), 201)


async def list_sandboxes(call: Call) -> Sandboxes:
    """List sandboxes, newest first, ended ones included."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        found = await sandboxes.page(conn, call.owner_id, before=call.query.cursor, limit=limit)
    cursor = found[-1].sandbox_id if len(found) == limit else None
    return Sandboxes(sandboxes=found, next_cursor=cursor)


async def get_sandbox(call: Call) -> Sandbox:
    """Read a sandbox."""
    async with call.plane.database.connection() as conn:
        return await sandboxes.get(conn, call.owner_id, call.path["sandboxId"])


async def drain_sandbox(call: Call) -> SandboxDrainAnswer:
    """Let a sandbox take nothing new, and end when what it runs has ended."""
    plane, sandbox_id, reason = call.plane, call.path["sandboxId"], call.body.reason or "drained"
    async with plane.database.transaction() as conn:
        asked = await fleet.drain(conn, call.owner_id, sandbox_id, reason)
    await _tell(plane, asked, reason)
    plane.reach(sandbox_id)
    return await _shown(call, sandbox_id, asked)


async def stop_sandbox(call: Call) -> SandboxDrainAnswer:
    """Let the host of a sandbox end it; what it runs goes on elsewhere."""
    plane, sandbox_id, reason = call.plane, call.path["sandboxId"], call.body.reason or "stopped"
    async with plane.database.transaction() as conn:
        asked = await fleet.stop(conn, call.owner_id, sandbox_id, reason)
    await _tell(plane, asked, reason)
    plane.reach(sandbox_id)
    return await _shown(call, sandbox_id, asked)


async def delete_sandbox(call: Call) -> SandboxDeleteAnswer:
    """Delete a sandbox that is over, at once or once its host has cleaned up."""
    plane, sandbox_id = call.plane, call.path["sandboxId"]
    async with plane.database.transaction() as conn:
        asked = await fleet.delete(conn, call.owner_id, sandbox_id)
    await _tell(plane, asked, "the sandbox was deleted")
    return _deleted(sandbox_id, asked)


async def abandon_sandbox(call: Call) -> SandboxDeleteAnswer:
    """Give up a sandbox that nobody can clean up after; `confirm` is its id."""
    plane, sandbox_id, body = call.plane, call.path["sandboxId"], call.body
    async with plane.database.transaction() as conn:
        asked = await fleet.abandon(
            conn, call.owner_id, sandbox_id, body.confirm, body.reason or ""
        )
    await end_lost(plane, asked.lost, body.reason or "its sandbox was abandoned")
    await _tell(plane, asked, "abandoned")
    return _deleted(sandbox_id, asked)


async def _tell(plane: Plane, asked: Asked, reason: str) -> None:
    await withdraw(plane, asked.offered, reason)
    if asked.host_id is not None:
        await push_leases(plane, asked.host_id)
    plane.wrote(freed=1)


async def _shown(call: Call, sandbox_id: str, asked: Asked) -> SandboxDrainAnswer:
    async with call.plane.database.connection() as conn:
        sandbox = await sandboxes.get(conn, call.owner_id, sandbox_id)
    return SandboxDrainAnswer(sandbox=sandbox, cleared_assignments=len(asked.offered))


def _deleted(sandbox_id: str, asked: Asked) -> SandboxDeleteAnswer:
    return SandboxDeleteAnswer(
        status=asked.status, sandbox_id=sandbox_id, instance_id=asked.instance_id,
        cleared_assignments=len(asked.offered) + len(asked.lost),
    )  # fmt: skip


_ONE = "/v1/sandboxes/{sandboxId}"

ENDPOINTS = [
    Endpoint("POST", "/v1/sandboxes", register_sandbox, SandboxPostAnswer, SandboxPost, status=201,
             secret=True, tag="sandboxes"),
    Endpoint("GET", "/v1/sandboxes", list_sandboxes, Sandboxes, query=Page, tag="sandboxes"),
    Endpoint("GET", _ONE, get_sandbox, Sandbox, tag="sandboxes"),
    Endpoint("DELETE", _ONE, delete_sandbox, SandboxDeleteAnswer, tag="sandboxes",
             errors=("sandbox_delete_blocked",)),
    Endpoint("POST", _ONE + "/drain", drain_sandbox, SandboxDrainAnswer, Reason, tag="sandboxes",
             errors=("sandbox_conflict",)),
    Endpoint("POST", _ONE + "/stop", stop_sandbox, SandboxDrainAnswer, Reason, tag="sandboxes",
             errors=("sandbox_conflict",)),
    Endpoint("POST", _ONE + "/abandon", abandon_sandbox, SandboxDeleteAnswer, SandboxAbandon,
             tag="sandboxes", errors=("sandbox_conflict", "confirmation_required")),
]  # fmt: skip
