"""The device authorization grant of RFC 8628: asked for by a device, decided by a user, taken by the device once.

The device holds a code of 256 random bits; the user types another one, short enough for that, which lives
for minutes and can only be tried by somebody who is signed in, a few times.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from flakes.store.database import Connection, Query, row, run

LASTS_S: Final = 900.0
POLL_S: Final = 5
POLL_S_MAX: Final = 60
ALPHABET: Final = "BCDFGHJKLMNPQRSTVWXZ"
"""Without vowels, so that no code is a word, and without digits, so that none is misread."""
CODE_LENGTH: Final = 8

Polled = Literal["authorization_pending", "slow_down", "expired_token", "access_denied"]

_ADD = Query("""
    insert into device_grants (grant_id, secret_hash, user_code_hash, client, address, poll_s, expires_at)
    values (%(grant_id)s, %(hash)s, %(user_code_hash)s, %(client)s, %(address)s, %(poll_s)s,
        now() + %(lasts_s)s * interval '1 s')""")

_FIND = Query("""
    select client, address, status, created_at, expires_at from device_grants
    where user_code_hash = %(user_code_hash)s and expires_at > now() and status <> 'used'""")

_DECIDE = Query("""
    update device_grants set status = %(status)s, user_id = %(user_id)s
    where user_code_hash = %(user_code_hash)s and expires_at > now() and status = 'pending'
    returning client, address, status, created_at, expires_at""")

_LOCK = Query("""
    select secret_hash, status, user_id, client, address, expires_at <= now(),
        coalesce(polled_at > now() - (poll_s - 0.5) * interval '1 s', false)
    from device_grants where grant_id = %(grant_id)s for update""")

_POLLED = Query("""
    update device_grants set polled_at = now(),
        poll_s = case when %(hasty)s then least(poll_s + 5, %(poll_s_max)s) else poll_s end
    where grant_id = %(grant_id)s""")

_USED = Query("update device_grants set status = 'used' where grant_id = %(grant_id)s")

_FORGET = Query("""
    delete from device_grants where grant_id in (
        select grant_id from device_grants where expires_at < now() - interval '1 hour' limit %(limit)s)""")


@dataclass(frozen=True, slots=True)
class Made:
    """A new grant, with both of its codes."""

    device_code: str
    user_code: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What a user sees of a grant: what asks, and from where."""

    client: str
    address: str | None
    status: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Approved:
    """A grant that was approved, and is used up by this poll."""

    user_id: str
    client: str
    address: str | None


async def make(conn: Connection, client: str, address: str | None) -> Made:
    """Begin a grant."""
    grant_id = base64.b32encode(os.urandom(10)).decode().lower()
    secret = base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
    letters = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
    await run(conn, _ADD, {
        "grant_id": grant_id, "hash": hashlib.sha256(secret.encode()).digest(),
        "user_code_hash": _digest(letters), "client": client, "address": address, "poll_s": POLL_S,
        "lasts_s": LASTS_S,
    })  # fmt: skip
    return Made(f"{grant_id}.{secret}", f"{letters[:4]}-{letters[4:]}")


async def find(conn: Connection, user_code: str) -> Grant | None:
    """The grant of a code as somebody typed it."""
    found = await row(conn, _FIND, {"user_code_hash": _digest(user_code)})
    return None if found is None else Grant(*found)


async def decide(
    conn: Connection, user_code: str, user_id: str, status: Literal["approved", "denied"]
) -> Grant | None:
    """Approve or deny a grant that nobody has decided yet; None when there is none."""
    params = {"user_code_hash": _digest(user_code), "user_id": user_id, "status": status}
    found = await row(conn, _DECIDE, params)
    return None if found is None else Grant(*found)


async def poll(conn: Connection, device_code: str) -> Approved | Polled:
    """What became of a grant. In a transaction, which has to be committed whatever the answer."""
    grant_id, _, secret = device_code.partition(".")
    found = await row(conn, _LOCK, {"grant_id": grant_id}) if secret else None
    if found is None:
        return "expired_token"
    secret_hash, status, user_id, client, address, over, hasty = found
    if not hmac.compare_digest(bytes(secret_hash), hashlib.sha256(secret.encode()).digest()):
        return "expired_token"
    if over or status == "used":
        return "expired_token"
    if status == "denied":
        return "access_denied"
    if status == "approved":
        await run(conn, _USED, {"grant_id": grant_id})
        return Approved(user_id, client, address)
    await run(conn, _POLLED, {"grant_id": grant_id, "hasty": hasty, "poll_s_max": POLL_S_MAX})
    return "slow_down" if hasty else "authorization_pending"


async def forget(conn: Connection, limit: int = 1_000) -> int:
    """Remove grants that have been over for an hour; how many."""
    return await run(conn, _FORGET, {"limit": limit})


def _digest(user_code: str) -> bytes:
    """However it was typed: small letters, with or without the hyphen."""
    letters = "".join(c for c in user_code.upper() if c in ALPHABET)
    return hashlib.sha256(letters.encode()).digest()
