"""Sandboxes: their rows, and what hosts and daemons say of them. Every move of a state is one of `core.fleet`.

Leases are in `leases`; what an owner asks for is in `fleet`. A sandbox's row is locked before its leases,
and a pool's before neither: so nothing here waits in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flakes.core import fleet, isolation
from flakes.core.fleet import InstanceEvent, InstanceState
from flakes.store import accounts
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.hosts import record
from flakes.store.identifiers import new_id
from flakes.wire.errors import not_found
from flakes.wire.hosts import Cleanup, Sandbox, SandboxPost, SandboxPostAnswer
from flakes.wire.sandbox_stream import Hello

_COLUMNS = """
    select s.sandbox_id, s.instance_id, s.name, s.status, l.connected,
           l.seen_at > now() - interval '40 s', s.adapters, s.capabilities, s.max_concurrency,
           (select count(*) from assignments a where a.sandbox_id = s.sandbox_id and a.live),
           s.host_id, s.pool_id, p.provider, s.reason, l.seen_at, s.created_at, s.updated_at,
           s.released, s.cleanup_attempts, s.cleanup_next_at, s.cleanup_error, hl.connected
    from sandboxes s
    left join links l on l.peer_id = s.sandbox_id
    left join links hl on hl.peer_id = s.host_id
    left join host_pools p on p.pool_id = s.pool_id"""

_GET = Query(f"{_COLUMNS} where s.owner_id = %(owner_id)s and s.sandbox_id = %(sandbox_id)s")

_LIST = Query(f"""{_COLUMNS}
    where s.owner_id = %(owner_id)s and (%(before)s::text is null or s.sandbox_id < %(before)s)
    order by s.sandbox_id desc limit %(limit)s""")

INSERT = Query("""
    insert into sandboxes (sandbox_id, instance_id, owner_id, name, pool_id, host_id, status, released)
    values (%(sandbox_id)s, %(instance_id)s, %(owner_id)s, %(name)s, %(pool_id)s, %(host_id)s,
            %(status)s, %(host_id)s::text is null)""")

# The table of one event, from `core.fleet`; a row in another state is left alone.
_MOVE = Query("""
    update sandboxes s
    set status = m.after, reason = coalesce(%(reason)s, s.reason), updated_at = now(),
        ended_at = case when m.after = any(%(terminal)s) or m.after = 'expired' then now() end
    from unnest(%(before)s::text[], %(after)s::text[]) as m(before, after)
    where s.sandbox_id = %(sandbox_id)s and s.status = m.before
    returning s.owner_id, s.pool_id, s.host_id, s.instance_id, m.before, s.status""")

_RELEASE = Query("""
    update sandboxes set released = true, cleanup_next_at = null, cleanup_error = null
    where sandbox_id = %(sandbox_id)s and not released""")

_REMOVE = Query("""
    with gone as (
        delete from sandboxes where sandbox_id = %(sandbox_id)s returning sandbox_id, owner_id
    ), unlinked as (
        delete from links where peer_id in (select sandbox_id from gone)
    )
    select owner_id from gone""")

_IS_DELETING = Query("""
    select 1 from sandboxes where sandbox_id = %(sandbox_id)s and status = 'deleting' for update""")

_END_LEASES_OF = Query("""
    update leases set ended_at = now(), ok = false, reason = %(reason)s
    where sandbox_id = %(sandbox_id)s and ended_at is null""")

_LAUNCH_FAILED = Query("""
    update host_pools
    set launch_failure = %(reason)s, launch_failures = launch_failures + 1, updated_at = now(),
        launch_retry_at = now()
            + least(300, %(backoff_s)s * power(2, least(launch_failures, 10))) * interval '1 s'
    where pool_id = %(pool_id)s""")

_LAUNCH_WORKED = Query("""
    update host_pools set launch_failure = null, launch_retry_at = null, launch_failures = 0
    where pool_id = %(pool_id)s and launch_failure is not null""")

_HELLO = Query("""
    update sandboxes set adapters = %(adapters)s, capabilities = %(capabilities)s,
        max_concurrency = %(slots)s
    where sandbox_id = %(sandbox_id)s""")

_BY_INSTANCE = Query("""
    select sandbox_id from sandboxes
    where instance_id = %(instance_id)s and host_id = %(host_id)s""")

# A launch that the host has not answered may not have reached it.
_OF_HOST = Query("""
    select s.sandbox_id, s.instance_id, s.status,
           s.status = 'pending_launch' or s.status = 'launching' and exists (
               select 1 from leases e
               where e.sandbox_id = s.sandbox_id and e.action = 'launch' and e.ended_at is null)
    from sandboxes s
    where s.host_id = %(host_id)s and (not s.released or s.status = any(%(counted)s))""")

_LIVE_ASSIGNMENTS = Query("""
    select assignment_id from assignments where sandbox_id = any(%(sandbox_ids)s) and live""")

_CLEAN_NOW = Query("""
    update sandboxes set cleanup_next_at = now() where sandbox_id = any(%(sandbox_ids)s)""")

_OVERDUE = Query("""
    select sandbox_id, pool_id from sandboxes
    where status in ('pending_launch', 'launching') and host_id is not null
      and updated_at < now() - %(timeout_s)s * interval '1 s'""")

# Idle: connected, managed by a host, nothing live, nothing ended lately.
_IDLE = Query("""
    select s.sandbox_id from sandboxes s
    where s.status = 'running' and s.host_id is not null
      and s.updated_at < now() - %(idle_s)s * interval '1 s'
      and not exists (select 1 from assignments a where a.sandbox_id = s.sandbox_id and a.live)
      and coalesce((select max(a.ended_at) from assignments a
                    where a.sandbox_id = s.sandbox_id and not a.live), s.created_at)
          < now() - %(idle_s)s * interval '1 s'""")

_OF_STATE = Query("""
    select s.sandbox_id from sandboxes s left join links l on l.peer_id = s.host_id
    where s.status = %(status)s and s.host_id is not null and l.connected
      and s.updated_at < now() - %(for_s)s * interval '1 s'""")

# Draining, with a host that is heard and a daemon that is not.
_STUCK = Query("""
    select s.sandbox_id from sandboxes s
    join links h on h.peer_id = s.host_id left join links l on l.peer_id = s.sandbox_id
    where s.status = 'draining' and h.connected
      and s.updated_at < now() - %(silent_s)s * interval '1 s'
      and coalesce(l.seen_at < now() - %(silent_s)s * interval '1 s', true)""")

# Nobody watches the process of one that was started by hand: it says goodbye by hanging up with nothing left.
_LEFT = Query("""
    select 1 from sandboxes s
    where s.sandbox_id = %(sandbox_id)s and s.status = 'draining' and s.host_id is null
      and not exists (select 1 from assignments a where a.sandbox_id = s.sandbox_id and a.live)
    for update""")

_DRAINING = Query("""
    select sandbox_id, coalesce(reason, '') from sandboxes
    where sandbox_id = any(%(sandbox_ids)s) and status in ('draining', 'stopping')""")


@dataclass(frozen=True, slots=True)
class Moved:
    """A sandbox whose state an event has changed (or, where the table says so, kept)."""

    sandbox_id: str
    owner_id: str
    pool_id: str | None
    host_id: str | None
    instance_id: str
    before: InstanceState
    after: InstanceState


async def register(conn: Connection, owner_id: str, body: SandboxPost) -> SandboxPostAnswer:
    """A sandbox that somebody runs by hand, and its credential."""
    sandbox_id = new_id("sandbox")
    await run(conn, INSERT, {
        "sandbox_id": sandbox_id, "instance_id": instance_of(sandbox_id), "owner_id": owner_id,
        "name": body.name, "pool_id": None, "host_id": None, "status": "launching",
    })  # fmt: skip
    raw = await accounts.issue_token(conn, "sandbox", owner_id, sandbox_id, body.name)
    return SandboxPostAnswer(
        sandbox=await get(conn, owner_id, sandbox_id), raw_credential=raw
    )


async def get(conn: Connection, owner_id: str, sandbox_id: str) -> Sandbox:
    """One sandbox."""
    found = await row(conn, _GET, {"owner_id": owner_id, "sandbox_id": sandbox_id})
    if found is None:
        raise not_found("sandbox")
    return _sandbox(found)


async def page(
    conn: Connection, owner_id: str, *, before: str | None, limit: int
) -> list[Sandbox]:
    """Newest first."""
    params = {"owner_id": owner_id, "before": before, "limit": limit}
    return [_sandbox(r) for r in await rows(conn, _LIST, params)]


async def move(
    conn: Connection, sandbox_id: str, event: InstanceEvent, reason: str | None = None
) -> Moved | None:
    """What the table says; None when it says nothing for the state that the sandbox is in."""
    before, after = fleet.moves(event)
    found = await row(conn, _MOVE, {
        "sandbox_id": sandbox_id, "before": before, "after": after, "reason": reason or None,
        "terminal": [str(state) for state in fleet.TERMINAL],
    })  # fmt: skip
    if found is None:
        return None
    owner_id, pool_id, host_id, instance_id, old, new = found
    return Moved(
        sandbox_id, owner_id, pool_id, host_id, instance_id, InstanceState(old), InstanceState(new)
    )


async def gone(
    conn: Connection,
    sandbox_ids: Sequence[str],
    reason: str,
    *,
    backoff_s: float = 0.0,
    released: bool = True,
) -> list[str]:
    """The host says that these are gone; the assignments that are lost with them. One that never connected
    is a failed launch, and the next waits: a daemon that dies at its start must not be started in a circle.
    `released`: nothing of them is left."""
    for sandbox_id in sandbox_ids:
        if await row(conn, _IS_DELETING, {"sandbox_id": sandbox_id}) is not None:
            if released:
                await remove(conn, sandbox_id, "sandbox.deleted")
            continue
        moved = await move(conn, sandbox_id, InstanceEvent.GONE, reason)
        if released:
            await release(conn, sandbox_id)
        if moved is not None:
            await _ended(conn, moved, reason, backoff_s)
    return await live_of(conn, sandbox_ids)


async def failed(
    conn: Connection, sandbox_ids: Sequence[str], reason: str, *, backoff_s: float, released: bool
) -> list[str]:
    """Launches that failed; assignments that are lost with them. `released`: nothing of them is left."""
    for sandbox_id in sandbox_ids:
        moved = await move(conn, sandbox_id, InstanceEvent.FAILED, reason)
        if moved is None:
            continue
        if released or moved.before is InstanceState.PENDING_LAUNCH:
            await release(conn, sandbox_id)
        await _ended(conn, moved, reason, backoff_s)
    return await live_of(conn, sandbox_ids)


async def silent(conn: Connection, sandbox_ids: Sequence[str], reason: str) -> None:
    """Nothing was heard of these for too long. They keep their credentials: they may come back (F19)."""
    for sandbox_id in sandbox_ids:
        moved = await move(conn, sandbox_id, InstanceEvent.SILENT, reason)
        if moved is not None:
            await end_leases(conn, sandbox_id, reason)
            await record(
                conn, moved.owner_id, "sandbox.expired", {"sandboxId": sandbox_id, "reason": reason}
            )


async def release(conn: Connection, sandbox_id: str) -> None:
    """Nothing of it is left on its host."""
    await run(conn, _RELEASE, {"sandbox_id": sandbox_id})


async def remove(conn: Connection, sandbox_id: str, event: str, reason: str = "") -> None:
    """Delete the row; what its tasks have recorded stays."""
    await accounts.revoke_of(conn, sandbox_id, "deleted")
    found = await row(conn, _REMOVE, {"sandbox_id": sandbox_id})
    if found is not None:
        data = {"sandboxId": sandbox_id} | ({"reason": reason} if reason else {})
        await record(conn, found[0], event, data)


async def greet(conn: Connection, hello: Hello) -> str | None:
    """Take over what a sandbox says of itself; its owner id, or None when it is not wanted any more.

    One that was written off while its link was cut comes back as running (F19).
    """
    moved = await move(conn, hello.sandbox_id, InstanceEvent.CONNECTED)
    if moved is None:
        return None
    await run(conn, _HELLO, {
        "sandbox_id": hello.sandbox_id, "adapters": sorted(set(hello.adapters)),
        "capabilities": sorted(set(hello.capabilities)), "slots": hello.max_concurrency,
    })  # fmt: skip
    if moved.before in fleet.LAUNCHING:
        if moved.pool_id is not None:
            await run(conn, _LAUNCH_WORKED, {"pool_id": moved.pool_id})
        await record(conn, moved.owner_id, "sandbox.running", {"sandboxId": hello.sandbox_id})
    return moved.owner_id


async def reconcile_host(
    conn: Connection, host_id: str, inventory: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Compare a host's inventory (instance id → state) with what is stored: sandboxes that are gone, and
    instances the host should stop because nobody knows them. Those that should be over are cleaned up."""
    counted = [str(state) for state in fleet.COUNTED]
    known = await rows(conn, _OF_HOST, {"host_id": host_id, "counted": counted})
    absent = [
        sandbox_id
        for sandbox_id, instance_id, _, unanswered in known
        if inventory.get(instance_id, "absent") in ("absent", "exited") and not unanswered
    ]
    over = {str(state) for state in fleet.CLEANED}
    left = [s for s, instance_id, status, _ in known if instance_id in inventory and status in over]
    await run(conn, _CLEAN_NOW, {"sandbox_ids": list(set(left) - set(absent))})
    wanted = {r[1] for r in known}
    return absent, [i for i, state in inventory.items() if i not in wanted and state != "exited"]


