"""The page `/device`: sign in, see which device asks, approve or deny it. Plain forms, for every browser.

Its forms carry what the console sends in a header, and come from this server or are refused.
"""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from typing import Literal
from urllib.parse import parse_qs, quote

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from flakes.server.auth import cookies, pages
from flakes.server.auth.cookies import csrf_of
from flakes.server.auth.credentials import NOBODY, check_csrf, check_origin
from flakes.server.auth.device import look_up, settle
from flakes.server.auth.password_sign_in import by_password
from flakes.server.auth.session import give
from flakes.server.plane import Plane
from flakes.server.routing import Call
from flakes.store.accounts import Identity
from flakes.store.database import UNAVAILABLE
from flakes.wire.auth import SESSION_COOKIE
from flakes.wire.errors import ApiError

FORM_BYTES_MAX = 8_192

log = structlog.get_logger()


def page(plane: Plane) -> Callable[[Request], Awaitable[Response]]:
    """The handler of both methods."""

    async def handle(request: Request) -> Response:
        code = request.query_params.get("code", "")[:40]
        try:
            if request.method == "POST":
                return await _submit(plane, request, code)
            return await _show(plane, request, code)
        except ApiError as error:
            text = f"<p>{html.escape(error.message)}.</p><p>{html.escape(error.fix)}.</p>"
            again = f'<p><a href="{_here(code)}">Back</a></p>'
            return pages.answer("That did not work", text + again, error.status)
        except UNAVAILABLE as error:
            log.warning("request.database_unavailable", path="/device", error=str(error)[:200])
            return pages.answer("That did not work", "<p>The database does not answer.</p>", 503)

    return handle


async def _show(plane: Plane, request: Request, code: str) -> Response:
    token, identity = await _who(plane, request)
    if identity is None:
        return pages.answer("Sign in first", _sign_in(plane, code))
    if not code:
        ask = '<form method="get"><label>Code<input name="code" required autofocus></label><button>Continue</button></form>'
        return pages.answer("Connect a device", ask)
    grant = await look_up(plane, identity.owner_id, code)
    asks = html.escape(grant.client_name)
    where = f" from {html.escape(grant.address)}" if grant.address else ""
    if grant.status != "pending":
        return pages.answer("Decided", f"<p>{asks} is {grant.status}. You can close this page.</p>")
    form = (
        f"<p><b>{asks}</b>{where} wants to use Flakes as <b>{html.escape(identity.owner_name)}</b>.</p>"
        f"<p>Approve it only if it shows this code: <code>{html.escape(grant.user_code)}</code></p>"
        f'<form method="post" action="{_here(code)}">'
        f'<input type="hidden" name="csrf" value="{csrf_of(token)}">'
        '<button name="decision" value="approved">Approve</button>'
        '<button name="decision" value="denied">Deny</button></form>'
    )
    return pages.answer("Connect a device", form)


async def _submit(plane: Plane, request: Request, code: str) -> Response:
    check_origin(request, plane)
    form = await _form(request)
    if "email" in form:
        call = Call(plane, NOBODY, {}, None, None, request)
        started = await by_password(call, form["email"], form.get("password", ""))
        response = RedirectResponse(_here(code), 303)
        give(response, request, plane, started)
        return response
    token, identity = await _who(plane, request)
    if identity is None:
        return RedirectResponse(_here(code), 303)
    check_csrf(request, plane, token, form.get("csrf", ""))
    decision: Literal["approved", "denied"] = "approved" if form.get("decision") == "approved" else "denied"
    await settle(plane, identity.owner_id, code, decision)
    done = "It is signed in now." if decision == "approved" else "It gets nothing."
    return pages.answer(decision.capitalize(), f"<p>{done} You can close this page.</p>")


async def _who(plane: Plane, request: Request) -> tuple[str, Identity | None]:
    token = cookies.read(SESSION_COOKIE, request, plane)
    identity = await plane.identify(token) if token else None
    return token, identity if identity is not None and identity.kind == "browser" else None


def _sign_in(plane: Plane, code: str) -> str:
    here = _here(code)
    if plane.config.auth.local_credential_file is not None:
        return f'<p>Open the console with <code>flakes console --open</code>, then <a href="{here}">come back</a>.</p>'
    form = (
        f'<form method="post" action="{here}">'
        '<label>E-mail<input name="email" type="email" autocomplete="username" required autofocus></label>'
        '<label>Password<input name="password" type="password" autocomplete="current-password" required></label>'
        "<button>Sign in</button></form>"
    )
    if plane.provider is None:
        return form
    start = f"/v1/auth/oidc/start?returnTo={quote(f'/device?code={quote(code)}', safe='')}"
    return f'{form}<p><a href="{start}">{html.escape(plane.provider.config.name)}</a></p>'


async def _form(request: Request) -> dict[str, str]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES_MAX:
            raise ApiError("too_large", "the form is too large", "send less", limit=FORM_BYTES_MAX)
    return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}


def _here(code: str) -> str:
    return f"/device?code={quote(code, safe='')}"
