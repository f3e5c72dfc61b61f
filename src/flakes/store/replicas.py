"""The replicas of the control plane: which of them live, and waking the others.

A replica keeps its row alive; the others learn from it that they are not alone, and that its links are dead
when it has expired. Notifications carry no state and are gathered: a transaction that notifies takes a
database-wide lock at its commit, so none of those that do the work ever does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from typing import LiteralString

import structlog
from psycopg import AsyncConnection

from flakes.store.database import Connection, Query, row, rows, run
from flakes.wire.codec import BodyError, decode, encode
from flakes.wire.replicas import Notice

CHANNEL: LiteralString = "flakes_replica"
FORGOTTEN_AFTER_S = 3600.0

log = structlog.get_logger()

_RENEW = Query("""
    with renewed as (
        insert into replicas (replica_id, expires_at)
        values (%(replica_id)s, now() + %(ttl_s)s * interval '1 s')
        on conflict (replica_id) do update set expires_at = excluded.expires_at
    )
    select replica_id from replicas where replica_id <> %(replica_id)s and expires_at > now()""")

_LEAVE = Query("delete from replicas where replica_id = %(replica_id)s")

_FORGET = Query("""
    delete from replicas where expires_at < now() - %(after_s)s * interval '1 s'""")

_FORGET_ALL = Query("delete from replicas")

# The replicas that hold the links of these peers are found in the statement that calls them.
_NOTIFY = Query("""
    select pg_notify(%(channel)s::text, json_build_object(
        'sender', %(replica_id)s::text, 'news', %(news)s::json,
        'to', coalesce(holding.ids, '[]'::json))::text)
    from (
        select json_agg(distinct l.replica_id) as ids from links l
        where l.peer_id = any(%(peer_ids)s::text[]) and l.connected and l.replica_id <> %(replica_id)s
    ) holding
    where holding.ids is not null or %(news)s::text <> '[]'""")


async def renew(conn: Connection, replica_id: str, ttl_s: float) -> frozenset[str]:
    """Live on for that long; the other replicas that live."""
    found = await rows(conn, _RENEW, {"replica_id": replica_id, "ttl_s": ttl_s})
    return frozenset(r[0] for r in found)


async def leave(conn: Connection, replica_id: str) -> None:
    """Go in order: the others need not wait for the end of the row."""
    await run(conn, _LEAVE, {"replica_id": replica_id})


async def forget(conn: Connection, *, everybody: bool = False) -> None:
    """Remove rows of replicas that died long ago; with `everybody`, all, known to be dead."""
    if everybody:
        await run(conn, _FORGET_ALL)
    else:
        await run(conn, _FORGET, {"after_s": FORGOTTEN_AFTER_S})


async def notify(
    conn: Connection, replica_id: str, peer_ids: Collection[str], news: Collection[str]
) -> bool:
    """Call the replicas that hold the links of these peers, and tell all of them the news; False when
    there was nobody to call and nothing to tell."""
    found = await row(conn, _NOTIFY, {
        "channel": CHANNEL, "replica_id": replica_id, "peer_ids": list(peer_ids),
        "news": encode(list(news)).decode(),
    })  # fmt: skip
    return found is not None


async def listen(dsn: str, silence_s: float) -> AsyncGenerator[Notice | None]:
    """Notices as they come, over a connection of its own. None when listening has begun, and then whenever
    nothing came for `silence_s` and the connection was found to be alive. Raises what the driver raises
    when it is not."""
    async with await AsyncConnection.connect(
        dsn, autocommit=True, application_name="flakes server: listening"
    ) as conn:
        await conn.execute(f"listen {CHANNEL}")
        yield None
        while True:
            async for notification in conn.notifies(timeout=silence_s):
                try:
                    yield decode(notification.payload.encode(), Notice)
                except BodyError as error:
                    log.warning("replicas.notice_ignored", error=str(error)[:200])
            await conn.execute("select 1")
            yield None
