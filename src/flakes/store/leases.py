"""What hosts are asked to do: launch an instance, let it drain, end it and leave nothing behind.

A lease is pushed, answered by the host, and sent again on every connect until it is answered. A clean-up
that fails, or that is not answered in time, gets a new lease after a back-off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flakes.core import fleet
from flakes.core.fleet import InstanceEvent, InstanceState
from flakes.store import accounts, sandboxes
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.hosts import record
from flakes.store.identifiers import new_id
from flakes.wire.codec import encode

ANSWER_S = 30.0
"""How long a host may take to end an instance: its daemon gets seconds, and so does what it leaves."""

# The pool is locked without the sandboxes in it: those that are counted can only become fewer meanwhile.
_POOL = Query("""
    select p.host_id, h.owner_id, p.pool_key, p.max_instances,
           (select count(*) from sandboxes s where s.pool_id = p.pool_id and s.status = any(%(counted)s))
    from host_pools p join hosts h using (host_id)
    where p.pool_id = %(pool_id)s and h.disabled_at is null for update of p""")

# Silent ones are still there as far as the host knows, and it launches no more than its maximum.
_EXPIRED = Query("""
    select s.sandbox_id from sandboxes s
    where s.pool_id = %(pool_id)s and s.status = 'expired' and not s.released
    order by s.updated_at
    limit greatest(0, %(count)s
        + (select count(*) from sandboxes s
           where s.pool_id = %(pool_id)s and s.status = any(%(counted)s))
        + (select count(*) from sandboxes s
           where s.pool_id = %(pool_id)s and s.status = 'expired' and not s.released)
        - (select max_instances from host_pools where pool_id = %(pool_id)s))""")

_ADD = Query("""
    insert into leases (lease_id, host_id, sandbox_id, action, data)
    values (%(lease_id)s, %(host_id)s, %(sandbox_id)s, %(action)s, %(data)s::json)""")

_OPEN = Query("""
    select e.lease_id, e.action, e.data, s.sandbox_id, s.instance_id, p.pool_key, s.owner_id
    from leases e join sandboxes s using (sandbox_id) left join host_pools p on p.pool_id = s.pool_id
    where e.host_id = %(host_id)s and e.ended_at is null and (%(again)s or e.sent_at is null)
    order by e.lease_id for update of s""")

_STILL_OPEN = Query("""
    update leases set sent_at = now() where lease_id = %(lease_id)s and ended_at is null""")

_SANDBOX_OF = Query("""
    select s.sandbox_id, s.status from sandboxes s
    where s.sandbox_id = (select sandbox_id from leases
                          where lease_id = %(lease_id)s and host_id = %(host_id)s)
    for update""")

_END = Query("""
    update leases set ended_at = now(), ok = %(ok)s, reason = %(reason)s
    where lease_id = %(lease_id)s and host_id = %(host_id)s and ended_at is null
    returning action""")

_ASKED = Query("""
    update sandboxes set cleanup_attempts = cleanup_attempts + 1,
        cleanup_next_at = now() + %(answer_s)s * interval '1 s'
    where sandbox_id = %(sandbox_id)s""")

_CLEANUP_FAILED = Query("""
    update sandboxes set cleanup_error = %(reason)s,
        cleanup_next_at = now() + %(backoff_s)s * interval '1 s'
    where sandbox_id = %(sandbox_id)s
    returning owner_id, cleanup_attempts""")

_ATTEMPTS = Query("select cleanup_attempts from sandboxes where sandbox_id = %(sandbox_id)s")

# Only with the host there to hear it, so that the attempts counted are those that were made.
_UNCLEAN = Query("""
    select s.sandbox_id, s.host_id, s.cleanup_attempts from sandboxes s
    join links l on l.peer_id = s.host_id
    where not s.released and s.status = any(%(cleaned)s) and l.connected
      and (s.cleanup_next_at is null or s.cleanup_next_at <= now())
    order by s.cleanup_next_at nulls first limit 200
    for update of s skip locked""")

_WAITING = Query("""
    select distinct host_id from leases
    where host_id = any(%(host_ids)s) and ended_at is null and sent_at is null""")

_EVENTS = {
    InstanceState.DRAINING: "sandbox.draining",
    InstanceState.STOPPING: "sandbox.stopping",
    InstanceState.CANCELLED: "sandbox.cancelled",
}


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


async def launch(conn: Connection, pool_id: str, count: int) -> str | None:
    """Ask a pool for sandboxes, within its maximum; the host to push to, or None when nothing fits.
    Silent ones are ended first where their places are needed, and replaced once they are gone (F20)."""
    counted = [str(state) for state in fleet.COUNTED]
    params = {"pool_id": pool_id, "count": count, "counted": counted}
    stopped: str | None = None
    for (sandbox_id,) in await rows(conn, _EXPIRED, params):
        stopped = await end(conn, sandbox_id, InstanceEvent.STOP, "replaced, nothing heard") or stopped
    found = await row(conn, _POOL, {"pool_id": pool_id, "counted": counted})
    if found is None:
        return stopped
    host_id, owner_id, pool_key, instances_max, alive = found
    count = min(count, instances_max - alive)
    for _ in range(count):
        sandbox_id = new_id("sandbox")
        await run(conn, sandboxes.INSERT, {
            "sandbox_id": sandbox_id, "instance_id": sandboxes.instance_of(sandbox_id),
            "owner_id": owner_id, "name": f"{pool_key}-{sandbox_id[-4:]}", "pool_id": pool_id,
            "host_id": host_id, "status": "pending_launch",
        })  # fmt: skip
        await _add(conn, host_id, sandbox_id, "launch", {})
        data = {"sandboxId": sandbox_id, "poolId": pool_id, "hostId": host_id}
        await record(conn, owner_id, "sandbox.launching", data)
    return host_id if count > 0 else stopped


async def end(
    conn: Connection, sandbox_id: str, event: InstanceEvent, reason: str
) -> str | None:
    """Drain a sandbox or stop it; the host to push to, or None when there is nothing to ask."""
    moved = await sandboxes.move(conn, sandbox_id, event, reason)
    if moved is None:
        return None
    data = {"sandboxId": sandbox_id, "reason": reason}
    await sandboxes.end_leases(conn, sandbox_id, reason)
    if moved.after is InstanceState.CANCELLED:
        await accounts.revoke_of(conn, sandbox_id, "cancelled")
        await sandboxes.release(conn, sandbox_id)
    await record(conn, moved.owner_id, _EVENTS[moved.after], data)
    if moved.host_id is None or moved.after is InstanceState.CANCELLED:
        return None
    if event is InstanceEvent.DRAIN:
        await _add(conn, moved.host_id, sandbox_id, "stop", {"drain": True, "reason": reason})
    else:
        await clean_up(conn, moved.host_id, sandbox_id, reason)
    return moved.host_id


async def clean_up(conn: Connection, host_id: str, sandbox_id: str, reason: str) -> None:
    """Ask a host (again) to end an instance and to leave nothing of it behind."""
    await sandboxes.end_leases(conn, sandbox_id, "asked again")
    await _add(conn, host_id, sandbox_id, "stop", {"drain": False, "reason": reason})
    found = await row(conn, _ATTEMPTS, {"sandbox_id": sandbox_id})
    pause_s = fleet.cleanup_backoff_s(found[0]) if found and found[0] else 0.0
    await run(conn, _ASKED, {"sandbox_id": sandbox_id, "answer_s": ANSWER_S + pause_s})


async def clean_up_due(conn: Connection) -> set[str]:
    """Ask for every clean-up that is due; the hosts to push to."""
    cleaned = [str(state) for state in fleet.CLEANED]
    due = await rows(conn, _UNCLEAN, {"cleaned": cleaned})
    for sandbox_id, host_id, _ in due:
        await clean_up(conn, host_id, sandbox_id, "leave nothing behind")
    return {r[1] for r in due}


async def open_leases(conn: Connection, host_id: str, *, again: bool) -> list[Lease]:
    """What a host has yet to confirm; with `again`, also what was sent to it before. A launch that is sent
    again carries a token of its own, and the one that was sent before is worthless."""
    found: list[Lease] = []
    for lease_id, action, data, sandbox_id, instance_id, pool_key, owner_id in await rows(
        conn, _OPEN, {"host_id": host_id, "again": again}
    ):
        if not await run(conn, _STILL_OPEN, {"lease_id": lease_id}):
            continue
        token = ""
        if action == "launch":
            await sandboxes.move(conn, sandbox_id, InstanceEvent.SENT)
            token = await accounts.issue_token(
                conn, "sandbox", owner_id, sandbox_id, "launch", lease_id=lease_id
            )
        found.append(Lease(
            lease_id, action, sandbox_id, instance_id, pool_key or "", token,
            bool(data.get("drain")), str(data.get("reason", "")),
        ))  # fmt: skip
    return found


async def answered(
    conn: Connection, host_id: str, lease_id: str, ok: bool, reason: str, *, backoff_s: float
) -> list[str]:
    """A host's answer to a lease; assignments that are lost with it. The credential of a launch works from
    its acceptance on; an answer that comes twice, or for another host's lease, changes nothing."""
    found = await row(conn, _SANDBOX_OF, {"lease_id": lease_id, "host_id": host_id})
    if found is None:
        return []
    sandbox_id = found[0]
    params = {"lease_id": lease_id, "host_id": host_id, "ok": ok, "reason": reason or None}
    ended = await row(conn, _END, params)
    if ended is None:
        return []
    if ended[0] == "launch":
        if ok:
            await accounts.accept(conn, lease_id)
            return []
        return await sandboxes.failed(
            conn, [sandbox_id], reason, backoff_s=backoff_s, released=True
        )
    if ok:
        return await sandboxes.gone(conn, [sandbox_id], reason or "stopped")
    await _clean_up_failed(conn, sandbox_id, reason)
    return []


