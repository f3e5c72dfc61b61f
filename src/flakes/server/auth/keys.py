"""API keys of an account."""

from __future__ import annotations

from flakes.core import limits
from flakes.server.auth.session import revoke
from flakes.server.routing import Answer, Call, Endpoint, Page, bounded
from flakes.store import api_keys
from flakes.wire.auth import ApiKey, ApiKeyAnswer, ApiKeyPost, ApiKeys
from flakes.wire.errors import ApiError

DAYS_MAX = 3_650
DAY_S = 24 * 3600.0


async def create_key(call: Call) -> Answer:
    """Make an API key; its value is in this answer only."""
    body: ApiKeyPost = call.body
    name = body.name.strip()
    if not 1 <= len(name) <= limits.NAME_LENGTH_MAX or not name.isprintable():
        raise ApiError("invalid_request", f"name must have 1 to {limits.NAME_LENGTH_MAX} printable characters", "say what the key is for", issues=[{"path": "name", "message": "not a name"}])
    days = body.expires_in_days
    if days is not None and not 1 <= days <= DAYS_MAX:
        raise ApiError("invalid_request", f"expiresInDays must be between 1 and {DAYS_MAX}", "leave it out for a key that lasts until it is revoked", issues=[{"path": "expiresInDays", "message": "out of range"}])
    lasts_s = None if days is None else days * DAY_S
    async with call.plane.database.transaction() as conn:
        made = await api_keys.create(conn, call.owner_id, name, body.scope, lasts_s)
    call.plane.wrote()
    return Answer(made, 201)


async def list_keys(call: Call) -> ApiKeys:
    """List the account's API keys, newest first."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        found = await api_keys.page(conn, call.owner_id, before=call.query.cursor, limit=limit)
    return ApiKeys(keys=found, next_cursor=found[-1].key_id if len(found) == limit else None)


async def revoke_key(call: Call) -> ApiKey:
    """Revoke an API key for good, and end the streams that use it."""
    async with call.plane.database.transaction() as conn:
        revoked = await api_keys.revoke(conn, call.owner_id, call.path["keyId"])
    await revoke(call, [revoked.key_id])
    return revoked


ENDPOINTS = [
    Endpoint("POST", "/v1/auth/keys", create_key, ApiKeyAnswer, ApiKeyPost, status=201, secret=True,
             tag="auth", errors=("limit_exceeded",)),
    Endpoint("GET", "/v1/auth/keys", list_keys, ApiKeys, query=Page, scope="admin", tag="auth"),
    Endpoint("DELETE", "/v1/auth/keys/{keyId}", revoke_key, ApiKey, scope="admin", tag="auth"),
]  # fmt: skip
