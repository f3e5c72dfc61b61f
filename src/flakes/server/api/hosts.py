"""Routes of hosts: made, shown, changed, and how they leave. Pools come from the host alone."""

from __future__ import annotations

import msgspec

from flakes.server.plane import Plane
from flakes.server.routing import Answer, Call, Endpoint, Page, bounded
from flakes.server.streams.hosts import end_lost, push_leases, withdraw
from flakes.store import host_ends, hosts
from flakes.wire.hosts import (
    Host,
    HostAbandon,
    HostAbandonAnswer,
    HostDeleteAnswer,
    HostDisableAnswer,
    HostPatch,
    HostPools,
    HostPost,
    HostPrune,
    HostPruneAnswer,
    Hosts,
    HostSetup,
    HostSetupAnswer,
)
from flakes.wire.tasks import Reason


class Preview(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of what can be looked at before it is done."""

    dry_run: bool = False


async def setup_host(call: Call) -> Answer:
    """Create a host and its first credential; the raw credential is in this answer only."""
    async with call.plane.database.transaction() as conn:
        answer = await hosts.setup(conn, call.owner_id, call.body)
    call.plane.wrote()
    return Answer(answer, 201)


async def create_host(call: Call) -> Answer:
    """Create a host without a credential."""
    async with call.plane.database.transaction() as conn:
        host = await hosts.create(conn, call.owner_id, call.body)
    call.plane.wrote()
    return Answer(host, 201)


async def list_hosts(call: Call) -> Hosts:
    """List hosts, newest first."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        found = await hosts.page(conn, call.owner_id, before=call.query.cursor, limit=limit)
    return Hosts(hosts=found, next_cursor=found[-1].host_id if len(found) == limit else None)


async def get_host(call: Call) -> Host:
    """Read a host."""
    async with call.plane.database.connection() as conn:
        return await hosts.get(conn, call.owner_id, call.path["hostId"])


async def patch_host(call: Call) -> Host:
    """Change a host's name, metadata, or whether it binds by itself."""
    async with call.plane.database.transaction() as conn:
        host = await hosts.patch(conn, call.owner_id, call.path["hostId"], call.body)
    call.plane.wrote(freed=1)
    return host


async def list_pools(call: Call) -> HostPools:
    """List the pools a host advertises."""
    async with call.plane.database.connection() as conn:
        return HostPools(host_pools=await hosts.pools(conn, call.owner_id, call.path["hostId"]))


async def disable_host(call: Call) -> HostDisableAnswer:
    """Give a host nothing new and drain its sandboxes; `dryRun` shows which."""
    plane, host_id, reason = call.plane, call.path["hostId"], call.body.reason or ""
    async with plane.database.transaction() as conn:
        answer, offered = await host_ends.disable(
            conn, call.owner_id, host_id, reason, preview=call.query.dry_run
        )
    if answer.applied:
        await _tell(plane, host_id, answer.sandbox_ids, offered)
    return answer


async def enable_host(call: Call) -> Host:
    """Let a disabled host have work again."""
    async with call.plane.database.transaction() as conn:
        host = await host_ends.enable(conn, call.owner_id, call.path["hostId"])
    call.plane.wrote(freed=1)
    return host


async def delete_host(call: Call) -> HostDeleteAnswer:
    """Delete a host that holds nothing; `dryRun` says whether that would work."""
    async with call.plane.database.transaction() as conn:
        answer = await host_ends.delete(
            conn, call.owner_id, call.path["hostId"], preview=call.query.dry_run
        )
    call.plane.wrote()
    return answer


async def abandon_host(call: Call) -> HostAbandonAnswer:
    """Give up a host that never returns; `confirm` is its id. What it ran goes on elsewhere."""
    plane, body = call.plane, call.body
    async with plane.database.transaction() as conn:
        answer, lost = await host_ends.abandon(
            conn, call.owner_id, call.path["hostId"], body.confirm, body.reason or ""
        )
    await end_lost(plane, lost, body.reason or "its host was abandoned")
    plane.wrote(freed=1)
    return answer


async def prune_hosts(call: Call) -> HostPruneAnswer:
    """Delete hosts that were long not connected and hold nothing; `dryRun` shows which."""
    async with call.plane.database.transaction() as conn:
        answer = await host_ends.prune(conn, call.owner_id, call.body)
    call.plane.wrote()
    return answer


async def _tell(plane: Plane, host_id: str, draining: list[str], offered: list[str]) -> None:
    reason = "its host was disabled"
    await withdraw(plane, offered, reason)
    plane.reach(*draining)
    await push_leases(plane, host_id)
    plane.wrote(freed=1)


ENDPOINTS = [
    Endpoint("POST", "/v1/hosts/setup", setup_host, HostSetupAnswer, HostSetup, status=201, tag="hosts",
             secret=True, direct=True, errors=("limit_exceeded",)),
    Endpoint("POST", "/v1/hosts/prune", prune_hosts, HostPruneAnswer, HostPrune, tag="hosts"),
    Endpoint("POST", "/v1/hosts", create_host, Host, HostPost, status=201, tag="hosts",
             errors=("limit_exceeded",)),
    Endpoint("GET", "/v1/hosts", list_hosts, Hosts, query=Page, tag="hosts"),
    Endpoint("GET", "/v1/hosts/{hostId}", get_host, Host, tag="hosts"),
    Endpoint("PATCH", "/v1/hosts/{hostId}", patch_host, Host, HostPatch, tag="hosts",
             errors=("limit_exceeded",)),
    Endpoint("DELETE", "/v1/hosts/{hostId}", delete_host, HostDeleteAnswer, query=Preview, tag="hosts",
             errors=("host_delete_blocked",)),
    Endpoint("POST", "/v1/hosts/{hostId}/disable", disable_host, HostDisableAnswer, Reason, query=Preview,
             tag="hosts"),
    Endpoint("POST", "/v1/hosts/{hostId}/enable", enable_host, Host, tag="hosts"),
    Endpoint("POST", "/v1/hosts/{hostId}/abandon", abandon_host, HostAbandonAnswer, HostAbandon, tag="hosts",
             errors=("confirmation_required", "host_conflict")),
    Endpoint("GET", "/v1/hosts/{hostId}/pools", list_pools, HostPools, tag="hosts"),
]  # fmt: skip
