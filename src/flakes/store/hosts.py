"""Hosts and their advertised pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flakes.core import fleet, isolation, limits
from flakes.store import host_credentials
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.definitions import check_size
from flakes.store.identifiers import new_id
from flakes.wire.codec import Issue, encode
from flakes.wire.errors import ApiError, not_found
from flakes.wire.host_stream import Hello, PoolAdvertisement
from flakes.wire.hosts import Host, HostPatch, HostPool, HostPost, HostSetup, HostSetupAnswer

_INSERT = Query("""
    insert into hosts (host_id, owner_id, name, auto_bind, metadata)
    values (%(host_id)s, %(owner_id)s, %(name)s, %(auto_bind)s, %(metadata)s::json)""")

_COLUMNS = """
    select h.host_id, h.name, h.auto_bind, h.disabled_at, l.connected, l.seen_at, h.platform, h.arch,
           h.version, h.metadata, h.created_at, h.updated_at, h.project_root
    from hosts h left join links l on l.peer_id = h.host_id"""

_GET = Query(f"{_COLUMNS} where h.owner_id = %(owner_id)s and h.host_id = %(host_id)s")

_LOCK = Query("""
    select 1 from hosts where owner_id = %(owner_id)s and host_id = %(host_id)s for update""")

_LIST = Query(f"""{_COLUMNS}
    where h.owner_id = %(owner_id)s and (%(before)s::text is null or h.host_id < %(before)s)
    order by h.host_id desc limit %(limit)s""")

_PATCH = Query("""
    update hosts set name = coalesce(%(name)s, name), auto_bind = coalesce(%(auto_bind)s, auto_bind),
        metadata = coalesce(%(metadata)s::json, metadata), updated_at = now()
    where owner_id = %(owner_id)s and host_id = %(host_id)s""")

_SEEN = Query("""
    update hosts set platform = %(platform)s, arch = %(arch)s, version = %(version)s,
        updated_at = now()
    where host_id = %(host_id)s returning owner_id""")

_ADVERTISE = Query("""
    insert into host_pools (pool_id, host_id, pool_key, provider, adapter, max_instances,
                            max_concurrency, capabilities, resource_bounds, available, launch_failure)
    values (%(pool_id)s, %(host_id)s, %(pool_key)s, %(provider)s, %(adapter)s, %(max_instances)s,
            %(max_concurrency)s, %(capabilities)s, %(resource_bounds)s::json, %(unavailable)s::text is null,
            %(unavailable)s)
    on conflict (host_id, pool_key) do update
    set provider = excluded.provider, adapter = excluded.adapter,
        max_instances = excluded.max_instances, max_concurrency = excluded.max_concurrency,
        capabilities = excluded.capabilities, resource_bounds = excluded.resource_bounds,
        available = excluded.available, launch_failure = excluded.launch_failure, launch_retry_at = null, launch_failures = 0,
        updated_at = now()
    returning pool_id""")

_WITHDRAW = Query("""
    update host_pools set available = false, updated_at = now()
    where host_id = %(host_id)s and not (pool_key = any(%(pool_keys)s)) and available""")

_POOLS = Query("""
    select p.pool_id, p.host_id, p.pool_key, p.provider, p.adapter, p.max_instances,
           p.max_concurrency, p.capabilities, p.resource_bounds, p.available, p.launch_failure,
           p.launch_failures, p.launch_retry_at
    from host_pools p join hosts h using (host_id)
    where h.owner_id = %(owner_id)s and p.host_id = %(host_id)s order by p.pool_key""")

_EVENT = Query("""
    insert into events (owner_id, type, data) values (%(owner_id)s, %(type)s, %(data)s::json)""")


async def setup(conn: Connection, owner_id: str, body: HostSetup) -> HostSetupAnswer:
    """A host and its first credential, together."""
    made = HostPost(name=body.host_name, metadata=body.metadata, auto_bind=body.auto_bind)
    host = await create(conn, owner_id, made)
    credential, raw = await host_credentials.issue(conn, owner_id, host.host_id, "first credential")
    return HostSetupAnswer(host=host, credential=credential, raw_credential=raw)


async def create(conn: Connection, owner_id: str, body: HostPost) -> Host:
    """A host without a credential."""
    _check_metadata(body.metadata)
    host_id = new_id("host")
    await run(conn, _INSERT, {
        "host_id": host_id, "owner_id": owner_id, "name": body.name,
        "auto_bind": body.auto_bind, "metadata": encode(body.metadata).decode(),
    })  # fmt: skip
    await record(conn, owner_id, "host.created", {"hostId": host_id, "name": body.name})
    return await get(conn, owner_id, host_id)


async def get(conn: Connection, owner_id: str, host_id: str) -> Host:
    """One host."""
    found = await row(conn, _GET, {"owner_id": owner_id, "host_id": host_id})
    if found is None:
        raise not_found("host")
    return _host(found)


async def lock(conn: Connection, owner_id: str, host_id: str) -> Host:
    """One host, which nobody else changes before this transaction ends."""
    if await row(conn, _LOCK, {"owner_id": owner_id, "host_id": host_id}) is None:
        raise not_found("host")
    return await get(conn, owner_id, host_id)


async def page(conn: Connection, owner_id: str, *, before: str | None, limit: int) -> list[Host]:
    """Newest first."""
    params = {"owner_id": owner_id, "before": before, "limit": limit}
    return [_host(r) for r in await rows(conn, _LIST, params)]


async def patch(conn: Connection, owner_id: str, host_id: str, body: HostPatch) -> Host:
    """Change what is there for people; what a host reports of itself never comes from here."""
    if body.metadata is not None:
        _check_metadata(body.metadata)
    await lock(conn, owner_id, host_id)
    await run(conn, _PATCH, {
        "owner_id": owner_id, "host_id": host_id, "name": body.name, "auto_bind": body.auto_bind,
        "metadata": None if body.metadata is None else encode(body.metadata).decode(),
    })  # fmt: skip
    await record(conn, owner_id, "host.updated", {"hostId": host_id})
    return await get(conn, owner_id, host_id)


async def pools(conn: Connection, owner_id: str, host_id: str) -> list[HostPool]:
    """The pools of a host, by key."""
    await get(conn, owner_id, host_id)
    names = ("pool_id", "host_id", "pool_key", "provider", "adapter", "max_instances",
             "max_concurrency", "capabilities", "resource_bounds", "available", "launch_failure",
             "launch_failures", "launch_retry_at")  # fmt: skip
    found = await rows(conn, _POOLS, {"owner_id": owner_id, "host_id": host_id})
    pools = [dict(zip(names, r, strict=True)) for r in found]
    return [HostPool(isolation=isolation.label(pool["provider"]), **pool) for pool in pools]


async def advertise(conn: Connection, hello: Hello) -> tuple[str, dict[str, str]]:
    """Take over what a host says of itself: owner id, and pool ids by key."""
    found = await row(conn, _SEEN, {
        "host_id": hello.host_id, "platform": hello.platform, "arch": hello.arch,
        "version": hello.version,
    })  # fmt: skip
    assert found is not None
    ids = {pool.pool_key: await _advertise(conn, hello.host_id, pool) for pool in hello.pools}
    await run(conn, _WITHDRAW, {"host_id": hello.host_id, "pool_keys": list(ids)})
    return found[0], ids


async def record(conn: Connection, owner_id: str, type_: str, data: dict[str, Any]) -> None:
    """An event of the fleet."""
    await run(conn, _EVENT, {"owner_id": owner_id, "type": type_, "data": encode(data).decode()})


async def _advertise(conn: Connection, host_id: str, pool: PoolAdvertisement) -> str:
    found = await row(conn, _ADVERTISE, {
        "pool_id": new_id("pool"), "host_id": host_id, "pool_key": pool.pool_key,
        "provider": pool.provider, "adapter": pool.adapter, "max_instances": pool.max_instances,
        "max_concurrency": pool.max_concurrency, "capabilities": sorted(set(pool.capabilities)),
        "resource_bounds": encode(pool.resource_bounds).decode(),
        "unavailable": pool.unavailable[:500] or None,
    })  # fmt: skip
    assert found is not None
    return found[0]


def _check_metadata(metadata: dict[str, Any]) -> None:
    check_size("metadata", metadata, limits.METADATA_SIZE_BYTES_MAX)
    wrong = list(fleet.local_keys(metadata))
    if wrong:
        says = "is kept by the host, not in its metadata"
        issues = [Issue(path=path, message=says) for path in wrong[:20]]
        raise ApiError(
            "invalid_request", f"{wrong[0]} {says}",
            "leave out keys about runtime, adapters, paths, env, images, providers and status",
            issues=issues,
        )  # fmt: skip


def status_of(disabled: bool, connected: bool | None) -> str:
    """The host state that users see, from what is stored."""
    if disabled:
        return "disabled"
    return "created" if connected is None else "online" if connected else "offline"


def _host(r: Sequence[Any]) -> Host:
    (host_id, name, auto_bind, disabled_at, connected, seen_at, platform, arch, version, metadata,
     created_at, updated_at, root) = r  # fmt: skip
    return Host(
        host_id=host_id, name=name, auto_bind=auto_bind, platform=platform, arch=arch,
        version=version, metadata=metadata, last_seen_at=seen_at, created_at=created_at,
        updated_at=updated_at, status=status_of(disabled_at is not None, connected),
        disabled_at=disabled_at, project_workspace_root=root,
    )  # fmt: skip
