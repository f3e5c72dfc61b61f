"""Signing a browser in by a one-time link, and signing out.

Whoever holds a bearer token may make a link; the browser that opens it becomes a session of that account.
"""

from __future__ import annotations

from starlette.responses import Response

from flakes.server.auth import cookies
from flakes.server.auth.session import revoke, start, welcome
from flakes.server.routing import Answer, Call, Endpoint
from flakes.store import codes, sign_ins
from flakes.wire.auth import BrowserLinkAnswer, BrowserLinkPost, Me, SignedOut
from flakes.wire.codec import encode
from flakes.wire.errors import ApiError

LINK_LASTS_S = 600.0
ENDED_BY_SIGNING_OUT = ("browser", "cli")


async def make_link(call: Call) -> Answer:
    """Make a code that signs one browser in, once, within ten minutes."""
    async with call.plane.database.transaction() as conn:
        made = await codes.make(conn, "browser_link", lasts_s=LINK_LASTS_S, user_id=call.owner_id)
    return Answer(BrowserLinkAnswer(code=made.handle, expires_at=made.expires_at), 201)


async def take_link(call: Call) -> Response:
    """Sign this browser in with the code of a one-time link."""
    body: BrowserLinkPost = call.body
    async with call.plane.database.connection() as conn:
        found = await codes.attempt(conn, "browser_link", body.code)
    if found is None or found.user_id is None:
        raise invalid_link()
    async with call.plane.database.transaction() as conn:
        if not await codes.use(conn, found.code_id):
            raise invalid_link()
        started = await start(call, conn, found.user_id)
    return welcome(call, started)


async def sign_out(call: Call) -> Response:
    """End the session of the credential in use, and take the browser's cookies back."""
    identity = call.identity
    if identity.kind not in ENDED_BY_SIGNING_OUT:
        raise ApiError("forbidden", "this credential is no sign-in, so it cannot sign out", "revoke an API key with `flakes auth keys revoke`; a local session ends with `flakes down`")
    async with call.plane.database.transaction() as conn:
        await sign_ins.end(conn, identity.owner_id, identity.token_id)
    await revoke(call, [identity.token_id])
    response = Response(encode(SignedOut(session_id=identity.token_id)), media_type="application/json")
    cookies.sign_out(response, call.request, call.plane)
    return response


def invalid_link() -> ApiError:
    """The same for a code that never was, one that was used, and one that is over."""
    return ApiError("code_invalid", "the link is used, expired or wrong", "make a new one with `flakes console`")


ENDPOINTS = [
    Endpoint("POST", "/v1/auth/browser-links", make_link, BrowserLinkAnswer, status=201, secret=True,
             tag="auth"),
    Endpoint("POST", "/v1/auth/browser-link", take_link, Me, BrowserLinkPost, family=None, tag="auth",
             errors=("code_invalid", "forbidden", "invalid_request")),
    Endpoint("POST", "/v1/auth/sign-out", sign_out, SignedOut, tag="auth"),
]  # fmt: skip
