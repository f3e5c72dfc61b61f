"""Operations on permission requests of the asking assignment."""

from __future__ import annotations

from typing import Final

from flakes.server.operations.act import Act, Handler
from flakes.store import permissions
from flakes.wire.permissions import Permission


async def ask(act: Act) -> Permission:
    async with act.locked() as (conn, holder, ledger):
        return await permissions.ask(conn, ledger, holder, act.body)


async def status(act: Act) -> Permission:
    """Held for as long as the asker wants to wait, without a connection to the database."""
    async with act.fenced() as (conn, _):
        found = await permissions.status(conn, act.assignment_id, act.body.permission_request_id)
    if found.status != "pending" or not act.body.wait_s:
        return found

    async def look() -> Permission:
        async with act.plane.database.connection() as conn:
            return await permissions.status(conn, act.assignment_id, found.permission_request_id)

    return await act.plane.held.until(
        found.permission_request_id, look, lambda now: now.status != "pending", act.body.wait_s
    )


HANDLERS: Final[dict[str, Handler]] = {"permission.ask": ask, "permission.status": status}
