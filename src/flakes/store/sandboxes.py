"""Sandboxes: their rows, the leases that launch and stop them, and their way from launch to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flakes.core import isolation
from flakes.store import accounts
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.hosts import record
from flakes.store.identifiers import new_id
from flakes.wire.codec import encode
from flakes.wire.errors import not_found
from flakes.wire.hosts import Sandbox, SandboxPost, SandboxPostAnswer
from flakes.wire.sandbox_stream import Hello

ALIVE = ("pending_launch", "launching", "running", "draining", "stopping", "deleting")

_COLUMNS = """
    select s.sandbox_id, s.instance_id, s.name, s.status, l.connected,
           l.seen_at > now() - interval '40 s', s.adapters, s.capabilities, s.max_concurrency,
           (select count(*) from assignments a where a.sandbox_id = s.sandbox_id and a.live),
           s.host_id, s.pool_id, p.provider, s.reason, l.seen_at, s.created_at, s.updated_at
    from sandboxes s
    left join links l on l.peer_id = s.sandbox_id
    left join host_pools p on p.pool_id = s.pool_id"""

_GET = Query(f"{_COLUMNS} where s.owner_id = %(owner_id)s and s.sandbox_id = %(sandbox_id)s")

_LIST = Query(f"""{_COLUMNS}
    where s.owner_id = %(owner_id)s and (%(before)s::text is null or s.sandbox_id < %(before)s)
    order by s.sandbox_id desc limit %(limit)s""")

_INSERT = Query("""
    insert into sandboxes (sandbox_id, instance_id, owner_id, name, pool_id, host_id, status)
    values (%(sandbox_id)s, %(instance_id)s, %(owner_id)s, %(name)s, %(pool_id)s, %(host_id)s,
            %(status)s)""")

_POOL = Query("""
    select p.host_id, h.owner_id, p.pool_key, p.max_instances,
           (select count(*) from sandboxes s where s.pool_id = p.pool_id and s.status = any(%(alive)s))
    from host_pools p join hosts h using (host_id)
    where p.pool_id = %(pool_id)s for update of p""")

_ADD_LEASE = Query("""
    insert into leases (lease_id, host_id, sandbox_id, action, data)
    values (%(lease_id)s, %(host_id)s, %(sandbox_id)s, %(action)s, %(data)s::json)""")

_OPEN_LEASES = Query("""
    select e.lease_id, e.action, e.data, s.sandbox_id, s.instance_id, p.pool_key, s.owner_id
    from leases e join sandboxes s using (sandbox_id) left join host_pools p on p.pool_id = s.pool_id
    where e.host_id = %(host_id)s and e.ended_at is null and (%(again)s or e.sent_at is null)
    order by e.lease_id""")

_MARK_SENT = Query("""
    with sent as (
        update leases set sent_at = now() where lease_id = %(lease_id)s returning sandbox_id, action
    )
    update sandboxes s set status = 'launching', updated_at = now()
    from sent where s.sandbox_id = sent.sandbox_id and sent.action = 'launch'
      and s.status = 'pending_launch'""")

_HOSTS_WAITING = Query("""
    select distinct host_id from leases
    where host_id = any(%(host_ids)s) and ended_at is null and sent_at is null""")

_DRAINING = Query("""
    select sandbox_id, coalesce(reason, '') from sandboxes
    where sandbox_id = any(%(sandbox_ids)s) and status = 'draining'""")

_END_LEASE = Query("""
    update leases set ended_at = now(), ok = %(ok)s, reason = %(reason)s
    where lease_id = %(lease_id)s and host_id = %(host_id)s and ended_at is null
    returning sandbox_id, action""")

_END = Query("""
    update sandboxes set status = %(status)s, reason = %(reason)s, ended_at = now(), updated_at = now()
    where sandbox_id = %(sandbox_id)s and status = any(%(alive)s)
    returning owner_id, pool_id, status""")

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
    update sandboxes
    set status = case when status in ('pending_launch', 'launching', 'expired') then 'running' else status end,
        adapters = %(adapters)s, capabilities = %(capabilities)s, max_concurrency = %(slots)s,
        updated_at = now(), ended_at = case when status = 'expired' then null else ended_at end
    where sandbox_id = %(sandbox_id)s and status = any(%(welcome)s)
    returning owner_id, pool_id, status,
              (select b.status from sandboxes b where b.sandbox_id = %(sandbox_id)s)""")

_BY_INSTANCE = Query("""
    select sandbox_id, status from sandboxes
    where instance_id = %(instance_id)s and host_id = %(host_id)s""")

_OF_HOST = Query("""
    select sandbox_id, instance_id, status from sandboxes
    where host_id = %(host_id)s and status in ('launching', 'running', 'draining', 'stopping', 'expired')""")

