"""What is stored for peers that are connected here and was not said to them: read, and said.

The one path for all of it: a sandbox that has just connected, a call of another replica, and the slow look
that makes up for a call that was lost. What this replica itself decides it also sends at once, without
asking the store. Connections remember what was said over them, to say it once; everything may be said
twice, and a connection that has ended is forgotten with its memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from flakes.server.plane import Plane
from flakes.server.streams.hosts import push_bindings, push_leases
from flakes.store import bindings, leases, links, messages, offers, sandboxes
from flakes.wire import sandbox_stream as wire

INPUTS_PER_FRAME = 7
"""The longest messages, every character escaped, still fit into a frame."""


async def to_everybody(plane: Plane) -> None:
    """Bring every peer up to date, and let go of those that have connected elsewhere."""
    hub = plane.hub
    peer_ids = [*hub.sandboxes, *hub.hosts]
    if not peer_ids:
        return
    async with plane.database.connection() as conn:
        moved = await links.elsewhere(conn, plane.replica_id, peer_ids)
    for peer_id in moved:
        hub.drop(peer_id)
    await to_sandboxes(plane, list(hub.sandboxes))
    await to_hosts(plane, list(hub.hosts))


async def to_sandboxes(plane: Plane, sandbox_ids: Sequence[str]) -> None:
    """Offers, cancels, drains and messages that these sandboxes have not got over their connections."""
    if not sandbox_ids:
        return
    hub = plane.hub
    async with plane.database.connection() as conn:
        offered = await offers.open_of(conn, sandbox_ids)
        cancelled = await offers.cancelled_of(conn, sandbox_ids)
        draining = await sandboxes.draining(conn, sandbox_ids)
        unsent = await messages.unsent(conn, plane.replica_id, sandbox_ids)
        unoffered = hub.unoffered(sandbox_ids, offered)
        if unoffered:
            plane.send_offers(await offers.load(conn, unoffered))
    for sandbox_id, assignment_id, reason in cancelled:
        hub.cancel(sandbox_id, [assignment_id], reason, again=False)
    for sandbox_id, reason in draining:
        hub.drain(sandbox_id, reason)
    for sandbox_id, message in unsent:
        send_inputs(plane, sandbox_id, [message])


async def to_hosts(plane: Plane, host_ids: Sequence[str]) -> None:
    """Leases that these hosts have not got, and bindings that they were not told over their connections."""
    if not host_ids:
        return
    async with plane.database.connection() as conn:
        waiting = await leases.waiting(conn, host_ids)
        unanswered = await bindings.unanswered(conn, host_ids)
    for host_id in waiting:
        await push_leases(plane, host_id)
    for host_id in plane.hub.untold(unanswered):
        await push_bindings(plane, host_id)


def send_inputs(plane: Plane, sandbox_id: str, items: Sequence[wire.InputMessage]) -> None:
    """Send messages to a sandbox, a few a frame, or have the replica that holds its link look."""
    for start in range(0, len(items), INPUTS_PER_FRAME):
        frame = wire.Input(messages=list(items[start : start + INPUTS_PER_FRAME]))
        if not plane.hub.send_sandbox(sandbox_id, frame):
            plane.replicas.call(sandbox_id)
            return
