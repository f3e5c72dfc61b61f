"""API keys: tokens of a user for programs, each with a name, a scope and perhaps an end."""

from __future__ import annotations

from typing import Any

from flakes.store.accounts import issue, record
from flakes.store.database import Connection, Query, row, rows
from flakes.wire.auth import ApiKey, ApiKeyAnswer, Scope
from flakes.wire.errors import ApiError, not_found

KEYS_MAX = 100

_COLUMNS = "token_id, name, scope, created_at, last_used_at, expires_at"

_MINE = "subject_id = %(user_id)s and family = 'user' and kind = 'key' and revoked_at is null"

_COUNT = Query(f"select count(*) from tokens where {_MINE}")

_SERIALIZE = Query("select user_id from users where user_id = %(user_id)s for update")

_GET = Query(f"select {_COLUMNS} from tokens where token_id = %(token_id)s and {_MINE}")

_LIST = Query(f"""
    select {_COLUMNS} from tokens
    where {_MINE}
      and (%(before)s::text is null or (created_at, token_id) < (
        select created_at, token_id from tokens where token_id = %(before)s and subject_id = %(user_id)s))
    order by created_at desc, token_id desc limit %(limit)s""")

_REVOKE = Query(f"""
    update tokens set revoked_at = now() where token_id = %(token_id)s and {_MINE} returning {_COLUMNS}""")


_REVOKE_ALL = Query(f"update tokens set revoked_at = now() where {_MINE} returning {_COLUMNS}")


async def create(
    conn: Connection, user_id: str, name: str, scope: Scope, lasts_s: float | None
) -> ApiKeyAnswer:
    """Make a key; its raw value is in this answer only. 400 `limit_exceeded` beyond `KEYS_MAX`."""
    await row(conn, _SERIALIZE, {"user_id": user_id})
    count = await row(conn, _COUNT, {"user_id": user_id})
    if count is not None and count[0] >= KEYS_MAX:
        raise ApiError("limit_exceeded", f"an account has at most {KEYS_MAX} API keys", "revoke one that nobody uses", limit=KEYS_MAX)
    issued = await issue(
        conn, "user", user_id, user_id, name, kind="key", scope=scope, lasts_s=lasts_s
    )
    await record(conn, user_id, "key.created", {"keyId": issued.token_id, "name": name, "scope": scope})
    found = await row(conn, _GET, {"user_id": user_id, "token_id": issued.token_id})
    assert found is not None
    return ApiKeyAnswer(key=_key(found), raw_key=issued.raw)


async def page(
    conn: Connection, user_id: str, *, before: str | None, limit: int
) -> list[ApiKey]:
    """The user's keys that are not revoked, newest first; expired ones are there until they are removed."""
    params = {"user_id": user_id, "before": before, "limit": limit}
    return [_key(found) for found in await rows(conn, _LIST, params)]


async def revoke(conn: Connection, user_id: str, key_id: str) -> ApiKey:
    """Revoke a key for good."""
    found = await row(conn, _REVOKE, {"user_id": user_id, "token_id": key_id})
    if found is None:
        raise not_found("key")
    await record(conn, user_id, "key.revoked", {"keyId": key_id, "name": found[1]})
    return _key(found)


async def revoke_all(conn: Connection, user_id: str) -> list[str]:
    """Revoke every key of the user; their ids."""
    found = await rows(conn, _REVOKE_ALL, {"user_id": user_id})
    for key_id, name, *_ in found:
        await record(conn, user_id, "key.revoked", {"keyId": key_id, "name": name})
    return [key_id for key_id, *_ in found]


def _key(found: tuple[Any, ...]) -> ApiKey:
    key_id, name, scope, created_at, last_used_at, expires_at = found
    return ApiKey(
        key_id=key_id, name=name, scope=scope, created_at=created_at, last_used_at=last_used_at,
        expires_at=expires_at,
    )  # fmt: skip
