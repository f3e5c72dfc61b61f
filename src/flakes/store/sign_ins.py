"""Sign-in sessions: the tokens of browsers and of command lines, started, listed and ended."""

from __future__ import annotations

from typing import Any, Literal

from flakes.store.accounts import Issued, issue, record
from flakes.store.database import Connection, Query, row, rows, run
from flakes.wire.auth import Session

BROWSER_LASTS_S = 30 * 24 * 3600.0
CLI_LASTS_S = 180 * 24 * 3600.0

_LIVING = """subject_id = %(user_id)s and family = 'user' and kind in ('browser', 'cli')
      and revoked_at is null and expires_at > now()"""

_LIST = Query(f"""
    select token_id, kind, client, address, created_at, last_used_at, expires_at from tokens
    where {_LIVING}
      and (%(before)s::text is null or (created_at, token_id) < (
        select created_at, token_id from tokens where token_id = %(before)s and subject_id = %(user_id)s))
    order by created_at desc, token_id desc limit %(limit)s""")

_END = Query(f"""
    update tokens set revoked_at = now() where token_id = %(token_id)s and {_LIVING} returning kind""")

_END_OTHERS = Query(f"""
    update tokens set revoked_at = now()
    where token_id is distinct from %(but)s and {_LIVING} returning token_id, kind""")

_ENDED = Query("""
    select token_id from tokens where revoked_at > now() - %(within_s)s * interval '1 s'
    union all
    select token_id from tokens
    where expires_at > now() - %(within_s)s * interval '1 s' and expires_at <= now()""")

_FORGET = Query("""
    delete from tokens where token_id in (
        select token_id from tokens where family = 'user' and kind in ('browser', 'cli', 'key')
          and expires_at < now() - interval '7 days' limit %(limit)s)""")

_FORGET_REVOKED = Query("""
    delete from tokens where token_id in (
        select token_id from tokens where family = 'user' and kind in ('browser', 'cli', 'key')
          and revoked_at < now() - interval '7 days' limit %(limit)s)""")

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


async def page(
    conn: Connection, user_id: str, current: str, *, before: str | None, limit: int
) -> list[Session]:
    """The user's living sessions, newest first."""
    params = {"user_id": user_id, "before": before, "limit": limit}
    return [
        Session(
            session_id=token_id, kind=kind, client=client, address=address, created_at=created_at,
            last_used_at=last_used_at, expires_at=expires_at, current=token_id == current,
        )
        for token_id, kind, client, address, created_at, last_used_at, expires_at
        in await rows(conn, _LIST, params)
    ]  # fmt: skip


async def end(conn: Connection, user_id: str, token_id: str) -> bool:
    """End one session of the user; False when there is none of that id that lives."""
    found = await row(conn, _END, {"token_id": token_id, "user_id": user_id})
    if found is None:
        return False
    await record(conn, user_id, "session.ended", {"sessionId": token_id, "kind": found[0]})
    return True


async def end_others(conn: Connection, user_id: str, but: str | None) -> list[str]:
    """End every session of the user but this one; their ids."""
    ended = await rows(conn, _END_OTHERS, {"user_id": user_id, "but": but})
    for token_id, kind in ended:
        await record(conn, user_id, "session.ended", {"sessionId": token_id, "kind": kind})
    return [token_id for token_id, _ in ended]


async def ended(conn: Connection, within_s: float) -> list[str]:
    """Tokens of whatever family that were revoked or expired within the last seconds."""
    return [r[0] for r in await rows(conn, _ENDED, {"within_s": within_s})]


async def forget(conn: Connection, limit: int = 1_000) -> int:
    """Remove sign-ins and keys that have been over for a week; how many."""
    return await run(conn, _FORGET, {"limit": limit}) + await run(conn, _FORGET_REVOKED, {"limit": limit})


async def profile(conn: Connection, user_id: str) -> tuple[str, str | None]:
    """Name and e-mail address of an account."""
    found: tuple[Any, ...] | None = await row(conn, _PROFILE, {"user_id": user_id})
    assert found is not None, "a token has an owner"
    return found[0], found[1]
