"""One's own account: profile, password, and the list of where one is signed in."""

from __future__ import annotations

from flakes.core import limits as core_limits
from flakes.server.auth import limits, passwords
from flakes.server.auth.session import describe, revoke
from flakes.server.routing import Call, Endpoint, Page, bounded
from flakes.store import api_keys, sign_ins
from flakes.store import passwords as accounts
from flakes.wire.auth import ChangePassword, Me, MePatch, PasswordChanged, Sessions, SignedOut
from flakes.wire.errors import ApiError, not_found


async def patch_me(call: Call) -> Me:
    """Change the account's name."""
    body: MePatch = call.body
    if body.name is not None:
        name = body.name.strip()
        if not 1 <= len(name) <= core_limits.NAME_LENGTH_MAX or not name.isprintable():
            raise ApiError("invalid_request", f"name must have 1 to {core_limits.NAME_LENGTH_MAX} printable characters", "give a name", issues=[{"path": "name", "message": "not a name"}])
        async with call.plane.database.transaction() as conn:
            await accounts.rename(conn, call.owner_id, name)
        call.plane.wrote()
    return await describe(call.plane, call.identity)


async def change_password(call: Call) -> PasswordChanged:
    """Change the password, and end every other session. API keys go on working: the answer lists them."""
    body: ChangePassword = call.body
    plane, identity = call.plane, call.identity
    passwords.check(body.new_password, "", "newPassword")
    attempt = ("password of an account from an address", identity.owner_id)
    await limits.take(plane, attempt)
    async with plane.database.connection() as conn:
        account = await accounts.of_user(conn, identity.owner_id)
    if not await plane.hashing.matches(account.password_hash, body.current_password):
        raise ApiError("forbidden", "that is not the current password", "ask for a new one by mail if you forgot it")
    await limits.give_back(plane, attempt)
    password_hash = await plane.hashing.hashed(body.new_password)
    async with plane.database.transaction() as conn:
        await accounts.set_hash(conn, identity.owner_id, password_hash)
        ended = await sign_ins.end_others(conn, identity.owner_id, identity.token_id)
        keys = await api_keys.page(conn, identity.owner_id, before=None, limit=api_keys.KEYS_MAX)
    await revoke(call, ended)
    return PasswordChanged(ended_sessions=len(ended), keys=keys)


async def list_sessions(call: Call) -> Sessions:
    """List where the account is signed in, newest first."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        found = await sign_ins.page(
            conn, call.owner_id, call.identity.token_id, before=call.query.cursor, limit=limit
        )
    cursor = found[-1].session_id if len(found) == limit else None
    return Sessions(sessions=found, next_cursor=cursor)


async def end_session(call: Call) -> SignedOut:
    """Sign a browser or a command line out, wherever it is."""
    session_id = call.path["sessionId"]
    async with call.plane.database.transaction() as conn:
        if not await sign_ins.end(conn, call.owner_id, session_id):
            raise not_found("session")
    await revoke(call, [session_id])
    return SignedOut(session_id=session_id)


ENDPOINTS = [
    Endpoint("PATCH", "/v1/me", patch_me, Me, MePatch, scope="admin", tag="auth"),
    Endpoint("POST", "/v1/auth/change-password", change_password, PasswordChanged, ChangePassword,
             scope="admin", tag="auth", errors=("rate_limited",)),
    Endpoint("GET", "/v1/auth/sessions", list_sessions, Sessions, query=Page, scope="admin", tag="auth"),
    Endpoint("DELETE", "/v1/auth/sessions/{sessionId}", end_session, SignedOut, scope="admin", tag="auth"),
]  # fmt: skip
