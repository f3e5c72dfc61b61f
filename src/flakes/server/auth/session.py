"""Beginning and ending sign-ins, for every way of signing in; and what the server tells about a credential."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from flakes import __version__
from flakes.server.auth import cookies
from flakes.server.plane import Plane
from flakes.server.routing import Call
from flakes.store import sign_ins
from flakes.store.accounts import Identity, Issued
from flakes.store.database import Connection
from flakes.wire.auth import Me
from flakes.wire.codec import encode


@dataclass(frozen=True, slots=True)
class Started:
    """A new browser session: its token, and whose it is."""

    issued: Issued
    me: Me


async def start(call: Call, conn: Connection, user_id: str) -> Started:
    """A session for the browser that asks, in the transaction of what allows it."""
    client = call.request.headers.get("user-agent", "")
    issued = await sign_ins.start(
        conn, user_id, "browser", client=client, address=address_of(call.request)
    )
    name, email = await sign_ins.profile(conn, user_id)
    identity = Identity("user", user_id, user_id, name, issued.token_id, "browser")
    return Started(issued, me_of(identity, name, email))


def welcome(call: Call, started: Started) -> Response:
    """The answer that gives the browser its session, after the commit."""
    response = Response(encode(started.me), media_type="application/json")
    give(response, call.request, call.plane, started)
    return response


def give(response: Response, request: Request, plane: Plane, started: Started) -> None:
    """Put the session's cookies onto any answer."""
    plane.wrote()
    response.headers["Cache-Control"] = "no-store"
    cookies.sign_in(response, request, plane, started.issued.raw)


async def revoke(call: Call, token_ids: Collection[str]) -> None:
    """After the commit of their revocation: nothing goes on with these tokens here."""
    plane = call.plane
    plane.wrote()
    await plane.after(lambda: plane.revoked(token_ids))


async def describe(plane: Plane, identity: Identity) -> Me:
    """What `/v1/me` tells about a credential."""
    async with plane.database.connection() as conn:
        name, email = await sign_ins.profile(conn, identity.owner_id)
    return me_of(identity, name, email)


def me_of(identity: Identity, name: str, email: str | None) -> Me:
    """The account and the credential, as they cross the wire."""
    return Me(
        user_id=identity.owner_id, name=name, email=email, token_family=identity.family,
        session_id=identity.token_id, session_kind=identity.kind, scope=identity.scope,
        server_version=__version__,
    )  # fmt: skip


def address_of(request: Request) -> str | None:
    """Where a request comes from: the client of the proxy, if the proxy is a trusted one."""
    return request.client.host if request.client else None
