"""Which account somebody is who signed in at an OpenID Connect provider."""

from __future__ import annotations

from flakes.store import passwords
from flakes.store.database import Connection, Query, row, run

_FIND = Query("""
    select user_id from external_identities where issuer = %(issuer)s and subject = %(subject)s""")

_LINK = Query("""
    insert into external_identities (issuer, subject, user_id)
    values (%(issuer)s, %(subject)s, %(user_id)s) on conflict (issuer, subject) do nothing""")


async def resolve(
    conn: Connection, issuer: str, subject: str, email: str | None, name: str, *, may_create: bool
) -> str | None:
    """The account of an identity whose address (if there is one) the provider has verified.

    Known identities keep their account whatever their address becomes. A new one gets the account of its
    address, or a new account if that is allowed; None when it is not.
    """
    params = {"issuer": issuer, "subject": subject}
    known = await row(conn, _FIND, params)
    if known is not None:
        return known[0]
    if email is None:
        return None
    account = await passwords.find(conn, email)
    user_id = account.user_id if account else None
    if user_id is None and may_create:
        user_id = await passwords.create(conn, name, email, None)
    if user_id is not None:
        await run(conn, _LINK, {**params, "user_id": user_id})
    return user_id
