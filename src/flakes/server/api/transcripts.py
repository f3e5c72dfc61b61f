"""Routes of transcripts: a page, a stream that follows, or the agents' own records as lines.

A stream works as that of a log does: it sleeps until this replica has stored something of the task or the
task's state has changed, looks once a second when the sandbox is connected elsewhere, and ends with
`event: end` when the task has ended and every entry was sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import msgspec
from starlette.responses import StreamingResponse

from flakes.core import limits
from flakes.core.task import TERMINAL
from flakes.server.api.log_following import sleep
from flakes.server.plane import Plane
from flakes.server.routing import Call, Endpoint, bounded
from flakes.store import projects, tasks, transcripts
from flakes.wire.codec import encode
from flakes.wire.errors import ApiError
from flakes.wire.metrics import ProjectMetrics
from flakes.wire.transcripts import Transcript, TranscriptEntry

JSON_LINES = "application/x-ndjson"
PART_BYTES = 64 * 1024


class TranscriptQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of a transcript: from a cursor; with `follow` as a stream to the task's end; `raw` for the agents'
    own records, as lines of all attempts."""

    after: str | None = None
    limit: int = 100
    follow: bool = False
    format: Literal["parsed", "raw"] = "parsed"


async def read(call: Call) -> Transcript | StreamingResponse:
    """Read what the agents of a task said and did: all attempts, by cursor, followed (`follow=1`, as SSE), or as the agents' own records (`format=raw`)."""
    query: TranscriptQuery = call.query
    task_id = call.path["taskId"]
    limit = bounded(query.limit, limits.LOG_PAGE_LENGTH_MAX)
    after = call.request.headers.get("last-event-id") or query.after if query.follow else query.after
    if after:
        transcripts.parse_cursor(after)
    if query.follow and query.format == "raw":
        raise ApiError("invalid_request", "native records are not followed", "follow the parsed form, or read the native one at the end")
    async with call.plane.database.connection() as conn:
        await tasks.require(conn, call.owner_id, task_id)
        if query.format == "parsed" and not query.follow:
            entries, cursor = await transcripts.page(conn, task_id, after=after, limit=limit)
            return Transcript(entries=entries, next_cursor=cursor)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if query.format == "raw":
        return StreamingResponse(_raw(call.plane, task_id, after), 200, headers, JSON_LINES)
    body = _entries(call, task_id, after)
    return StreamingResponse(body, 200, headers, "text/event-stream")


async def project_metrics(call: Call) -> ProjectMetrics:
    """Sum up what the runs of a project have spent on agents."""
    async with call.plane.database.connection() as conn:
        project = await projects.get(conn, call.owner_id, call.path["projectKey"])
        usage = await transcripts.of_project(conn, project.project_id)
    return ProjectMetrics(
        project_id=project.project_id, project_key=project.project_key, usage=usage,
        tokens=usage.tokens if usage else None, cost_micro_usd=usage.cost_micro_usd if usage else None,
    )  # fmt: skip


async def _raw(plane: Plane, task_id: str, after: str | None) -> AsyncIterator[bytes]:
    part = bytearray()
    async with plane.database.connection() as conn:
        async for line in transcripts.raw(conn, task_id, after):
            part += line
            if len(part) >= PART_BYTES:
                yield bytes(part)
                part.clear()
    yield bytes(part)


async def _entries(
    call: Call, task_id: str, after: str | None
) -> AsyncIterator[bytes]:
    plane = call.plane
    readers = plane.log_readers
    wake = readers.add(task_id)
    lease = plane.live.lease(call.identity.token_id, wake.set)
    cursor = after
    try:
        yield b"retry: 1000\n\n"
        while not readers.closed and not lease.ended:
            async with plane.database.connection() as conn:
                # The state first: what is read after an end is all there will be.
                state = await tasks.state(conn, call.owner_id, task_id)
                found, cursor = await transcripts.page(
                    conn, task_id, after=cursor, limit=limits.LOG_PAGE_LENGTH_MAX
                )
            if found:
                yield b"".join(_frame(entry) for entry in found)
            if len(found) == limits.LOG_PAGE_LENGTH_MAX:
                continue
            if state.status in TERMINAL:
                yield b"event: end\ndata: %b\n\n" % encode({"taskId": task_id, "status": state.status})
                return
            async for beat in sleep(plane, wake, state):
                yield beat
    finally:
        plane.live.give_up(lease)
        readers.remove(task_id, wake)


def _frame(entry: TranscriptEntry) -> bytes:
    return b"id: %b\nevent: transcript\ndata: %b\n\n" % (entry.cursor.encode(), encode(entry))


ENDPOINTS = [
    Endpoint("GET", "/v1/tasks/{taskId}/transcript", read, Transcript, query=TranscriptQuery, tag="tasks",
             streams=True),
    Endpoint("GET", "/v1/projects/{projectKey}/metrics", project_metrics, ProjectMetrics, tag="projects"),
]  # fmt: skip
