"""From a request to its answer: who asks, what they ask, once for each key, and refusals in one form."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import psycopg
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from flakes.server import idempotency
from flakes.server.auth.credentials import authenticate
from flakes.server.plane import Plane
from flakes.server.routing import Answer, Call, Endpoint
from flakes.store.database import UNAVAILABLE
from flakes.wire.codec import BodyError, Issue, decode, encode, issue_from
from flakes.wire.errors import ApiError

log = structlog.get_logger()

JSON = "application/json"


def asgi(endpoint: Endpoint, plane: Plane) -> Callable[[Request], Awaitable[Response]]:
    """The Starlette handler of an endpoint."""

    async def handle(request: Request) -> Response:
        try:
            identity = await authenticate(request, plane, endpoint)
            query, body = _query(request, endpoint), await _body(request, endpoint)

            async def run(within: Plane) -> Response:
                call = Call(within, identity, dict(request.path_params), query, body, request)
                return _response(await endpoint.handler(call), endpoint.status)

            key = idempotency.key_of(request) if endpoint.takes_key else None
            if key is None:
                return await run(plane)
            return await idempotency.once(
                plane, identity, request, key, body, secret=endpoint.secret, handle=run, refuse=refusal
            )
        except ApiError as error:
            return refusal(error)
        except BodyError as error:
            return refusal(_invalid(error.issues))
        except psycopg.DataError as error:  # a NUL, a number out of range: nothing was written
            log.warning("request.value_refused", path=request.url.path, error=str(error)[:200])
            return refusal(ApiError("invalid_request", "a value in the request cannot be stored", "leave out NUL characters and numbers out of range"))
        except psycopg.errors.DiskFull as error:
            log.warning("request.storage_full", path=request.url.path, error=str(error)[:200])
            return refusal(ApiError("storage_full", "the disk of the server is full; nothing was changed", "free some space there, and try again"))
        except UNAVAILABLE as error:
            log.warning("request.database_unavailable", path=request.url.path, error=str(error)[:200])
            return refusal(ApiError("database_unavailable", "the database does not answer", "try again in a moment"))
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception:
            request_id = os.urandom(6).hex()
            log.exception("request.failed", path=request.url.path, method=request.method, request_id=request_id)
            return refusal(ApiError("internal_error", "the server failed at this request", "look for the request id in the server's log", requestId=request_id))

    return handle


def refusal(error: ApiError) -> Response:
    """The response for a refusal."""
    status = 503 if error.code == "idempotency_in_progress" else error.status
    headers = _retry_after(status, error.details.get("retryAfterS", 1))
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="flakes"'
    return Response(encode(error.body()), error.status, headers, JSON)


def _query(request: Request, endpoint: Endpoint) -> Any:
    values = dict(request.query_params)
    if endpoint.query is None:
        if values and endpoint.family is not None:
            issue = Issue(path=next(iter(values)), message="this route takes no query parameters")
            raise _invalid([issue], "query")
        return None
    try:
        return msgspec.convert(values, endpoint.query, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid([issue_from(error, endpoint.query)], "query") from error


async def _body(request: Request, endpoint: Endpoint) -> Any:
    if endpoint.body in (None, bytes):
        return None
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > endpoint.body_max_bytes:
        raise _too_large(endpoint.body_max_bytes)
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > endpoint.body_max_bytes:
            raise _too_large(endpoint.body_max_bytes)
    if not chunks.strip():
        chunks = bytearray(b"{}")
    try:
        return decode(bytes(chunks), endpoint.body)
    except UnicodeDecodeError as error:
        raise BodyError([Issue(path="", message=f"not UTF-8: {error.reason} at byte {error.start}")]) from error
    except RecursionError as error:
        raise BodyError([Issue(path="", message="nested too deeply")]) from error


def _too_large(limit: int) -> ApiError:
    return ApiError("too_large", f"the body is larger than {limit} bytes", "send less at once", limit=limit)


def _invalid(issues: list[Issue], what: str = "body") -> ApiError:
    first = issues[0]
    where = f"{first.path}: " if first.path else ""
    return ApiError("invalid_request", f"the {what} is not valid: {where}{first.message}", "see /openapi.json for what this route takes", issues=issues)


def _response(value: Any, status: int) -> Response:
    if isinstance(value, Response):
        return value
    if isinstance(value, Answer):
        value, status = cast("Answer", value).value, cast("Answer", value).status
    return Response(encode(value), status, _retry_after(status), JSON)


def _retry_after(status: int, wait_s: int = 1) -> dict[str, str]:
    return {"Retry-After": str(wait_s)} if status in (429, 503) else {}
