"""Sign-in sessions: the tokens of browsers and of command lines, started, listed and ended."""

from __future__ import annotations

from typing import Any, Literal

from flakes.store.accounts import Issued, issue, record
from flakes.store.database import Connection, Query, row

BROWSER_LASTS_S = 30 * 24 * 3600.0
CLI_LASTS_S = 180 * 24 * 3600.0

_END = Query("""
    update tokens set revoked_at = now()
    where token_id = %(token_id)s and owner_id = %(user_id)s and family = 'user'
      and kind in ('browser', 'cli') and revoked_at is null
    returning kind""")

_PROFILE = Query("select name, email from users where user_id = %(user_id)s")


async def start(
    conn: Connection,
    user_id: str,
    kind: Literal["browser", "cli"],
    *,
    client: str = "",
    address: str | None = None,
) -> Issued:
    """Sign a browser or a command line in as this user."""
    lasts_s = BROWSER_LASTS_S if kind == "browser" else CLI_LASTS_S
    issued = await issue(
        conn, "user", user_id, user_id, kind=kind, client=client[:200], address=address, lasts_s=lasts_s
    )
    await record(conn, user_id, "session.started", {"sessionId": issued.token_id, "kind": kind})
    return issued


async def end(conn: Connection, user_id: str, token_id: str) -> bool:
    """End one session of the user; False when there is none of that id that lives."""
    found = await row(conn, _END, {"token_id": token_id, "user_id": user_id})
    if found is None:
        return False
    await record(conn, user_id, "session.ended", {"sessionId": token_id, "kind": found[0]})
    return True


async def profile(conn: Connection, user_id: str) -> tuple[str, str | None]:
    """Name and e-mail address of an account."""
    found: tuple[Any, ...] | None = await row(conn, _PROFILE, {"user_id": user_id})
    assert found is not None, "a token has an owner"
    return found[0], found[1]
