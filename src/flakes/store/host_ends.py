"""How a host leaves: disabled (and enabled again), deleted, abandoned, pruned. Every end has a preview that
answers from the same statements as the act."""

from __future__ import annotations

from flakes.core import fleet
from flakes.core.fleet import InstanceEvent, InstanceState
from flakes.store import accounts, host_credentials, hosts, leases, offers, sandboxes
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.fleet import confirmed
from flakes.wire.errors import ApiError
from flakes.wire.hosts import (
    Host,
    HostAbandonAnswer,
    HostDeleteAnswer,
    HostDisableAnswer,
    HostPrune,
    HostPruneAnswer,
    PrunedHost,
)

_DISABLE = Query("""
    update hosts set disabled_at = now(), updated_at = now()
    where host_id = %(host_id)s and disabled_at is null""")

_ENABLE = Query("""
    update hosts set disabled_at = null, updated_at = now()
    where host_id = %(host_id)s and disabled_at is not null""")

_OF_HOST = Query("""
    select sandbox_id, status from sandboxes
    where host_id = %(host_id)s and (not released or not (status = any(%(terminal)s)))
    order by sandbox_id for update""")

_HOLDINGS = Query("""
    select (select count(*) from leases where host_id = %(host_id)s and ended_at is null),
           (select count(*) from sandboxes
            where host_id = %(host_id)s and (not released or not (status = any(%(terminal)s))))""")

_DELETE = Query("""
    with gone as (delete from hosts where host_id = %(host_id)s returning host_id)
    delete from links where peer_id in (select host_id from gone)""")

_GIVE_UP = Query("""
    update sandboxes set status = 'stopped', reason = %(reason)s, released = true, ended_at = now(),
        updated_at = now()
    where sandbox_id = %(sandbox_id)s""")

_AWAY = Query("""
    select h.host_id from hosts h left join links l on l.peer_id = h.host_id
    where h.owner_id = %(owner_id)s and not coalesce(l.connected, false)
      and coalesce(l.seen_at, h.created_at) <= now() - %(offline_s)s * interval '1 s'
    order by h.host_id for update of h""")

_TERMINAL = [str(state) for state in fleet.TERMINAL]


async def disable(
    conn: Connection, owner_id: str, host_id: str, reason: str, *, preview: bool
) -> tuple[HostDisableAnswer, list[str]]:
    """Give the host nothing new and drain what it runs; also the offers to take back."""
    await hosts.lock(conn, owner_id, host_id)
    found = await _instances(conn, host_id)
    ending = [s for s, state in found if state in fleet.MOVES[InstanceEvent.STOP]]
    offered: list[str] = []
    if not preview:
        changed = await run(conn, _DISABLE, {"host_id": host_id})
        for sandbox_id, state in found:
            if state is InstanceState.DRAINING:
                continue
            event = InstanceEvent.DRAIN if state is InstanceState.RUNNING else InstanceEvent.STOP
            await leases.end(conn, sandbox_id, event, reason or "its host was disabled")
        offered = [a for _, a in await offers.open_of(conn, ending)]
        if changed:
            data = {"hostId": host_id, "reason": reason, "sandboxIds": ending}
            await hosts.record(conn, owner_id, "host.disabled", data)
    host = await hosts.get(conn, owner_id, host_id)
    return HostDisableAnswer(host=host, sandbox_ids=ending, applied=not preview), offered


async def enable(conn: Connection, owner_id: str, host_id: str) -> Host:
    """Let it have work again; doing it twice changes nothing."""
    await hosts.lock(conn, owner_id, host_id)
    if await run(conn, _ENABLE, {"host_id": host_id}):
        await hosts.record(conn, owner_id, "host.enabled", {"hostId": host_id})
    return await hosts.get(conn, owner_id, host_id)


