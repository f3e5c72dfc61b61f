"""What an owner asks of a sandbox: drain, stop, delete, abandon. Each locks its row, so two at once are one
after the other, and answers with the offers to take back and the host to tell."""

from __future__ import annotations

from dataclasses import dataclass

from flakes.core import fleet
from flakes.core.fleet import InstanceEvent, InstanceState
from flakes.store import accounts, leases, offers, sandboxes
from flakes.store.database import Connection, Query, row, run
from flakes.store.hosts import record
from flakes.wire.errors import ApiError, not_found

_LOCK = Query("""
    select s.status, s.host_id, s.instance_id, s.released, coalesce(l.connected, false),
           coalesce(hl.connected, false),
           (select count(*) from assignments a
            where a.sandbox_id = s.sandbox_id and a.live and a.state = 'accepted')
    from sandboxes s
    left join links l on l.peer_id = s.sandbox_id
    left join links hl on hl.peer_id = s.host_id
    where s.owner_id = %(owner_id)s and s.sandbox_id = %(sandbox_id)s for update of s""")

_DELETING = Query("""
    update sandboxes set cleanup_attempts = 0, cleanup_next_at = null, cleanup_error = null
    where sandbox_id = %(sandbox_id)s""")


@dataclass(frozen=True, slots=True)
class Asked:
    """What to do once it is committed. `lost` assignments end with the sandbox; `offered` ones are taken
    back; `host_id` has a lease to get."""

    status: str
    instance_id: str
    offered: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    host_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    status: InstanceState
    host_id: str | None
    instance_id: str
    released: bool
    live: bool
    host_online: bool
    accepted: int


async def drain(conn: Connection, owner_id: str, sandbox_id: str, reason: str) -> Asked:
    """Let a running sandbox take nothing new, and end when what it runs has ended."""
    entry = await _lock(conn, owner_id, sandbox_id)
    offered = tuple(a for _, a in await offers.open_of(conn, [sandbox_id]))
    host_id: str | None = None
    if entry.status is not InstanceState.DRAINING:
        _check(entry, InstanceEvent.DRAIN, "drained")
        host_id = await leases.end(conn, sandbox_id, InstanceEvent.DRAIN, reason)
    return Asked("draining", entry.instance_id, offered=offered, host_id=host_id)


async def stop(conn: Connection, owner_id: str, sandbox_id: str, reason: str) -> Asked:
    """Let its host end it now; what it runs goes on elsewhere."""
    entry = await _lock(conn, owner_id, sandbox_id)
    if entry.host_id is None:
        raise ApiError(
            "sandbox_conflict", "no host runs this sandbox, so none can stop it",
            "end its daemon where it was started, or drain it",
        )  # fmt: skip
    offered = tuple(a for _, a in await offers.open_of(conn, [sandbox_id]))
    host_id: str | None = None
    if entry.status is not InstanceState.STOPPING:
        _check(entry, InstanceEvent.STOP, "stopped")
        host_id = await leases.end(conn, sandbox_id, InstanceEvent.STOP, reason)
    return Asked("stopping", entry.instance_id, offered=offered, host_id=host_id)


async def delete(conn: Connection, owner_id: str, sandbox_id: str) -> Asked:
    """Delete what is over. While something of it may be left on its host the row stays, as `deleting`."""
    entry = await _lock(conn, owner_id, sandbox_id)
    if entry.status is InstanceState.DELETING:
        return Asked("cleanup_queued", entry.instance_id)
    held = not entry.released
    blockers = fleet.delete_blockers(
        entry.status, managed=entry.host_id is not None, held=held, live=entry.live,
        accepted=entry.accepted,
    )  # fmt: skip
    if blockers:
        raise ApiError(
            "sandbox_delete_blocked", "the sandbox cannot be deleted now",
            "drain or stop it first; if its host never returns, abandon it", blockers=blockers,
        )  # fmt: skip
    offered = tuple(a for _, a in await offers.open_of(conn, [sandbox_id]))
    if not held or entry.host_id is None:
        await sandboxes.remove(conn, sandbox_id, "sandbox.deleted")
        return Asked("deleted", entry.instance_id, offered=offered)
    moved = await sandboxes.move(conn, sandbox_id, InstanceEvent.DELETE)
    assert moved is not None, entry.status
    await run(conn, _DELETING, {"sandbox_id": sandbox_id})
    await accounts.revoke_of(conn, sandbox_id, "deleted")
    await leases.clean_up(conn, entry.host_id, sandbox_id, "deleted")
    await record(conn, owner_id, "sandbox.deleting", {"sandboxId": sandbox_id})
    return Asked("cleanup_queued", entry.instance_id, offered=offered, host_id=entry.host_id)


async def abandon(
    conn: Connection, owner_id: str, sandbox_id: str, confirm: str, reason: str
) -> Asked:
    """Give up what nobody can clean up: the row goes, whatever is left on its host."""
    entry = await _lock(conn, owner_id, sandbox_id)
    confirmed(confirm, sandbox_id)
    if entry.live or (entry.host_id is not None and entry.host_online):
        what = "the sandbox is connected" if entry.live else "its host is connected and can clean up"
        raise ApiError("sandbox_conflict", what, "stop it, then delete it")
    held = tuple(await sandboxes.live_of(conn, [sandbox_id]))
    await sandboxes.remove(conn, sandbox_id, "sandbox.abandoned", reason)
    return Asked("abandoned", entry.instance_id, lost=held)


def confirmed(confirm: str, name: str) -> None:
    """`confirmation_required` unless the id was typed."""
    if confirm != name:
        raise ApiError(
            "confirmation_required", f"confirm must be {name}",
            "give its id, if you are sure that it never returns",
        )  # fmt: skip


async def _lock(conn: Connection, owner_id: str, sandbox_id: str) -> _Entry:
    found = await row(conn, _LOCK, {"owner_id": owner_id, "sandbox_id": sandbox_id})
    if found is None:
        raise not_found("sandbox")
    return _Entry(InstanceState(found[0]), *found[1:])


def _check(entry: _Entry, event: InstanceEvent, what: str) -> None:
    if entry.status not in fleet.MOVES[event]:
        raise ApiError(
            "sandbox_conflict", f"a sandbox that is {entry.status} cannot be {what}",
            "look at it with `flakes sandboxes list`", status=str(entry.status),
        )  # fmt: skip