async def exited(
    conn: Connection,
    host_id: str,
    instance_id: str,
    reason: str,
    *,
    backoff_s: float,
    released: bool,
) -> list[str]:
    """An instance of this host is gone; the assignments that are lost with it."""
    found = await row(conn, _BY_INSTANCE, {"instance_id": instance_id, "host_id": host_id})
    if found is None:
        return []
    return await gone(conn, [found[0]], reason, backoff_s=backoff_s, released=released)


async def left(conn: Connection, sandbox_id: str) -> None:
    """A daemon hung up. One that was started by hand, and drained, has ended."""
    if await row(conn, _LEFT, {"sandbox_id": sandbox_id}) is not None:
        await gone(conn, [sandbox_id], "drained")


async def overdue(conn: Connection, timeout_s: float) -> list[str]:
    """Launches that nothing came of."""
    return [r[0] for r in await rows(conn, _OVERDUE, {"timeout_s": timeout_s})]


async def idle(conn: Connection, idle_s: float) -> list[str]:
    """Sandboxes of hosts that have had nothing to do for that long."""
    return [r[0] for r in await rows(conn, _IDLE, {"idle_s": idle_s})]


async def long_in(conn: Connection, status: InstanceState, for_s: float) -> list[str]:
    """Sandboxes that have been in a state for that long, of hosts that are connected."""
    return [r[0] for r in await rows(conn, _OF_STATE, {"status": str(status), "for_s": for_s})]


