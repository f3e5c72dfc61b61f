"""Who a request comes from, and whether that credential may do this: the one place where both are decided.

A request is authenticated by a bearer token or by a browser's cookie. What browsers send by themselves
proves nothing about who made them send it, so a change that is authenticated by the cookie also needs the
readable cookie's value in a header and an `Origin` that is this server; so do, as far as a browser tells
its origin, the routes without credentials that sign somebody in.

What a credential may do follows from the route: `read` for GET and HEAD, `write` for everything else, and
`admin` where the answer is a secret or the table says so.
"""

from __future__ import annotations

import hmac
from typing import Final

from starlette.requests import Request

from flakes.server.auth import cookies
from flakes.server.auth.cookies import csrf_of
from flakes.server.plane import Plane
from flakes.server.routing import SAFE, Endpoint
from flakes.store.accounts import Identity
from flakes.wire.auth import CSRF_COOKIE, CSRF_HEADER, SESSION_COOKIE, Scope
from flakes.wire.errors import ApiError

RANKS: Final[dict[Scope, int]] = {"read": 0, "write": 1, "admin": 2}

NOBODY: Final = Identity("none", "", "", "")


def bearer(request: Request) -> str | None:
    """The token in the `Authorization` header; None without the header, empty when it is something else."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def token_of(request: Request, plane: Plane) -> str:
    """The token that authenticates this request, whichever way it came."""
    given = bearer(request)
    return cookies.read(SESSION_COOKIE, request, plane) if given is None else given


async def authenticate(request: Request, plane: Plane, endpoint: Endpoint) -> Identity:
    """Who asks; 401 or 403 as `ApiError` when nobody does, or when it is not for them."""
    family = endpoint.family
    if family is None:
        if request.method not in SAFE and "origin" in request.headers:
            check_origin(request, plane)
        return NOBODY
    given = bearer(request)
    identity = await _by_cookie(request, plane) if given is None else await _by_token(plane, given)
    if identity is None:
        raise ApiError("unauthorized", "no valid credential", "send `Authorization: Bearer <token>`; `flakes auth token` prints one")
    if identity.family != family:
        raise ApiError("forbidden", f"this route takes a {family} credential", f"use a {family} credential")
    own = request.path_params.get(f"{family}Id")
    if family != "user" and own is not None and own != identity.subject_id:
        raise ApiError("forbidden", f"the credential is not the one of this {family}", "use its own")
    if endpoint.direct and given is None:
        raise ApiError("forbidden", "this route takes a bearer token, not a browser's session", "use the command line")
    if RANKS[identity.scope] < RANKS[endpoint.needs]:
        raise ApiError("forbidden", f"this credential may only {identity.scope}; this needs {endpoint.needs}", f"use a key with the scope {endpoint.needs}", scope=endpoint.needs)
    return identity


async def _by_token(plane: Plane, token: str) -> Identity | None:
    identity = await plane.identify(token) if token else None
    return None if identity is None or identity.kind == "browser" else identity


async def _by_cookie(request: Request, plane: Plane) -> Identity | None:
    token = cookies.read(SESSION_COOKIE, request, plane)
    identity = await plane.identify(token) if token else None
    if identity is None or identity.kind != "browser":
        return None
    if request.method not in SAFE:
        check_origin(request, plane)
        check_csrf(request, plane, token, request.headers.get(CSRF_HEADER, ""))
    return identity


def check_csrf(request: Request, plane: Plane, token: str, given: str) -> None:
    """The value must be the session's, and the readable cookie's."""
    expected = csrf_of(token).encode()
    cookie = cookies.read(CSRF_COOKIE, request, plane).encode()
    if not (hmac.compare_digest(given.encode(), expected) and hmac.compare_digest(cookie, expected)):
        raise ApiError("forbidden", "the request does not prove that a page of this server made it", f"send the value of the cookie {cookies.named(CSRF_COOKIE, request, plane)} in the header X-Flakes-CSRF")


def check_origin(request: Request, plane: Plane) -> None:
    """The page that made the browser send this must be one of this server."""
    origin = request.headers.get("origin", "").lower()
    own = {f"{request.url.scheme}://{request.headers.get('host', '')}".lower()}
    if plane.config.listen.public_url:
        own.add(origin_of(plane.config.listen.public_url))
    if origin not in own:
        raise ApiError("forbidden", f"a page of {origin[:100] or 'an unknown origin'!r} may not do this", "use this server's own pages")


def origin_of(url: str) -> str:
    """Scheme, host and port of an address, as browsers write them."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.split('/')[0]}".lower()
