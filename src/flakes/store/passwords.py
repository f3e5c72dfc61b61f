"""Accounts by e-mail address, and the hash of their password. An address is given in lower case, and proved."""

from __future__ import annotations

from dataclasses import dataclass

from flakes.store.accounts import record
from flakes.store.database import Connection, Query, row, run
from flakes.store.identifiers import new_id

_FIND = Query("select user_id, name, password_hash from users where email = %(email)s")

_OF = Query("select user_id, name, password_hash from users where user_id = %(user_id)s")

_CREATE = Query("""
    insert into users (user_id, name, email, password_hash)
    values (%(user_id)s, %(name)s, %(email)s, %(password_hash)s)
    on conflict (email) do nothing returning user_id""")

_SET = Query("""
    update users set password_hash = %(password_hash)s, updated_at = now() where user_id = %(user_id)s""")

_RENAME = Query("update users set name = %(name)s, updated_at = now() where user_id = %(user_id)s")


@dataclass(frozen=True, slots=True)
class Account:
    """An account as signing in needs it. Without a password hash it has no password."""

    user_id: str
    name: str
    password_hash: str | None


async def find(conn: Connection, email: str) -> Account | None:
    """The account of this address."""
    found = await row(conn, _FIND, {"email": email})
    return None if found is None else Account(*found)


async def of_user(conn: Connection, user_id: str) -> Account:
    """The account of this id, which exists."""
    found = await row(conn, _OF, {"user_id": user_id})
    assert found is not None
    return Account(*found)


async def create(conn: Connection, name: str, email: str, password_hash: str | None) -> str | None:
    """A new account for a proved address; None when there is one already."""
    found = await row(conn, _CREATE, {
        "user_id": new_id("user"), "name": name, "email": email, "password_hash": password_hash,
    })  # fmt: skip
    if found is None:
        return None
    await record(conn, found[0], "account.created", {"userId": found[0]})
    return found[0]


async def set_hash(conn: Connection, user_id: str, password_hash: str, *, changed: bool = True) -> None:
    """Store a password's hash; not `changed` when the same password is only hashed anew."""
    await run(conn, _SET, {"user_id": user_id, "password_hash": password_hash})
    if changed:
        await record(conn, user_id, "account.password_changed", {"userId": user_id})


async def rename(conn: Connection, user_id: str, name: str) -> None:
    """Change the account's name."""
    await run(conn, _RENAME, {"user_id": user_id, "name": name})
    await record(conn, user_id, "account.updated", {"userId": user_id})
