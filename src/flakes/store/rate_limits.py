"""How often something may be tried: leaky buckets in the database, so that all replicas count together.

A bucket is one timestamp, the moment at which it is empty. Every try pours in what leaks out in `every_s`;
a try that would make it overflow is refused and pours in nothing. What was counted is digested, so the
table names nobody.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from flakes.store.database import Connection, Query, row, run

_TAKE = Query("""
    insert into rate_limits as r (key_digest, empty_at)
    values (%(key)s, now() + %(every_s)s * interval '1 s')
    on conflict (key_digest) do update
    set empty_at = greatest(r.empty_at, now()) + %(every_s)s * interval '1 s'
    where greatest(r.empty_at, now()) + %(every_s)s * interval '1 s' <= now() + %(full_s)s * interval '1 s'
    returning empty_at""")

_WAIT = Query("""
    select extract(epoch from empty_at - now())::float + %(every_s)s - %(full_s)s from rate_limits
    where key_digest = %(key)s""")

_GIVE_BACK = Query("""
    update rate_limits set empty_at = empty_at - %(every_s)s * interval '1 s'
    where key_digest = %(key)s""")

_FORGET = Query("""
    delete from rate_limits where key_digest in (
        select key_digest from rate_limits where empty_at < now() limit %(limit)s)""")


@dataclass(frozen=True, slots=True)
class Limit:
    """`burst` tries at once, and one more every `every_s` seconds."""

    burst: int
    every_s: float


async def take(conn: Connection, name: str, subject: str, limit: Limit) -> float:
    """Count one try of `name` by `subject`: 0, or the seconds to wait. On a connection without a transaction."""
    full_s = limit.burst * limit.every_s
    params = {"key": _key(name, subject), "every_s": limit.every_s, "full_s": full_s}
    if await row(conn, _TAKE, params) is not None:
        return 0.0
    wait = await row(conn, _WAIT, params)
    return max(1.0, wait[0]) if wait else 1.0


async def give_back(conn: Connection, name: str, subject: str, limit: Limit) -> None:
    """A try that was no guess does not count."""
    await run(conn, _GIVE_BACK, {"key": _key(name, subject), "every_s": limit.every_s})


async def forget(conn: Connection, limit: int = 1_000) -> int:
    """Remove empty buckets; how many."""
    return await run(conn, _FORGET, {"limit": limit})


def _key(name: str, subject: str) -> bytes:
    return hashlib.sha256(f"{name}\n{subject}".encode()).digest()