async def waiting(conn: Connection, host_ids: Sequence[str]) -> list[str]:
    """Which of these hosts have leases that nobody has sent yet."""
    return [r[0] for r in await rows(conn, _WAITING, {"host_ids": list(host_ids)})]


async def _clean_up_failed(conn: Connection, sandbox_id: str, reason: str) -> None:
    found = await row(conn, _ATTEMPTS, {"sandbox_id": sandbox_id})
    if found is None:
        return
    params = {
        "sandbox_id": sandbox_id, "reason": reason or "the host did not say why",
        "backoff_s": fleet.cleanup_backoff_s(found[0]),
    }  # fmt: skip
    updated = await row(conn, _CLEANUP_FAILED, params)
    if updated is not None:
        data = {"sandboxId": sandbox_id, "reason": params["reason"], "attempts": updated[1]}
        await record(conn, updated[0], "sandbox.cleanup_failed", data)


async def _add(
    conn: Connection, host_id: str, sandbox_id: str, action: str, data: dict[str, Any]
) -> None:
    await run(conn, _ADD, {
        "lease_id": new_id("lease"), "host_id": host_id, "sandbox_id": sandbox_id,
        "action": action, "data": encode(data).decode(),
    })  # fmt: skip


async def end_all(
    conn: Connection, sandbox_ids: Sequence[str], event: InstanceEvent, reason: str
) -> set[str]:
    """`end` for several; the hosts to push to."""
    told = [await end(conn, sandbox_id, event, reason) for sandbox_id in sandbox_ids]
    return {host_id for host_id in told if host_id is not None}
