"""Routes about the server itself: liveness, readiness, who am I, and the OpenAPI document."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from flakes.server.auth.session import describe
from flakes.server.routing import Answer, Call, Endpoint
from flakes.store.database import UNAVAILABLE, Query
from flakes.wire.auth import Me

_PROBE = Query("select 1")


class Live(msgspec.Struct, frozen=True, rename="camel"):
    """Answer of the probes."""

    status: str
    leading: bool = False
    sandboxes: int = 0
    hosts: int = 0


async def livez(call: Call) -> Live:
    """Answer while the process can answer at all."""
    return Live("ok")


async def readyz(call: Call) -> Answer:
    """Answer 200 when the database does, else 503."""
    plane = call.plane
    try:
        await plane.database.row(_PROBE)
    except UNAVAILABLE:
        return Answer(Live("database_unavailable"), 503)
    return Answer(Live("ok", plane.leading, len(plane.hub.sandboxes), len(plane.hub.hosts)))


async def me(call: Call) -> Me:
    """Read who the credential speaks for."""
    return await describe(call.plane, call.identity)


async def openapi(call: Call) -> Response:
    """The OpenAPI 3.1 document of this API."""
    return Response(call.request.app.state.openapi, 200, media_type="application/json")


ENDPOINTS = [
    Endpoint("GET", "/livez", livez, Live, family=None, tag="service"),
    Endpoint("GET", "/readyz", readyz, Live, family=None, tag="service"),
    Endpoint("GET", "/openapi.json", openapi, dict, family=None, tag="service"),
    Endpoint("GET", "/v1/me", me, Me, tag="service"),
]
