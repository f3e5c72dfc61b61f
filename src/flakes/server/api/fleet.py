"""Routes of hosts, pools and sandboxes."""

from __future__ import annotations

from flakes.server.routing import Answer, Call, Endpoint, Page, bounded
from flakes.store import hosts, sandboxes
from flakes.wire.hosts import (
    Host,
    HostPools,
    Hosts,
    HostSetup,
    HostSetupAnswer,
    Sandbox,
    Sandboxes,
    SandboxPost,
    SandboxPostAnswer,
)


async def setup_host(call: Call) -> Answer:
    """Create a host and its first credential; the raw credential is in this answer only."""
    async with call.plane.database.transaction() as conn:
        return Answer(await hosts.setup(conn, call.owner_id, call.body), 201)


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


async def list_pools(call: Call) -> HostPools:
    """List the pools a host advertises."""
    async with call.plane.database.connection() as conn:
        return HostPools(host_pools=await hosts.pools(conn, call.owner_id, call.path["hostId"]))


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


ENDPOINTS = [
    Endpoint("POST", "/v1/hosts/setup", setup_host, HostSetupAnswer, HostSetup, status=201, tag="hosts",
             secret=True, errors=("limit_exceeded",)),
    Endpoint("GET", "/v1/hosts", list_hosts, Hosts, query=Page, tag="hosts"),
    Endpoint("GET", "/v1/hosts/{hostId}", get_host, Host, tag="hosts"),
    Endpoint("GET", "/v1/hosts/{hostId}/pools", list_pools, HostPools, tag="hosts"),
    Endpoint("POST", "/v1/sandboxes", register_sandbox, SandboxPostAnswer, SandboxPost, status=201,
             secret=True, tag="sandboxes"),
    Endpoint("GET", "/v1/sandboxes", list_sandboxes, Sandboxes, query=Page, tag="sandboxes"),
    Endpoint("GET", "/v1/sandboxes/{sandboxId}", get_sandbox, Sandbox, tag="sandboxes"),
]  # fmt: skip
