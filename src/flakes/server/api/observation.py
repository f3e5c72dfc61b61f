"""Routes for looking back on a run: its metrics, and its whole history as lines."""

from __future__ import annotations

from collections.abc import AsyncIterator

import structlog
from starlette.responses import StreamingResponse

from flakes.core import limits
from flakes.server.routing import Call, Endpoint
from flakes.store import history, metrics, runs
from flakes.wire.errors import ApiError
from flakes.wire.history import MEDIA_TYPE
from flakes.wire.metrics import RunMetrics

log = structlog.get_logger()


async def run_metrics(call: Call) -> RunMetrics:
    """Measure a run: queueing, assignment, running and waiting times, success, retries, parallelism."""
    async with call.plane.database.connection() as conn:
        return await metrics.of_run(conn, call.owner_id, call.path["run"])


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
    Endpoint("GET", "/v1/runs/{run}/history.jsonl", run_history, MEDIA_TYPE, tag="runs",
             errors=("rate_limited",)),
]  # fmt: skip
