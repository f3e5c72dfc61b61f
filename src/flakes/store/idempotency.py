"""Answers already given to mutations that carried an `Idempotency-Key`.

A key belongs to one sender (`scope_id`), one method and one path; only a digest of them is kept. The
caller holds the key's advisory lock, taken by `begin`, until its transaction ends, so of two requests
with one key only one runs, and its answer becomes visible together with what it changed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from flakes.store.database import Connection, Query, row, run

KEPT_S = 24 * 3600.0
"""How long an answer is replayed."""

_TRY_LOCK = Query("select pg_try_advisory_xact_lock(%(lock)s::bigint)")

_FIND = Query("""
    select body_digest, status, answer, sealed from idempotency_keys
    where scope_id = %(scope_id)s and key_digest = %(key_digest)s
      and created_at > now() - %(kept_s)s * interval '1 s'""")

_RECORD = Query("""
    insert into idempotency_keys (scope_id, key_digest, body_digest, status, answer, sealed)
    values (%(scope_id)s, %(key_digest)s, %(body_digest)s, %(status)s, %(answer)s, %(sealed)s)
    on conflict (scope_id, key_digest) do update
    set body_digest = excluded.body_digest, status = excluded.status, answer = excluded.answer,
        sealed = excluded.sealed, created_at = now()""")

_FORGET = Query("""
    delete from idempotency_keys where (scope_id, key_digest) in (
        select scope_id, key_digest from idempotency_keys
        where created_at < now() - %(kept_s)s * interval '1 s' limit %(limit)s)""")


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a key: whose, which, and for what request body."""

    scope_id: str
    key_digest: bytes
    body_digest: bytes


@dataclass(frozen=True, slots=True)
class Recorded:
    """The first answer; `sealed` when only the credential that asked for it can read it."""

    body_digest: bytes
    status: int
    answer: bytes
    sealed: bool


def key_digest(scope_id: str, method: str, path: str, key: str) -> bytes:
    """What stands for a key in the table: 32 bytes that tell nothing about it."""
    return hashlib.sha256("\n".join((scope_id, method, path, key)).encode()).digest()


async def begin(conn: Connection, use: Use) -> bool:
    """Take the key until the transaction ends; False while another request holds it."""
    lock = int.from_bytes(use.key_digest[:8], "big", signed=True)
    found = await row(conn, _TRY_LOCK, {"lock": lock})
    assert found is not None
    return found[0]


async def find(conn: Connection, use: Use) -> Recorded | None:
    """What the key's first use was answered, if that was less than a day ago."""
    params = {"scope_id": use.scope_id, "key_digest": use.key_digest, "kept_s": KEPT_S}
    found = await row(conn, _FIND, params)
    if found is None:
        return None
    return Recorded(bytes(found[0]), found[1], bytes(found[2]), found[3])


async def record(conn: Connection, use: Use, status: int, answer: bytes, *, sealed: bool) -> None:
    """Keep the answer, in the transaction of what it answers for."""
    await run(conn, _RECORD, {
        "scope_id": use.scope_id, "key_digest": use.key_digest, "body_digest": use.body_digest,
        "status": status, "answer": answer, "sealed": sealed,
    })  # fmt: skip


async def forget(conn: Connection, limit: int = 1_000) -> int:
    """Remove answers that are older than a day; how many."""
    return await run(conn, _FORGET, {"kept_s": KEPT_S, "limit": limit})
