"""Routes for looking at a run as a whole: its metrics, its attempts, how it is drawn, and its history as lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import structlog
from starlette.responses import StreamingResponse

from flakes.core import limits
from flakes.core.layout import layout
from flakes.server.routing import Call, Endpoint, bounded
from flakes.store import history, metrics, pictures, runs
from flakes.wire import layout as drawing
from flakes.wire.errors import ApiError
from flakes.wire.history import MEDIA_TYPE
from flakes.wire.metrics import RunMetrics
from flakes.wire.tasks import RunAttempts

log = structlog.get_logger()

ATTEMPT_PAGE_MAX = 10_000


class AttemptsQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of a run's attempts; rows are small, so a page may hold a whole large run."""

    limit: int = 1_000
    cursor: str | None = None


async def run_metrics(call: Call) -> RunMetrics:
    """Measure a run: queueing, assignment, running and waiting times, success, retries, parallelism."""
    async with call.plane.database.connection() as conn:
        return await metrics.of_run(conn, call.owner_id, call.path["run"])


async def run_attempts(call: Call) -> RunAttempts:
    """List the attempts of all tasks of a run, oldest first."""
    limit = bounded(call.query.limit, ATTEMPT_PAGE_MAX)
    async with call.plane.database.connection() as conn:
        found = await pictures.attempts(
            conn, call.owner_id, call.path["run"], after=call.query.cursor, limit=limit
        )
    cursor = found[-1].assignment_id if len(found) == limit else None
    return RunAttempts(attempts=found, next_cursor=cursor)


async def run_layout(call: Call) -> drawing.Layout:
    """Lay out the tasks of a run as a graph from left to right; big groups of alike tasks are one node."""
    async with call.plane.database.connection() as conn:
        graph, spawned = await pictures.graph(conn, call.owner_id, call.path["run"])
    # A child stands right of the task that made it, as if it depended on it.
    drawn = {key: [*needs, spawned[key]] if key in spawned else needs for key, needs in graph.items()}
    return drawing.of(await asyncio.to_thread(layout, drawn), graph)


async def run_history(call: Call) -> StreamingResponse:
    """Export everything about a run as JSON lines, of one moment and without recognisable secrets."""
    plane = call.plane
    async with plane.database.connection() as conn:
        run = await runs.get(conn, call.owner_id, call.path["run"])
    if plane.exports >= limits.EXPORTS_AT_ONCE_MAX:
        raise ApiError("rate_limited", f"{plane.exports} histories are being exported", "try again in a moment", limit=limits.EXPORTS_AT_ONCE_MAX)
    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{run.run_key}.history.jsonl"',
    }
    return StreamingResponse(_history(call, run.run_id), 200, headers, MEDIA_TYPE)


async def _history(call: Call, run_id: str) -> AsyncIterator[bytes]:
    # A reader that stops reading is cut off by the database's time limit for idle transactions.
    plane = call.plane
    plane.exports += 1
    try:
        async with plane.database.transaction() as conn:
            async for part in history.export(conn, call.owner_id, run_id):
                yield part
    finally:
        plane.exports -= 1


ENDPOINTS = [
    Endpoint("GET", "/v1/runs/{run}/metrics", run_metrics, RunMetrics, tag="runs"),
    Endpoint("GET", "/v1/runs/{run}/attempts", run_attempts, RunAttempts, query=AttemptsQuery, tag="runs"),
    Endpoint("GET", "/v1/runs/{run}/layout", run_layout, drawing.Layout, tag="runs"),
    Endpoint("GET", "/v1/runs/{run}/history.jsonl", run_history, MEDIA_TYPE, tag="runs",
             errors=("rate_limited",)),
]  # fmt: skip
