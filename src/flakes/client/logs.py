"""Following a task's log to its end: by a stream, or by asking again and again where there is none.

The stream resumes after the last line over reconnects and restarts of the server, so no line is lost or
given twice. A server that does not stream logs is polled, and its event log says when to stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from flakes.client import events, sse
from flakes.client.events import Notice
from flakes.client.transport import Transport
from flakes.wire import codec
from flakes.wire.errors import ApiError
from flakes.wire.tasks import LogEntry, Logs

PERIOD_MIN_S: Final = 0.2
PERIOD_MAX_S: Final = 2.0
PAGE: Final = 1_000

UNSUPPORTED: Final = frozenset({"invalid_request", "protocol_error"})
"""What a server without the stream answers: it refuses the parameter, or sends an ordinary page."""

Fetch = Callable[[Mapping[str, Any]], Awaitable[Logs]]
"""A page of the log for these query parameters."""


async def follow(
    transport: Transport,
    path: str,
    params: Mapping[str, Any],
    *,
    patience_s: float | None = None,
    notice: Notice | None = None,
) -> AsyncGenerator[LogEntry]:
    """Lines as they come, until the task has ended. `unsupported` servers raise one of `UNSUPPORTED`
    before the first line."""
    stream = events.frames(
        transport, path, {**params, "follow": "1"}, patience_s=patience_s, notice=notice
    )
    async with aclosing(stream) as source:
        async for frame in source:
            if frame.event == "end":
                return
            yield _entry(frame)


async def poll(
    fetch: Fetch, params: Mapping[str, Any], ended: Awaitable[None]
) -> AsyncGenerator[LogEntry]:
    """The same by polling: `ended` returns when the task has ended."""
    over = asyncio.ensure_future(ended)
    query = dict(params)
    period_s = PERIOD_MIN_S
    try:
        while True:
            last = over.done()
            moved = False
            while True:
                page = await fetch({"limit": PAGE, **query} if "tail" not in query else query)
                for entry in page.logs:
                    yield entry
                had_tail = query.pop("tail", None) is not None
                query["after"] = page.next_cursor or query.get("after")
                moved = moved or bool(page.logs)
                if not had_tail and len(page.logs) < PAGE:
                    break
            if last:
                over.result()
                return
            period_s = PERIOD_MIN_S if moved else min(PERIOD_MAX_S, period_s * 1.5)
            await asyncio.wait({over}, timeout=period_s)
    finally:
        over.cancel()
        await asyncio.gather(over, return_exceptions=True)


def _entry(frame: sse.Frame) -> LogEntry:
    try:
        return codec.decode(frame.data, LogEntry)
    except codec.BodyError as error:
        raise ApiError(
            "protocol_error",
            f"a line is not understood: {error}",
            "check that server and client are of compatible versions",
        ) from error
