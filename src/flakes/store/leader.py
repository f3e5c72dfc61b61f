"""The lease that decides which replica runs the loops of which there is one.

Authority is the row in `leaders`: a holder, a term that only grows, and an expiry on the database's clock.
A holder renews well before the expiry and stops trusting itself on its own monotonic clock a little
earlier than the database would; every write of a leader's loop that could do harm twice also names its
term, so a leader that was paused past its lease changes nothing when it wakes.
"""

from __future__ import annotations

from dataclasses import dataclass

from flakes.store.database import Connection, Query, row, run

_ELECT = Query("""
    insert into leaders as l (name, holder, term, since, expires_at)
    values (%(name)s, %(holder)s, 1, now(), now() + %(ttl_s)s * interval '1 s')
    on conflict (name) do update
    set holder = excluded.holder,
        term = case when l.holder = excluded.holder then l.term else l.term + 1 end,
        since = case when l.holder = excluded.holder then l.since else now() end,
        expires_at = excluded.expires_at
    where l.holder = excluded.holder or l.expires_at < now()
    returning term, extract(epoch from now() - since)::float""")

_RESIGN = Query("""
    update leaders set expires_at = now() - interval '1 s'
    where name = %(name)s and holder = %(holder)s""")

_VACATE = Query("update leaders set expires_at = now() - interval '1 s' where name = %(name)s")


@dataclass(frozen=True, slots=True)
class Term:
    """A held leadership: its number, and for how long this holder has had it."""

    term: int
    held_s: float


async def elect(conn: Connection, name: str, holder: str, ttl_s: float) -> Term | None:
    """Take or renew the lease; None while somebody else holds it."""
    found = await row(conn, _ELECT, {"name": name, "holder": holder, "ttl_s": ttl_s})
    return None if found is None else Term(found[0], found[1])


async def resign(conn: Connection, name: str, holder: str) -> None:
    """Give the lease up at once, so that another replica need not wait for its end."""
    await run(conn, _RESIGN, {"name": name, "holder": holder})


async def vacate(conn: Connection, name: str) -> None:
    """End the lease of whoever holds it, known to be dead. Should it live after all, its writes name a
    term that is over."""
    await run(conn, _VACATE, {"name": name})
