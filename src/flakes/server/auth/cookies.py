"""The two cookies of a signed-in browser.

`flakes_session` holds the token and no script can read it. `flakes_csrf` is readable, and made from the
token: a page of this server repeats it in a header, which a page of somebody else cannot do. Because it
follows from the session, a cookie that another site managed to plant does not help either.

Browsers keep the cookies of all ports of a machine together. So where people reach a server by a port, as a local
session, its cookies are named for the port too: `flakes_session_7733`. A server with a public URL has a name of its
own, and needs no more.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from starlette.requests import Request
from starlette.responses import Response

from flakes.server.plane import Plane
from flakes.store.sign_ins import BROWSER_LASTS_S
from flakes.wire.auth import CSRF_COOKIE, SESSION_COOKIE


def csrf_of(token: str) -> str:
    """The value that goes with a session."""
    digest = hmac.digest(token.encode(), b"flakes csrf", hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:24]).decode()


def sign_in(response: Response, request: Request, plane: Plane, token: str) -> None:
    """Give the browser its session."""
    _set(response, request, plane, SESSION_COOKIE, token, httponly=True)
    _set(response, request, plane, CSRF_COOKIE, csrf_of(token), httponly=False)


def sign_out(response: Response, request: Request, plane: Plane) -> None:
    """Take the cookies back."""
    response.delete_cookie(named(SESSION_COOKIE, request, plane), httponly=True, samesite="strict")
    response.delete_cookie(named(CSRF_COOKIE, request, plane), samesite="strict")


def named(name: str, request: Request, plane: Plane) -> str:
    """What a cookie is called at the address that the browser used."""
    _, colon, port = request.headers.get("host", "").rpartition(":")
    own = plane.config.listen.public_url is None and colon and port.isdecimal()
    return f"{name}_{port}" if own else name


def read(name: str, request: Request, plane: Plane) -> str:
    """The value of a cookie that came with the request, or nothing."""
    return request.cookies.get(named(name, request, plane), "")


def is_secure(request: Request, plane: Plane) -> bool:
    """Whether browsers reach this server by TLS, so that they may be told to use nothing else."""
    public = plane.config.listen.public_url or ""
    return public.startswith("https://") or request.url.scheme == "https"


def _set(
    response: Response, request: Request, plane: Plane, name: str, value: str, *, httponly: bool
) -> None:
    response.set_cookie(
        named(name, request, plane), value, max_age=int(BROWSER_LASTS_S), path="/", secure=is_secure(request, plane),
        httponly=httponly, samesite="strict",
    )  # fmt: skip
