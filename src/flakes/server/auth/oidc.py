"""Signing in with an OpenID Connect provider: out to it with a state, back from it with a code.

The state is a one-time code whose row keeps the nonce and the PKCE verifier, and a cookie ties it to the
browser that began: nobody can finish, in somebody else's browser, a sign-in of their own. The answer that
sets the session's cookies is a page and no redirect, because `SameSite=Strict` cookies are not sent along
a chain of redirects that another site began.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import secrets

import msgspec
from starlette.responses import RedirectResponse, Response

from flakes.core.limits import NAME_LENGTH_MAX
from flakes.server.auth import cookies, limits, pages
from flakes.server.auth.limits import source
from flakes.server.auth.provider import Provider
from flakes.server.auth.session import give, start
from flakes.server.routing import Call, Endpoint
from flakes.store import codes, external_identities
from flakes.wire.errors import ApiError

STATE_LASTS_S = 600.0
COOKIE = "flakes_oidc"
CALLBACK = "/v1/auth/oidc/callback"


class StartQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of the start: the page of this server to come back to."""

    return_to: str = "/console/"


class CallbackQuery(msgspec.Struct, frozen=True):
    """Query of the way back; whatever else a provider adds is ignored."""

    state: str = ""
    code: str = ""
    error: str = ""


async def begin(call: Call) -> Response:
    """Send this browser to the sign-in provider."""
    provider, query = _provider(call), call.query
    await limits.take(call.plane, ("sign-in begun from an address", source(call.request)))
    return_to = query.return_to if _is_local(query.return_to) else "/console/"
    nonce, verifier, mark = (secrets.token_urlsafe(32) for _ in range(3))
    data = {"nonce": nonce, "verifier": verifier, "returnTo": return_to, "browser": _digest(mark)}
    async with call.plane.database.transaction() as conn:
        made = await codes.make(conn, "oidc", lasts_s=STATE_LASTS_S, data=data)
    url = await provider.authorization_url(_redirect_uri(call), made.handle, nonce, verifier)
    response = RedirectResponse(url, 302, {"Cache-Control": "no-store"})
    response.set_cookie(
        cookies.named(COOKIE, call.request, call.plane), mark, max_age=int(STATE_LASTS_S), path=CALLBACK, httponly=True, samesite="lax",
        secure=cookies.is_secure(call.request, call.plane),
    )  # fmt: skip
    return response


async def finish(call: Call) -> Response:
    """Come back from the sign-in provider, and be signed in."""
    try:
        return await _finish(call)
    except ApiError as error:
        if "text/html" not in call.request.headers.get("accept", ""):
            raise
        text = f"<p>{html.escape(error.message)}.</p><p>{html.escape(error.fix)}.</p>"
        return pages.answer("Not signed in", text + '<p><a href="/console/">Back</a></p>', error.status)


async def _finish(call: Call) -> Response:
    provider, query = _provider(call), call.query
    async with call.plane.database.connection() as conn:
        found = await codes.attempt(conn, "oidc", query.state)
        mark = cookies.read(COOKIE, call.request, call.plane)
        if found is None or not hmac.compare_digest(_digest(mark), found.data["browser"]):
            raise ApiError("code_invalid", "this browser did not begin this sign-in, or too long ago", "sign in again")
        if not await codes.use(conn, found.code_id):
            raise ApiError("code_invalid", "this sign-in is used up", "sign in again")
    if query.error or not query.code:
        raise ApiError("access_denied", "the provider did not sign you in", "sign in again")
    data = found.data
    claims = await provider.claims(query.code, _redirect_uri(call), data["nonce"], data["verifier"])
    email = claims.verified_email
    name = (claims.name or (email or "").partition("@")[0] or "somebody")[:NAME_LENGTH_MAX]
    async with call.plane.database.transaction() as conn:
        user_id = await external_identities.resolve(
            conn, provider.issuer, claims.sub, email, name,
            may_create=call.plane.config.auth.is_open,
        )  # fmt: skip
        started = None if user_id is None else await start(call, conn, user_id)
    if started is None:
        raise ApiError("access_denied", "nobody with a verified address of that provider has an account here", "ask whoever runs this server")
    target = html.escape(data["returnTo"], quote=True)
    body = f'<p>Signed in. <a href="{target}">Continue</a></p>'
    response = pages.answer("Signed in", body, head=f'<meta http-equiv="refresh" content="0;url={target}">')
    give(response, call.request, call.plane, started)
    mark = cookies.named(COOKIE, call.request, call.plane)
    response.delete_cookie(mark, path=CALLBACK, httponly=True, samesite="lax")
    return response


def _provider(call: Call) -> Provider:
    provider = call.plane.provider
    if provider is None:
        raise ApiError("not_found", "this server has no sign-in provider", "sign in with a password")
    return provider


def _redirect_uri(call: Call) -> str:
    public = call.plane.config.listen.public_url
    base = public.rstrip("/") if public else str(call.request.base_url).rstrip("/")
    return f"{base}{CALLBACK}"


def _is_local(path: str) -> bool:
    """A path of this server and nothing that a browser reads as another one."""
    plain = path.isprintable() and "\\" not in path
    return plain and path.startswith("/") and not path.startswith("//")


def _digest(mark: str) -> str:
    return hashlib.sha256(mark.encode()).hexdigest()


_ERRORS = ("rate_limited", "not_found", "provider_unavailable", "invalid_request")

ENDPOINTS = [
    Endpoint("GET", "/v1/auth/oidc/start", begin, "text/html", query=StartQuery, family=None, status=302,
             tag="auth", errors=_ERRORS),
    Endpoint("GET", CALLBACK, finish, "text/html", query=CallbackQuery, family=None, tag="auth",
             errors=(*_ERRORS, "code_invalid", "access_denied")),
]  # fmt: skip
