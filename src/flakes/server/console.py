"""Serving the console: the shell for every page of it, and its files, which are cached for ever.

The policy allows scripts and styles from this origin only, none of them inline, and no frame around it.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flakes.console.assets import BASE, Asset, load
from flakes.server.handling import refusal
from flakes.wire.errors import ApiError

POLICY: Final = "; ".join([
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:", "connect-src 'self'",
    "font-src 'self'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'",
])  # fmt: skip
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def routes() -> list[Any]:
    """The routes, over the files as they are now."""
    assets = load()

    async def shell(request: Request) -> Response:
        return _answer(request, assets.shell, "no-cache")

    async def file(request: Request) -> Response:
        asset = assets.files.get(request.path_params["path"])
        if asset is None:
            return refusal(ApiError("not_found", "no such file of the console", f"open {BASE}"))
        if request.path_params["version"] != assets.version:
            # A page of another version asks: it gets what there is, and keeps it for no longer than needed.
            return _answer(request, asset, "no-cache")
        return _answer(request, asset, "public, max-age=31536000, immutable")

    async def device(request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{BASE}/device{query}", 307, HEADERS)

    async def home(request: Request) -> Response:
        return RedirectResponse(f"{BASE}/", 307, HEADERS)

    return [
        Route(f"{BASE}/static/{{version}}/{{path:path}}", file),
        Route(BASE, home),
        Route(f"{BASE}/{{path:path}}", shell),
        Route("/device", device),
        Route("/", home),
    ]


def _answer(request: Request, asset: Asset, cache: str) -> Response:
    headers = HEADERS | {"Cache-Control": cache, "ETag": asset.etag}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)