async def stuck(conn: Connection, silent_s: float) -> list[str]:
    """Draining sandboxes whose daemons say nothing any more, of hosts that are connected."""
    return [r[0] for r in await rows(conn, _STUCK, {"silent_s": silent_s})]


async def draining(conn: Connection, sandbox_ids: Sequence[str]) -> list[tuple[str, str]]:
    """(sandbox id, reason) of those that are to take nothing new, and to end when nothing is left to do."""
    return await rows(conn, _DRAINING, {"sandbox_ids": list(sandbox_ids)})


async def live_of(conn: Connection, sandbox_ids: Sequence[str]) -> list[str]:
    """Assignments that these sandboxes hold, accepted or not."""
    found = await rows(conn, _LIVE_ASSIGNMENTS, {"sandbox_ids": list(sandbox_ids)})
    return [r[0] for r in found]


async def end_leases(conn: Connection, sandbox_id: str, reason: str) -> None:
    """Nobody waits for the answers to these any more."""
    await run(conn, _END_LEASES_OF, {"sandbox_id": sandbox_id, "reason": reason})


def instance_of(sandbox_id: str) -> str:
    """The name that the host gives to what it runs."""
    return f"instance_{sandbox_id.removeprefix('sandbox_')}"


async def _ended(conn: Connection, moved: Moved, reason: str, backoff_s: float) -> None:
    """What goes with the end of a sandbox, whichever it was."""
    await end_leases(conn, moved.sandbox_id, reason)
    await accounts.revoke_of(conn, moved.sandbox_id, "its sandbox ended")
    data = {"sandboxId": moved.sandbox_id, "reason": reason}
    if moved.after is InstanceState.FAILED and moved.pool_id is not None:
        params = {"pool_id": moved.pool_id, "reason": reason, "backoff_s": backoff_s}
        await run(conn, _LAUNCH_FAILED, params)
        await record(conn, moved.owner_id, "sandbox.launch_failed", data)
    else:
        await record(conn, moved.owner_id, "sandbox.stopped", data)


def _sandbox(r: Sequence[Any]) -> Sandbox:
    (sandbox_id, instance_id, name, status, connected, fresh, adapters, capabilities, slots, running,
     host_id, pool_id, provider, reason, seen_at, created_at, updated_at, released, attempts, next_at,
     cleanup_error, host_connected) = r  # fmt: skip
    liveness = "active" if connected and fresh else "suspect" if connected else "offline"
    cleanup = None
    if host_id is not None and not released and status in {str(state) for state in fleet.CLEANED}:
        waiting = cleanup_error is not None and next_at is not None
        state = "host_offline" if not host_connected else "waiting" if waiting else "asked"
        cleanup = Cleanup(
            state=state, attempts=attempts, next_at=next_at if state == "waiting" else None,
            last_error=cleanup_error,
        )  # fmt: skip
    return Sandbox(
        sandbox_id=sandbox_id, instance_id=instance_id, name=name, status=status, liveness=liveness,
        adapters=adapters, capabilities=capabilities, max_concurrency=slots, running=running,
        host_id=host_id, pool_id=pool_id, provider=provider,
        isolation=isolation.label(provider), reason=reason, cleanup=cleanup,
        last_seen_at=seen_at, created_at=created_at, updated_at=updated_at,
    )  # fmt: skip
