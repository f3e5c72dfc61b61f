"""The stream of a host: its pools, inventory and word on bindings in; leases and bindings out, each answered."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import structlog
from starlette.websockets import WebSocket

from flakes.core import limits
from flakes.core.keys import is_key
from flakes.core.task import Outcome
from flakes.server.plane import Plane
from flakes.server.streams.hub import Peer
from flakes.server.streams.socket import UNREADABLE, authenticate, frames, pump, readable
from flakes.store import accounts, bindings, hosts, leases, links, sandboxes
from flakes.store.transitions import End, Withdraw
from flakes.wire import host_stream as wire
from flakes.wire.replicas import MOVED

log = structlog.get_logger()

_decode = msgspec.json.Decoder(wire.Upstream)


async def serve(socket: WebSocket, plane: Plane) -> None:
    """`GET /v1/hosts/:hostId/stream`."""
    host_id = socket.path_params["hostId"]
    identity = await authenticate(socket, plane, "host", host_id)
    await socket.accept()
    peer = Peer(host_id, identity.owner_id, identity.token_id)
    connected = False
    try:
        async with pump(socket, peer):
            async for frame in frames(socket):
                peer.heard = True
                try:
                    message = _decode.decode(readable(frame))
                except UNREADABLE as error:
                    log.warning("stream.bad_frame", peer=host_id, error=str(error)[:200])
                    continue
                if isinstance(message, wire.Hello):
                    if message.host_id != host_id:
                        break
                    refused = _excess(message)
                    if refused:
                        log.warning("host.refused", host=host_id, reason=refused)
                        await socket.close(1008, refused)
                        break
                    connected = True
                    await _greet(plane, peer, message)
                elif connected:
                    await _receive(plane, peer, message)
    finally:
        plane.hub.remove(plane.hub.hosts, peer)
        async with plane.database.transaction() as conn:
            if await links.down(conn, host_id, peer.connection_id):
                await hosts.record(conn, peer.owner_id, "host.offline", {"hostId": host_id})
        plane.wrote()
        log.info("host.disconnected", host=host_id)


def _excess(hello: wire.Hello) -> str:
    """Which limit an advertisement breaks, or nothing."""
    if len(hello.pools) > limits.POOLS_PER_HOST_MAX:
        return f"more than {limits.POOLS_PER_HOST_MAX} pools"
    for pool in hello.pools:
        if not is_key(pool.pool_key):
            return "a poolKey is not a valid key"
        if len(pool.capabilities) > limits.CAPABILITIES_MAX:
            return f"pool {pool.pool_key} has more than {limits.CAPABILITIES_MAX} capabilities"
        for name, value in (("maxInstances", pool.max_instances), ("maxConcurrency", pool.max_concurrency)):
            if not 1 <= value <= limits.CONCURRENCY_MAX:
                return f"{name} of pool {pool.pool_key} is not within 1 and {limits.CONCURRENCY_MAX}"
    return ""


async def _greet(plane: Plane, peer: Peer, hello: wire.Hello) -> None:
    inventory = {report.instance_id: report.state for report in hello.instances}
    async with plane.database.transaction() as conn:
        owner_id, pools = await hosts.advertise(conn, hello)
        await links.up(conn, peer.peer_id, plane.replica_id, peer.connection_id)
        await accounts.used(conn, peer.token_id)
        await hosts.record(conn, owner_id, "host.online", {"hostId": peer.peer_id})
    # A transaction of its own: pools are locked after sandboxes everywhere else.
    async with plane.database.transaction() as conn:
        gone, unwanted = await sandboxes.reconcile_host(conn, peer.peer_id, inventory)
        lost = await sandboxes.gone(
            conn, gone, "the host no longer has it", backoff_s=plane.config.capacity.launch_backoff_s
        )
    peer.pools = pools
    peer.send(wire.Welcome(
        protocol=wire.PROTOCOL, heartbeat_s=plane.config.leases.heartbeat_s,
        server_time_ms=time.time_ns() // 1_000_000, pools=pools,
    ))  # fmt: skip
    plane.hub.add(plane.hub.hosts, peer)
    plane.replicas.tell(MOVED)
    for instance_id in unwanted:
        peer.send(wire.Stop(
            lease_id=f"lease_{instance_id}", instance_id=instance_id, drain=False,
            reason="not wanted any more",
        ))  # fmt: skip
    await end_lost(plane, lost, "the host no longer has its sandbox")
    await push_bindings(plane, peer.peer_id)
    await push_leases(plane, peer.peer_id, again=True)
    plane.wrote(freed=1)
    log.info("host.connected", host=peer.peer_id, pools=len(pools), instances=len(inventory))


async def _receive(plane: Plane, peer: Peer, message: wire.Upstream) -> None:
    match message:
        case wire.LeaseResult():
            backoff_s = plane.config.capacity.launch_backoff_s
            async with plane.database.transaction() as conn:
                lost = await leases.answered(
                    conn, peer.peer_id, message.lease_id, message.ok, message.reason[:500],
                    backoff_s=backoff_s,
                )  # fmt: skip
            if not message.ok:
                log.warning("host.lease_failed", host=peer.peer_id, reason=message.reason[:500])
            await end_lost(plane, lost, message.reason or "the sandbox was stopped")
            plane.wrote(freed=1)
        case wire.InstanceExited():
            reason = message.reason[:500] or "it exited"
            backoff_s = plane.config.capacity.launch_backoff_s
            async with plane.database.transaction() as conn:
                lost = await sandboxes.exited(
                    conn, peer.peer_id, message.instance_id, reason, backoff_s=backoff_s,
                    released=not message.left,
                )  # fmt: skip
            await end_lost(plane, lost, reason)
            plane.wrote(freed=1)
        case wire.BindingReport():
            async with plane.database.transaction() as conn:
                states = message.bindings[: limits.BINDINGS_PER_HOST_MAX]
                changed = await bindings.report(conn, peer.owner_id, peer.peer_id, states)
            if changed:
                plane.wrote(freed=1)
        case wire.Hello() | wire.Heartbeat():
            pass


async def end_lost(plane: Plane, assignment_ids: Sequence[str], reason: str) -> None:
    """Requeue the work of sandboxes that are known to be dead."""
    error = {"code": "sandbox_lost", "message": reason}
    await plane.end_attempts(
        [End(assignment_id, None, Outcome.LOST, reason, error) for assignment_id in assignment_ids]
    )


async def push_leases(plane: Plane, host_id: str, *, again: bool = False) -> None:
    """Send a host what it was not sent yet (`again`: all it has not confirmed); one that is connected to
    another replica is sent it there."""
    if host_id not in plane.hub.hosts:
        plane.replicas.call(host_id)
        return
    async with plane.database.transaction() as conn:
        opened = await leases.open_leases(conn, host_id, again=again)
    for lease in opened:
        if lease.action == "launch":
            message = wire.Launch(
                lease_id=lease.lease_id, instance_id=lease.instance_id, sandbox_id=lease.sandbox_id,
                pool_key=lease.pool_key, sandbox_token=lease.token,
            )  # fmt: skip
        else:
            message = wire.Stop(
                lease_id=lease.lease_id, instance_id=lease.instance_id, drain=lease.drain,
                reason=lease.reason,
            )  # fmt: skip
        plane.hub.send_host(host_id, message)


async def push_bindings(plane: Plane, host_id: str) -> None:
    """Let a host look at its bindings; one that is connected to another replica is sent them there."""
    if host_id not in plane.hub.hosts:
        plane.replicas.call(host_id)
        return
    async with plane.database.connection() as conn:
        found = await bindings.of_host(conn, host_id)
    peer = plane.hub.hosts.get(host_id)
    if peer is not None:
        peer.bindings = {each.binding_id: each.revision for each in found.bindings}
        peer.send(found)


async def withdraw(plane: Plane, assignment_ids: Sequence[str], reason: str) -> None:
    """Take offers back that nobody has accepted; those accepted meanwhile stay."""
    if assignment_ids:
        await plane.transitions.write([Withdraw(a, reason, at_once=True) for a in assignment_ids])