async def delete(
    conn: Connection, owner_id: str, host_id: str, *, preview: bool
) -> HostDeleteAnswer:
    """Delete a host that holds nothing; `host_delete_blocked` otherwise."""
    host = await hosts.lock(conn, owner_id, host_id)
    blockers = await _blockers(conn, host_id, await host_credentials.usable(conn, host_id))
    if preview:
        status = "would_refuse" if blockers else "would_delete"
        return HostDeleteAnswer(status=status, host_id=host_id, blockers=blockers)
    if blockers:
        raise ApiError(
            "host_delete_blocked", f"host {host.name!r} cannot be deleted now",
            "disable it, wait for its sandboxes, and revoke its credentials; or abandon it",
            blockers=blockers,
        )  # fmt: skip
    await _delete(conn, owner_id, host)
    return HostDeleteAnswer(status="deleted", host_id=host_id)


async def abandon(
    conn: Connection, owner_id: str, host_id: str, confirm: str, reason: str
) -> tuple[HostAbandonAnswer, list[str]]:
    """Give up a host that never returns: its credentials are worthless, its instances over, its leases
    unanswered. Also the assignments that are lost with it."""
    host = await hosts.lock(conn, owner_id, host_id)
    confirmed(confirm, host_id)
    if host.status == "online":
        raise ApiError("host_conflict", "the host is connected", "disable it instead")
    await run(conn, _DISABLE, {"host_id": host_id})
    await accounts.revoke_of(conn, host_id, "abandoned")
    why = reason or "its host was abandoned"
    instances = await _instances(conn, host_id)
    found = [sandbox_id for sandbox_id, _ in instances]
    for sandbox_id, state in instances:
        if state is InstanceState.DELETING:
            await sandboxes.remove(conn, sandbox_id, "sandbox.abandoned", why)
            continue
        await run(conn, _GIVE_UP, {"sandbox_id": sandbox_id, "reason": why})
        await sandboxes.end_leases(conn, sandbox_id, why)
        await accounts.revoke_of(conn, sandbox_id, "abandoned")
        data = {"sandboxId": sandbox_id, "reason": why}
        await hosts.record(conn, owner_id, "sandbox.abandoned", data)
    lost = await sandboxes.live_of(conn, found)
    data = {"hostId": host_id, "reason": reason, "sandboxIds": found}
    await hosts.record(conn, owner_id, "host.abandoned", data)
    host = await hosts.get(conn, owner_id, host_id)
    answer = HostAbandonAnswer(host=host, sandbox_ids=found, cleared_assignments=len(lost))
    return answer, lost


async def prune(conn: Connection, owner_id: str, body: HostPrune) -> HostPruneAnswer:
    """Delete hosts that were long not connected and hold nothing; their credentials go with them."""
    gone: list[PrunedHost] = []
    kept: list[PrunedHost] = []
    params = {"owner_id": owner_id, "offline_s": body.offline_s}
    for (host_id,) in await rows(conn, _AWAY, params):
        host = await hosts.get(conn, owner_id, host_id)
        blockers = await _blockers(conn, host_id, 0)
        shown = PrunedHost(
            host_id=host_id, name=host.name, status=host.status, last_seen_at=host.last_seen_at,
            blockers=blockers,
        )  # fmt: skip
        (kept if blockers else gone).append(shown)
        if not blockers and not body.dry_run:
            await _delete(conn, owner_id, host)
    return HostPruneAnswer(dry_run=body.dry_run, hosts=gone, kept=kept)


async def _delete(conn: Connection, owner_id: str, host: Host) -> None:
    await accounts.revoke_of(conn, host.host_id, "its host was deleted")
    await run(conn, _DELETE, {"host_id": host.host_id})
    data = {"hostId": host.host_id, "name": host.name}
    await hosts.record(conn, owner_id, "host.deleted", data)


async def _blockers(conn: Connection, host_id: str, credentials: int) -> list[str]:
    found = await row(conn, _HOLDINGS, {"host_id": host_id, "terminal": _TERMINAL})
    assert found is not None
    return fleet.host_delete_blockers(credentials=credentials, leases=found[0], instances=found[1])


async def _instances(conn: Connection, host_id: str) -> list[tuple[str, InstanceState]]:
    found = await rows(conn, _OF_HOST, {"host_id": host_id, "terminal": _TERMINAL})
    return [(sandbox_id, InstanceState(status)) for sandbox_id, status in found]
