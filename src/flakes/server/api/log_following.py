"""Following a task's log as server-sent events: `id:` is the cursor of the line, `event: log` its kind.

A stream first sends what is there, then sleeps until somebody wakes it: this replica when it has stored
lines of the task, the tail of the event log when the task's state has changed. It asks the database
nothing while nothing happens, unless the task runs on a sandbox that is connected to another replica:
then it looks once a second. It ends with `event: end` when the task has ended and every line was sent;
nothing of an attempt is stored after its end, so a log that is empty behind an ended state is complete.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.responses import StreamingResponse

from flakes.core import limits
from flakes.core.task import TERMINAL, TaskStatus
from flakes.server.plane import Plane
from flakes.server.routing import Call
from flakes.server.wake import Wake
from flakes.store import logs, tasks
from flakes.wire.codec import encode
from flakes.wire.tasks import LogEntry

HEARTBEAT_S = 15.0
ELSEWHERE_S = 1.0
"""How late a line of a sandbox on another replica may be."""


async def follow(
    call: Call, task_id: str, after: str | None, tail: int | None, channel: str | None
) -> StreamingResponse:
    """The stream of one task's lines after a cursor (`Last-Event-ID` wins), or from the last `tail` on."""
    last = call.request.headers.get("last-event-id")
    if last:
        after, tail = last, None
    if after:
        logs.parse_cursor(after)
    async with call.plane.database.connection() as conn:
        await tasks.require(conn, call.owner_id, task_id)
    body = _lines(call, task_id, after, tail, channel)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(body, 200, headers, "text/event-stream")


async def _lines(
    call: Call, task_id: str, after: str | None, tail: int | None, channel: str | None
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
                if tail is not None:
                    found, cursor = await logs.tail(conn, task_id, count=tail, channel=channel)
                    full, tail = True, None
                else:
                    found, cursor = await logs.page(
                        conn, task_id, after=cursor, limit=limits.LOG_PAGE_LENGTH_MAX, channel=channel
                    )
                    full = len(found) == limits.LOG_PAGE_LENGTH_MAX
            if found:
                yield b"".join(_frame(entry) for entry in found)
            if full:
                continue
            if state.status in TERMINAL:
                yield b"event: end\ndata: %b\n\n" % encode({"taskId": task_id, "status": state.status})
                return
            async for beat in sleep(plane, wake, state):
                yield beat
    finally:
        plane.live.give_up(lease)
        readers.remove(task_id, wake)


async def sleep(plane: Plane, wake: Wake, state: tasks.State) -> AsyncIterator[bytes]:
    """Heartbeats until there may be news."""
    elapsed_s = 0.0
    while not plane.log_readers.closed:
        running = state.status is TaskStatus.RUNNING
        here = not running or state.sandbox_id in plane.hub.sandboxes
        if await wake.wait(HEARTBEAT_S if here else ELSEWHERE_S):
            return
        elapsed_s += HEARTBEAT_S if here else ELSEWHERE_S
        if here or elapsed_s >= HEARTBEAT_S:
            elapsed_s = 0.0
            yield b": heartbeat\n\n"
        if not here:
            return


def _frame(entry: LogEntry) -> bytes:
    return b"id: %b\nevent: log\ndata: %b\n\n" % (entry.cursor.encode(), encode(entry))
