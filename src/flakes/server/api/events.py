"""The event stream: server-sent events that resume from any cursor without gap or repeat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import structlog
from starlette.responses import StreamingResponse

from flakes.server.routing import Call, Endpoint
from flakes.store import events, runs, tasks
from flakes.store.database import UNAVAILABLE
from flakes.wire.codec import encode
from flakes.wire.errors import ApiError, not_found
from flakes.wire.events import TYPES, Event

HEARTBEAT_S = 15.0
RETRY_S = 0.5
PAGE = 500

log = structlog.get_logger()


class EventsQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of the stream. `after` is a cursor, or `now`; the header `Last-Event-ID` wins over it."""

    run_id: str | None = None
    task_id: str | None = None
    types: str | None = None
    after: str | None = None


async def stream(call: Call) -> StreamingResponse:
    """Follow the event log of a run, a task, or everything of the account."""
    query: EventsQuery = call.query
    types = query.types.split(",") if query.types else None
    unknown = sorted(set(types or ()) - TYPES.keys())
    if unknown:
        raise ApiError("invalid_request", f"unknown event type {unknown[0]!r}", f"one of {', '.join(TYPES)}")
    after = call.request.headers.get("last-event-id") or query.after
    run_id = None
    async with call.plane.database.connection() as conn:
        if query.run_id:
            run_id = await runs.resolve(conn, call.owner_id, query.run_id)
        if query.task_id:
            of_task, _ = await tasks.require(conn, call.owner_id, query.task_id)
            if run_id not in (None, of_task):
                raise not_found("task")
            run_id = of_task
        if after == "now" or (after is None and run_id is None):
            cursor = await events.horizon(conn)
        else:
            cursor = events.parse_cursor(after) if after else (0, 0)
    body = _follow(call, cursor, run_id, query.task_id, types)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(body, 200, headers, "text/event-stream")


async def _follow(
    call: Call,
    cursor: events.Cursor,
    run_id: str | None,
    task_id: str | None,
    types: list[str] | None,
) -> AsyncIterator[bytes]:
    """Frames for ever. While the database is away the stream stays, and goes on where it was (F29)."""
    plane = call.plane
    wake = plane.subscriptions.add(call.owner_id, run_id)
    spoken_s = time.monotonic()
    lease = plane.live.lease(call.identity.token_id, wake.set)
    try:
        yield b"retry: 1000\n\n"
        while not plane.subscriptions.closed and not lease.ended:
            found: list[Event] = []
            try:
                async with plane.database.connection() as conn:
                    found = await events.read(
                        conn, call.owner_id, cursor, PAGE, run_id=run_id, task_id=task_id, types=types
                    )
            except UNAVAILABLE as error:
                log.warning("events.waiting", error=str(error).strip()[:200])
                await asyncio.sleep(RETRY_S)
                wake.set()
            if found:
                cursor = events.parse_cursor(found[-1].cursor)
                yield b"".join(_frame(event) for event in found)
                spoken_s = time.monotonic()
            # Wake-ups alone are no sign of life: the filter may leave out everything they are for.
            elif time.monotonic() - spoken_s >= HEARTBEAT_S:
                yield b": heartbeat\n\n"
                spoken_s = time.monotonic()
            if len(found) < PAGE:
                await wake.wait(max(0.01, spoken_s + HEARTBEAT_S - time.monotonic()))
    finally:
        plane.live.give_up(lease)
        plane.subscriptions.remove(call.owner_id, run_id, wake)


def _frame(event: Event) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (
        event.cursor.encode(),
        event.type.encode(),
        encode(event),
    )


ENDPOINTS = [Endpoint("GET", "/v1/events", stream, Event, query=EventsQuery, tag="events",
                      errors=("not_found",))]
