"""The links of sandboxes and hosts: who is connected where, when it was last heard, who is lost."""

from __future__ import annotations

from collections.abc import Sequence

from flakes.store.database import Connection, Query, rows, run

_UP = Query("""
    insert into links as l (peer_id, replica_id, connection_id, connected, seen_at)
    values (%(peer_id)s, %(replica_id)s, %(connection_id)s, true, now())
    on conflict (peer_id) do update
    set replica_id = excluded.replica_id, connection_id = excluded.connection_id, connected = true,
        seen_at = now()
    where l.replica_id <> excluded.replica_id or l.connection_id <= excluded.connection_id""")

_DOWN = Query("""
    update links set connected = false, seen_at = now()
    where peer_id = %(peer_id)s and connection_id = %(connection_id)s and connected""")

_SEEN = Query("""
    update links l set seen_at = now(), connected = true
    from unnest(%(peer_ids)s::text[], %(connection_ids)s::text[]) as u(peer_id, connection_id)
    where l.peer_id = u.peer_id and l.connection_id = u.connection_id""")

_RESTORE = Query("""
    update links l set connected = true
    from unnest(%(peer_ids)s::text[], %(connection_ids)s::text[]) as u(peer_id, connection_id)
    where l.peer_id = u.peer_id and l.connection_id = u.connection_id and not l.connected""")

# A sandbox is lost when it has been silent for `lost_after_s` while somebody was there to hear it: the
# time before this leader's term, when perhaps no control plane was up, never counts.
_LOST = Query("""
    select distinct a.assignment_id, a.sandbox_id from assignments a
    left join links l on l.peer_id = a.sandbox_id
    where a.live
      and %(held_s)s::float > %(lost_after_s)s::float
      and coalesce(l.seen_at, a.offered_at) < now() - %(lost_after_s)s * interval '1 s'
    limit 5000""")

_UNHEARD = Query("""
    select s.sandbox_id from sandboxes s join links l on l.peer_id = s.sandbox_id
    where s.status = 'running' and s.host_id is not null
      and %(held_s)s::float > %(lost_after_s)s::float
      and l.seen_at < now() - %(lost_after_s)s * interval '1 s'""")

_STALE_OFFERS = Query("""
    select a.assignment_id, a.sandbox_id from assignments a
    left join links l on l.peer_id = a.sandbox_id
    where a.live and a.state = 'offered'
      and (a.offered_at < now() - %(timeout_s)s * interval '1 s'
           or (coalesce(not l.connected, true) and a.offered_at < now() - interval '2 s'))
    limit 5000""")

# A replica whose row has expired is dead, and its links with it; one that never had a row is judged by the
# silence of its links.
_ORPHANED = Query("""
    update links l set connected = false
    where l.connected and l.replica_id <> %(replica_id)s
      and not exists (select 1 from leaders where holder = l.replica_id and expires_at > now())
      and not exists (select 1 from replicas r where r.replica_id = l.replica_id and r.expires_at > now())
      and (l.seen_at < now() - %(silence_s)s * interval '1 s'
           or exists (select 1 from replicas r where r.replica_id = l.replica_id))""")

_ELSEWHERE = Query("""
    select peer_id from links
    where peer_id = any(%(peer_ids)s) and replica_id <> %(replica_id)s""")


async def up(conn: Connection, peer_id: str, replica_id: str, connection_id: str) -> None:
    """A peer connected; its newest connection is the only one that counts.

    Connection ids of one replica sort by time: a hello that is slow to be written does not take the place
    of the connection that came after it.
    """
    params = {"peer_id": peer_id, "replica_id": replica_id, "connection_id": connection_id}
    await run(conn, _UP, params)


async def down(conn: Connection, peer_id: str, connection_id: str) -> bool:
    """A connection ended; False when a newer one has taken its place."""
    return bool(await run(conn, _DOWN, {"peer_id": peer_id, "connection_id": connection_id}))


async def seen(conn: Connection, peers: Sequence[tuple[str, str]]) -> None:
    """Heartbeats since the last call: (peer id, connection id). Whoever is heard is connected, also when
    another replica had given its link up (see `orphaned`)."""
    params = {"peer_ids": [p[0] for p in peers], "connection_ids": [p[1] for p in peers]}
    await run(conn, _SEEN, params)


async def restore(conn: Connection, peers: Sequence[tuple[str, str]]) -> None:
    """These connections (peer id, connection id) are there after all; when they were last heard stays."""
    params = {"peer_ids": [p[0] for p in peers], "connection_ids": [p[1] for p in peers]}
    await run(conn, _RESTORE, params)


async def lost(conn: Connection, *, lost_after_s: float, held_s: float) -> list[tuple[str, str]]:
    """(assignment id, sandbox id) whose sandbox has been silent for too long."""
    params = {"lost_after_s": lost_after_s, "held_s": held_s}
    return await rows(conn, _LOST, params)


async def unheard(conn: Connection, *, lost_after_s: float, held_s: float) -> list[str]:
    """Sandboxes of hosts that have been silent for too long."""
    params = {"lost_after_s": lost_after_s, "held_s": held_s}
    return [r[0] for r in await rows(conn, _UNHEARD, params)]


async def stale_offers(conn: Connection, timeout_s: float) -> list[tuple[str, str]]:
    """(assignment id, sandbox id) of offers that nobody accepted in time."""
    return await rows(conn, _STALE_OFFERS, {"timeout_s": timeout_s})


async def orphaned(conn: Connection, replica_id: str, silence_s: float) -> int:
    """Mark the links of a replica that died without a word."""
    return await run(conn, _ORPHANED, {"replica_id": replica_id, "silence_s": silence_s})


async def elsewhere(conn: Connection, replica_id: str, peer_ids: Sequence[str]) -> list[str]:
    """Which of these peers have connected to another replica since."""
    params = {"peer_ids": list(peer_ids), "replica_id": replica_id}
    return [r[0] for r in await rows(conn, _ELSEWHERE, params)]
