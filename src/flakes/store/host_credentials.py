"""Credentials of hosts as their owner sees them: listed, rotated, revoked. The secrets are in `accounts`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flakes.core import limits
from flakes.store import accounts
from flakes.store.database import Connection, Query, row, rows, run
from flakes.wire.errors import ApiError, not_found
from flakes.wire.hosts import Credential

_COLUMNS = """
    select token_id, created_at, expires_at, retired_at, revoked_at, revoked_reason, last_used_at,
           expires_at <= now()
    from tokens where family = 'host' and owner_id = %(owner_id)s and subject_id = %(host_id)s"""

_LIST = Query(f"{_COLUMNS} order by created_at desc, token_id limit 200")

_GET = Query(f"{_COLUMNS} and token_id = %(token_id)s")

_RETIRE = Query("""
    update tokens set retired_at = now(),
        expires_at = least(coalesce(expires_at, 'infinity'), now() + %(grace_s)s * interval '1 s')
    where family = 'host' and owner_id = %(owner_id)s and subject_id = %(host_id)s
      and revoked_at is null and retired_at is null and coalesce(expires_at > now(), true)
    returning token_id""")

_REVOKE = Query("""
    update tokens set revoked_at = now(), revoked_reason = %(reason)s
    where token_id = any(%(token_ids)s) and revoked_at is null""")

_USABLE = Query("""
    select count(*) from tokens
    where family = 'host' and subject_id = %(host_id)s and revoked_at is null
      and coalesce(expires_at > now(), true)""")


async def issue(
    conn: Connection, owner_id: str, host_id: str, name: str
) -> tuple[Credential, str]:
    """A new credential, and its raw value. `limit_exceeded` when too many work already."""
    if await usable(conn, host_id) >= limits.CREDENTIALS_PER_HOST_MAX:
        raise ApiError(
            "limit_exceeded",
            f"{limits.CREDENTIALS_PER_HOST_MAX} credentials of this host work already",
            "revoke some of them", limit=limits.CREDENTIALS_PER_HOST_MAX,
        )  # fmt: skip
    raw = await accounts.issue_token(conn, "host", owner_id, host_id, name)
    token_id = raw.partition(".")[0].rsplit("_", 1)[-1]
    return await get(conn, owner_id, host_id, token_id), raw


async def listed(conn: Connection, owner_id: str, host_id: str) -> list[Credential]:
    """Those of a host, newest first."""
    return [_credential(r) for r in await rows(conn, _LIST, {"owner_id": owner_id, "host_id": host_id})]


async def get(conn: Connection, owner_id: str, host_id: str, credential_id: str) -> Credential:
    """One of a host's."""
    params = {"owner_id": owner_id, "host_id": host_id, "token_id": credential_id}
    found = await row(conn, _GET, params)
    if found is None:
        raise not_found("credential")
    return _credential(found)


async def rotate(
    conn: Connection, owner_id: str, host_id: str, grace_s: int
) -> tuple[Credential, list[Credential], str]:
    """A new credential, those it replaces, and its raw value. The host is locked by the caller."""
    params = {"owner_id": owner_id, "host_id": host_id, "grace_s": grace_s}
    replaced = [r[0] for r in await rows(conn, _RETIRE, params)]
    if grace_s == 0:
        await run(conn, _REVOKE, {"token_ids": replaced, "reason": "rotated"})
    credential, raw = await issue(conn, owner_id, host_id, "rotated")
    return credential, [await get(conn, owner_id, host_id, each) for each in replaced], raw


async def revoke(
    conn: Connection, owner_id: str, host_id: str, credential_id: str, reason: str
) -> Credential:
    """Make it worthless; doing it again changes nothing."""
    await get(conn, owner_id, host_id, credential_id)
    await run(conn, _REVOKE, {"token_ids": [credential_id], "reason": reason or None})
    return await get(conn, owner_id, host_id, credential_id)


async def usable(conn: Connection, host_id: str) -> int:
    """How many open the host's doors now."""
    found = await row(conn, _USABLE, {"host_id": host_id})
    return found[0] if found else 0


def _credential(r: Sequence[Any]) -> Credential:
    token_id, created_at, expires_at, retired_at, revoked_at, reason, last_used_at, expired = r
    status = "revoked" if revoked_at else "expired" if expired else "retired" if retired_at else "active"
    return Credential(
        credential_id=token_id, token_prefix=f"flakes_host_{token_id}", status=status,
        created_at=created_at, expires_at=expires_at, retired_at=retired_at, revoked_at=revoked_at,
        reason=reason, last_used_at=last_used_at,
    )  # fmt: skip
