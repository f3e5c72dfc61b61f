"""Users and tokens.

A token is ``flakes_<family>_<id>.<secret>``: the id finds the row, the secret is 256 random bits and only
its SHA-256 is stored (a fast hash is right for a random secret; nobody can guess it). Families are `user`,
`host` and `sandbox`; the subject is who it speaks for. Tokens of users are of a kind (see `Kind`) and carry
a scope; what a scope allows is decided in `server.auth.credentials`, and nowhere else.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from dataclasses import dataclass
from typing import Literal

from flakes.store.database import Connection, Query, row, run
from flakes.store.identifiers import new_id
from flakes.wire.auth import Scope
from flakes.wire.codec import encode

Kind = Literal["token", "browser", "cli", "key"]
"""`token`: a local session's owner, and every host and sandbox. `browser`: only ever taken from the cookie.
`cli`: signed in by the device flow. `key`: an API key."""

_FIND = Query("""
    select t.family, t.owner_id, t.subject_id, t.secret_hash, u.name, t.kind, t.scope,
        t.family = 'user' and coalesce(t.last_used_at < now() - interval '5 minutes', true)
    from tokens t
    join users u on u.user_id = t.owner_id
    where t.token_id = %(token_id)s and t.revoked_at is null and t.accepted
      and (t.expires_at is null or t.expires_at > now())""")

_ADD_TOKEN = Query("""
    insert into tokens (token_id, family, owner_id, subject_id, name, secret_hash, kind, scope, client,
        address, expires_at, accepted, lease_id)
    values (%(token_id)s, %(family)s, %(owner_id)s, %(subject_id)s, %(name)s, %(hash)s, %(kind)s,
        %(scope)s, %(client)s, %(address)s, now() + %(lasts_s)s::float * interval '1 s',
        %(lease_id)s::text is null, %(lease_id)s)""")

_ADD_USER = Query("""
    insert into users (user_id, name, email, password_hash)
    values (%(user_id)s, %(name)s, %(email)s, %(password_hash)s)""")

_REVOKE_SUBJECT = Query("""
    update tokens set revoked_at = now(), revoked_reason = %(reason)s
    where subject_id = %(subject_id)s and revoked_at is null""")

# Of the tokens that were sent with a lease, the newest is the one that counts.
_SUPERSEDE = Query("""
    update tokens set revoked_at = now(), revoked_reason = 'sent again'
    where lease_id = %(lease_id)s and revoked_at is null""")

_ACCEPT = Query("""
    update tokens set accepted = true where lease_id = %(lease_id)s and revoked_at is null""")

_USED = Query("update tokens set last_used_at = now() where token_id = %(token_id)s")

_LOCAL_OWNER = Query("select user_id from users where name = 'owner' and email is null limit 1")

_SERIALIZE = Query("select pg_advisory_xact_lock(7164320001)")

_EVENT = Query("""
    insert into events (owner_id, type, data)
    values (%(owner_id)s, %(type)s, %(data)s::json)""")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a request comes from. `subject_id` is the user, host or sandbox of the token."""

    family: str
    owner_id: str
    subject_id: str
    owner_name: str
    token_id: str = ""
    kind: Kind = "token"
    scope: Scope = "admin"


@dataclass(frozen=True, slots=True)
class Issued:
    """A new token: the raw value, which is nowhere else, and the id of its row."""

    raw: str
    token_id: str


async def identify(conn: Connection, token: str) -> Identity | None:
    """Who a token speaks for, or None. Notes now and then that it is in use."""
    head, _, secret = token.partition(".")
    token_id = head.rsplit("_", 1)[-1]
    found = await row(conn, _FIND, {"token_id": token_id}) if secret else None
    if found is None:
        return None
    family, owner_id, subject_id, secret_hash, name, kind, scope, unnoted = found
    digest = hashlib.sha256(secret.encode()).digest()
    if not hmac.compare_digest(digest, bytes(secret_hash)) or head != f"flakes_{family}_{token_id}":
        return None
    if unnoted:
        await used(conn, token_id)
    return Identity(family, owner_id, subject_id, name, token_id, kind, scope)


async def issue_token(
    conn: Connection,
    family: str,
    owner_id: str,
    subject_id: str,
    name: str = "",
    *,
    lease_id: str | None = None,
) -> str:
    """Make and store a token; the raw value is returned this once. One for a lease opens nothing until
    `accept` is called for that lease, and takes the place of those that were sent with it before."""
    if lease_id is not None:
        await run(conn, _SUPERSEDE, {"lease_id": lease_id})
    return (await issue(conn, family, owner_id, subject_id, name, lease_id=lease_id)).raw


async def issue(
    conn: Connection,
    family: str,
    owner_id: str,
    subject_id: str,
    name: str = "",
    *,
    kind: Kind = "token",
    scope: Scope = "admin",
    client: str = "",
    address: str | None = None,
    lasts_s: float | None = None,
    lease_id: str | None = None,
) -> Issued:
    """The same, for a token that ends by itself after `lasts_s` or is less than its owner."""
    token_id = base64.b32encode(os.urandom(10)).decode().lower()
    secret = base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
    await run(conn, _ADD_TOKEN, {
        "token_id": token_id, "family": family, "owner_id": owner_id, "subject_id": subject_id,
        "name": name, "hash": hashlib.sha256(secret.encode()).digest(), "kind": kind, "scope": scope,
        "client": client, "address": address, "lasts_s": lasts_s, "lease_id": lease_id,
    })  # fmt: skip
    return Issued(f"flakes_{family}_{token_id}.{secret}", token_id)


async def accept(conn: Connection, lease_id: str) -> None:
    """The launch of that lease was accepted: its credential works from now on."""
    await run(conn, _ACCEPT, {"lease_id": lease_id})


async def revoke_of(conn: Connection, subject_id: str, reason: str = "") -> int:
    """Revoke every token of a subject."""
    return await run(conn, _REVOKE_SUBJECT, {"subject_id": subject_id, "reason": reason or None})


async def used(conn: Connection, token_id: str) -> None:
    """Somebody came with this token."""
    await run(conn, _USED, {"token_id": token_id})


async def create_user(
    conn: Connection, name: str, email: str | None = None, password_hash: str | None = None
) -> str:
    """A new account; its id. An address is a verified one, in lower case."""
    user_id = new_id("user")
    await run(conn, _ADD_USER, {
        "user_id": user_id, "name": name, "email": email, "password_hash": password_hash,
    })  # fmt: skip
    return user_id


async def local_owner(conn: Connection) -> str:
    """The one account of a local session, made at its first start."""
    await row(conn, _SERIALIZE)
    found = await row(conn, _LOCAL_OWNER)
    return found[0] if found else await create_user(conn, "owner")


async def record(conn: Connection, owner_id: str, type_: str, data: dict[str, str]) -> None:
    """An event of the account itself."""
    await run(conn, _EVENT, {"owner_id": owner_id, "type": type_, "data": encode(data).decode()})
