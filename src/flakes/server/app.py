"""The ASGI application: the route table, the two streams, and the check of the `Host` header."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from flakes.server import console, openapi
from flakes.server.api import (
    artifacts,
    bindings,
    documents,
    events,
    fleet,
    groups,
    host_credentials,
    hosts,
    messages,
    observation,
    operations,
    permissions,
    projects,
    reservations,
    runs,
    sandbox_scope,
    service,
    tasks,
    transcripts,
    workpads,
    workspaces,
)
from flakes.server.auth import account, browser, device, device_page, keys, oidc, password_sign_in
from flakes.server.handling import asgi, refusal
from flakes.server.plane import Plane
from flakes.server.routing import Endpoint
from flakes.server.streams import hosts as host_stream
from flakes.server.streams import sandboxes as sandbox_stream
from flakes.store.database import UNAVAILABLE
from flakes.wire.errors import ApiError

log = structlog.get_logger()

ENDPOINTS: list[Endpoint] = [
    *service.ENDPOINTS, *projects.ENDPOINTS, *runs.ENDPOINTS, *tasks.ENDPOINTS, *events.ENDPOINTS,
    *fleet.ENDPOINTS, *sandbox_scope.ENDPOINTS, *messages.ENDPOINTS, *permissions.ENDPOINTS,
    *workpads.ENDPOINTS, *reservations.ENDPOINTS, *operations.ENDPOINTS,
    *artifacts.ENDPOINTS, *observation.ENDPOINTS, *documents.ENDPOINTS, *transcripts.ENDPOINTS,
    *browser.ENDPOINTS, *password_sign_in.ENDPOINTS, *account.ENDPOINTS, *keys.ENDPOINTS,
    *device.ENDPOINTS, *oidc.ENDPOINTS,
    *hosts.ENDPOINTS, *host_credentials.ENDPOINTS, *bindings.ENDPOINTS, *groups.ENDPOINTS,
    *workspaces.ENDPOINTS,
]  # fmt: skip


def build(plane: Plane) -> Starlette:
    """The application over a plane; nothing is started."""
    routes: list[Any] = [
        Route(endpoint.path, asgi(endpoint, plane), methods=[endpoint.method], name=endpoint.summary)
        for endpoint in ENDPOINTS
    ]
    routes += [
        WebSocketRoute("/v1/sandboxes/{sandboxId}/stream", _stream(sandbox_stream.serve, plane)),
        WebSocketRoute("/v1/hosts/{hostId}/stream", _stream(host_stream.serve, plane)),
        Route("/v1/sandboxes/{sandboxId}/stream", _upgrade_required),
        Route("/v1/hosts/{hostId}/stream", _upgrade_required),
        Route("/device", device_page.page(plane), methods=["GET", "POST"]),
        *console.routes(),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_route})  # pyright: ignore[reportArgumentType]
    app.state.openapi = openapi.document(ENDPOINTS)
    app.add_middleware(HostCheck, allowed=_allowed_hosts(plane))
    return app


class HostCheck:
    """Refuses requests for other names: a web page must not reach a loopback server by DNS rebinding."""

    def __init__(self, app: ASGIApp, allowed: frozenset[str]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            if not self._is_allowed(host):
                error = ApiError("forbidden", f"this server is not {host[:100]!r}", "use its own address, or set listen.publicUrl")
                await refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_allowed(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        if name in self._allowed:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _allowed_hosts(plane: Plane) -> frozenset[str]:
    listen = plane.config.listen
    names = {"localhost", listen.host.lower()}
    if listen.public_url:
        names.add(listen.public_url.split("://")[-1].split("/")[0].rsplit(":", 1)[0].lower())
    return frozenset(names)


def _stream(
    serve: Callable[[WebSocket, Plane], Awaitable[None]], plane: Plane
) -> Callable[[WebSocket], Awaitable[None]]:
    async def handle(socket: WebSocket) -> None:
        try:
            await serve(socket, plane)
        except ApiError as error:
            await socket.send_denial_response(refusal(error))
        except (WebSocketDisconnect, *UNAVAILABLE) as error:
            log.warning("stream.ended", path=socket.url.path, error=str(error)[:200])
            if socket.application_state is WebSocketState.CONNECTING:
                away = ApiError("database_unavailable", "the database does not answer", "try again in a moment")
                await socket.send_denial_response(refusal(away))
            else:
                await _close(socket)
        except Exception:
            log.exception("stream.failed", path=socket.url.path)
            await _close(socket)

    return handle


async def _close(socket: WebSocket) -> None:
    try:
        await socket.close(1013)
    except (RuntimeError, WebSocketDisconnect):
        return  # it is closed already


async def _upgrade_required(request: Request) -> Response:
    return refusal(ApiError("upgrade_required", "this address speaks WebSocket", "connect with a WebSocket client"))


async def _no_route(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        return refusal(ApiError("method_not_allowed", f"{request.method} is not allowed here", "see /openapi.json"))
    return refusal(ApiError("not_found", "no such path", "see /openapi.json for every route"))