_LIVE_ASSIGNMENTS = Query("""
    select assignment_id from assignments where sandbox_id = any(%(sandbox_ids)s) and live""")

_STOPPING = Query("""
    update sandboxes set status = %(status)s, updated_at = now(), reason = %(reason)s
    where sandbox_id = %(sandbox_id)s and status in ('pending_launch', 'launching', 'running', 'draining')
    returning host_id, instance_id""")

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


@dataclass(frozen=True, slots=True)
class Lease:
    """An open lease, as a host stream sends it."""

    lease_id: str
    action: str
    sandbox_id: str
    instance_id: str
    pool_key: str
    token: str
    drain: bool
    reason: str


async def register(conn: Connection, owner_id: str, body: SandboxPost) -> SandboxPostAnswer:
    """A sandbox that somebody runs by hand, and its credential."""
    sandbox_id = new_id("sandbox")
    await run(conn, _INSERT, {
        "sandbox_id": sandbox_id, "instance_id": _instance(sandbox_id), "owner_id": owner_id,
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


async def launch(conn: Connection, pool_id: str, count: int) -> str | None:
    """Ask a pool for sandboxes, within its maximum; the host to push to, or None when nothing fits."""
    found = await row(conn, _POOL, {"pool_id": pool_id, "alive": list(ALIVE)})
    if found is None:
        return None
    host_id, owner_id, pool_key, instances_max, alive = found
    count = min(count, instances_max - alive)
    for _ in range(count):
        sandbox_id = new_id("sandbox")
        await run(conn, _INSERT, {
            "sandbox_id": sandbox_id, "instance_id": _instance(sandbox_id), "owner_id": owner_id,
            "name": f"{pool_key}-{sandbox_id[-4:]}", "pool_id": pool_id, "host_id": host_id,
            "status": "pending_launch",
        })  # fmt: skip
        await _lease(conn, host_id, sandbox_id, "launch", {})
        data = {"sandboxId": sandbox_id, "poolId": pool_id, "hostId": host_id}
        await record(conn, owner_id, "sandbox.launching", data)
    return host_id if count > 0 else None


async def stop(conn: Connection, sandbox_id: str, *, drain: bool, reason: str) -> str | None:
    """Ask for a sandbox's end; the host to push to, or None when there is nothing to ask."""
    status = "draining" if drain else "stopping"
    params = {"sandbox_id": sandbox_id, "status": status, "reason": reason}
    found = await row(conn, _STOPPING, params)
    if found is None or found[0] is None:
        return None
    await _lease(conn, found[0], sandbox_id, "stop", {"drain": drain, "reason": reason})
    return found[0]


async def open_leases(conn: Connection, host_id: str, *, again: bool) -> list[Lease]:
    """What a host has yet to confirm; with `again`, also what was sent to it before. A launch that is sent again carries a token of its own; all of
    a sandbox's tokens work until it ends, so whichever the host wrote down is good."""
    leases: list[Lease] = []
    for lease_id, action, data, sandbox_id, instance_id, pool_key, owner_id in await rows(
        conn, _OPEN_LEASES, {"host_id": host_id, "again": again}
    ):
        token = ""
        if action == "launch":
            token = await accounts.issue_token(conn, "sandbox", owner_id, sandbox_id, "launch")
        await run(conn, _MARK_SENT, {"lease_id": lease_id})
        leases.append(Lease(
            lease_id, action, sandbox_id, instance_id, pool_key or "", token,
            bool(data.get("drain")), str(data.get("reason", "")),
        ))  # fmt: skip
    return leases


async def hosts_waiting(conn: Connection, host_ids: Sequence[str]) -> list[str]:
    """Which of these hosts have leases that nobody has sent yet."""
    return [r[0] for r in await rows(conn, _HOSTS_WAITING, {"host_ids": list(host_ids)})]


async def draining(conn: Connection, sandbox_ids: Sequence[str]) -> list[tuple[str, str]]:
    """(sandbox id, reason) of those that are to take nothing new."""
    return await rows(conn, _DRAINING, {"sandbox_ids": list(sandbox_ids)})


async def lease_ended(
    conn: Connection, host_id: str, lease_id: str, ok: bool, reason: str, *, backoff_s: float
) -> list[str]:
    """A host's answer to a lease; assignments that are lost with it."""
    found = await row(conn, _END_LEASE, {
        "lease_id": lease_id, "host_id": host_id, "ok": ok, "reason": reason or None,
    })  # fmt: skip
    if found is None or (ok and found[1] == "launch"):
        return []
    sandbox_id, action = found
    status = "failed" if action == "launch" else "stopped"
    return await ended(conn, [sandbox_id], status, reason, backoff_s=backoff_s)


async def ended(
    conn: Connection, sandbox_ids: Sequence[str], status: str, reason: str, *, backoff_s: float = 0.0
) -> list[str]:
    """These sandboxes are gone for good; the assignments that are lost with them."""
    for sandbox_id in sandbox_ids:
        params = {"sandbox_id": sandbox_id, "status": status, "reason": reason, "alive": list(ALIVE)}
        found = await row(conn, _END, params)
        if found is None:
            continue
        await run(conn, _END_LEASES_OF, {"sandbox_id": sandbox_id, "reason": reason})
        if status != "expired":  # one that was merely silent may come back
            await accounts.revoke_of(conn, sandbox_id)
        data = {"sandboxId": sandbox_id, "reason": reason}
        if status == "failed" and found[1] is not None:
            params = {"pool_id": found[1], "reason": reason, "backoff_s": backoff_s}
            await run(conn, _LAUNCH_FAILED, params)
            await record(conn, found[0], "sandbox.launch_failed", data)
        else:
            await record(conn, found[0], "sandbox.stopped", data)
    found_live = await rows(conn, _LIVE_ASSIGNMENTS, {"sandbox_ids": list(sandbox_ids)})
    return [r[0] for r in found_live]


async def greet(conn: Connection, hello: Hello) -> str | None:
    """Take over what a sandbox says of itself; its owner id, or None when it is not wanted any more.

    One that was written off while its link was cut comes back as running (F19).
    """
    found = await row(conn, _HELLO, {
        "sandbox_id": hello.sandbox_id, "adapters": sorted(set(hello.adapters)),
        "capabilities": sorted(set(hello.capabilities)), "slots": hello.max_concurrency,
        "welcome": [*ALIVE, "expired"],
    })  # fmt: skip
    if found is None:
        return None
    owner_id, pool_id, status, before = found
    if before in ("pending_launch", "launching") and status == "running":
        if pool_id is not None:
            await run(conn, _LAUNCH_WORKED, {"pool_id": pool_id})
        await record(conn, owner_id, "sandbox.running", {"sandboxId": hello.sandbox_id})
    return owner_id


async def reconcile_host(
    conn: Connection, host_id: str, inventory: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Compare a host's inventory (instance id → state) with what is stored: sandboxes that are gone, and
    instances the host should stop because nobody wants them any more."""
    known = await rows(conn, _OF_HOST, {"host_id": host_id})
    gone = [
        sandbox_id
        for sandbox_id, instance_id, status in known
        if inventory.get(instance_id, "absent") in ("absent", "exited")
        and status not in ("launching", "expired")
    ]
    wanted = {r[1] for r in known}
    return gone, [i for i, state in inventory.items() if i not in wanted and state != "exited"]


async def exited(
    conn: Connection, host_id: str, instance_id: str, reason: str, *, backoff_s: float
) -> list[str]:
    """An instance of this host is gone; the assignments that are lost with it. One that never connected is
    a failed launch, and the next waits: a daemon that dies at its start must not be started in a circle."""
    found = await row(conn, _BY_INSTANCE, {"instance_id": instance_id, "host_id": host_id})
    if found is None:
        return []
    status = "failed" if found[1] in ("pending_launch", "launching") else "stopped"
    return await ended(conn, [found[0]], status, reason, backoff_s=backoff_s)


async def overdue(conn: Connection, timeout_s: float) -> list[str]:
    """Launches that nothing came of."""
    return [r[0] for r in await rows(conn, _OVERDUE, {"timeout_s": timeout_s})]


async def idle(conn: Connection, idle_s: float) -> list[str]:
    """Sandboxes of hosts that have had nothing to do for that long."""
    return [r[0] for r in await rows(conn, _IDLE, {"idle_s": idle_s})]


async def _lease(
    conn: Connection, host_id: str, sandbox_id: str, action: str, data: dict[str, Any]
) -> None:
    await run(conn, _ADD_LEASE, {
        "lease_id": new_id("lease"), "host_id": host_id, "sandbox_id": sandbox_id,
        "action": action, "data": encode(data).decode(),
    })  # fmt: skip


def _instance(sandbox_id: str) -> str:
    return f"instance_{sandbox_id.removeprefix('sandbox_')}"


def _sandbox(r: Sequence[Any]) -> Sandbox:
    (sandbox_id, instance_id, name, status, connected, fresh, adapters, capabilities, slots, running,
     host_id, pool_id, provider, reason, seen_at, created_at, updated_at) = r  # fmt: skip
    liveness = "active" if connected and fresh else "suspect" if connected else "offline"
    return Sandbox(
        sandbox_id=sandbox_id, instance_id=instance_id, name=name, status=status, liveness=liveness,
        adapters=adapters, capabilities=capabilities, max_concurrency=slots, running=running,
        host_id=host_id, pool_id=pool_id, provider=provider,
        isolation=isolation.label(provider), reason=reason, last_seen_at=seen_at,
        created_at=created_at, updated_at=updated_at,
    )  # fmt: skip
