"""One-time codes: made, tried a few times at most, and used once.

A code is found by an id that is no secret. What is hashed is the secret alone (`browser_link`, `oidc`:
256 random bits), or the secret of whoever asked together with the six digits that went out by mail, so
that neither the mail nor the database nor the browser alone holds what is needed. A try is counted in a
transaction of its own, before anything is compared: refusing it must not undo the count.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from flakes.store.database import Connection, Query, row, run
from flakes.wire.codec import encode

Purpose = Literal["browser_link", "sign_up", "reset_password", "oidc"]

DIGITS = 6
TRIES_MAX = 5

_ADD = Query("""
    insert into one_time_codes (code_id, purpose, secret_hash, user_id, email, data, attempts_max, expires_at)
    values (%(code_id)s, %(purpose)s, %(hash)s, %(user_id)s, %(email)s, %(data)s::json, %(tries_max)s,
        now() + %(lasts_s)s * interval '1 s')
    returning expires_at""")

_TRY = Query("""
    update one_time_codes set attempts = attempts + 1
    where code_id = %(code_id)s and purpose = %(purpose)s and used_at is null
      and expires_at > now() and attempts < attempts_max
    returning secret_hash, user_id, email, data""")

_USE = Query("""
    update one_time_codes set used_at = now()
    where code_id = %(code_id)s and used_at is null and expires_at > now()""")

_END_OF_USER = Query("""
    update one_time_codes set used_at = now()
    where user_id = %(user_id)s and purpose = %(purpose)s and used_at is null""")

_FORGET = Query("""
    delete from one_time_codes where code_id in (
        select code_id from one_time_codes where expires_at < now() - interval '1 hour' limit %(limit)s)""")


@dataclass(frozen=True, slots=True)
class Made:
    """A new code. `handle` goes to whoever asked, `digits` (if any) into the mail."""

    handle: str
    digits: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Found:
    """A code that was tried with the right secret; not used up yet."""

    code_id: str
    user_id: str | None
    email: str | None
    data: dict[str, Any]


async def make(
    conn: Connection,
    purpose: Purpose,
    *,
    lasts_s: float,
    user_id: str | None = None,
    email: str | None = None,
    data: dict[str, Any] | None = None,
    digits: bool = False,
) -> Made:
    """Store a new code; its parts are in the answer only."""
    code_id = base64.b32encode(os.urandom(10)).decode().lower()
    secret = base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
    typed = f"{secrets.randbelow(10**DIGITS):0{DIGITS}d}" if digits else ""
    added = await row(conn, _ADD, {
        "code_id": code_id, "purpose": purpose, "hash": _digest(secret, typed), "user_id": user_id,
        "email": email, "data": encode(data or {}).decode(), "tries_max": TRIES_MAX if digits else 1_000,
        "lasts_s": lasts_s,
    })  # fmt: skip
    assert added is not None
    return Made(f"{code_id}.{secret}", typed, added[0])


async def attempt(conn: Connection, purpose: Purpose, handle: str, digits: str = "") -> Found | None:
    """Try a code; None when it is wrong, used, expired or tried too often. On a connection without a transaction."""
    code_id, _, secret = handle.partition(".")
    found = await row(conn, _TRY, {"code_id": code_id, "purpose": purpose}) if secret else None
    if found is None or not hmac.compare_digest(bytes(found[0]), _digest(secret, digits)):
        return None
    return Found(code_id, found[1], found[2], found[3])


async def use(conn: Connection, code_id: str) -> bool:
    """Use a code up, in the transaction of what it allows; False when somebody else just did."""
    return await run(conn, _USE, {"code_id": code_id}) == 1


async def end_of_user(conn: Connection, user_id: str, purpose: Purpose) -> None:
    """The user's other codes of that purpose work no more."""
    await run(conn, _END_OF_USER, {"user_id": user_id, "purpose": purpose})


async def forget(conn: Connection, limit: int = 1_000) -> int:
    """Remove codes that have been over for an hour; how many."""
    return await run(conn, _FORGET, {"limit": limit})


def _digest(secret: str, digits: str) -> bytes:
    return hashlib.sha256(f"{secret}:{digits}".encode()).digest()
