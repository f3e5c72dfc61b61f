"""Routes of tasks: saving, reading, cancelling, retrying, results, outputs, logs, activity."""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.responses import Response, StreamingResponse

from flakes.core import limits
from flakes.server.api import log_following
from flakes.server.routing import Answer, Call, Endpoint, Page, bounded
from flakes.store import admission, events, explanations, interventions, logs, tasks
from flakes.store.blob_errors import BlobError
from flakes.wire.errors import ApiError, not_found
from flakes.wire.events import Events
from flakes.wire.tasks import (
    Logs,
    Reason,
    Task,
    TaskDefinition,
    TaskDetail,
    TaskResult,
    Tasks,
    TasksExplained,
)

TASK_PAGE_MAX = 10_000
ACTIVITY_PAGE_MAX = 500
LogLength = Annotated[
    int, Meta(extra_json_schema={"minimum": 1, "maximum": limits.LOG_PAGE_LENGTH_MAX})
]


class TasksQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of a run's tasks. Rows are small, so a page may hold a whole large run."""

    limit: Annotated[int, Meta(extra_json_schema={"minimum": 1, "maximum": TASK_PAGE_MAX})] = 1_000
    cursor: str | None = None
    status: str | None = None


class TaskQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of one task."""

    explain: bool = False


class LogsQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of logs: from a cursor, or the last `tail` lines; with `follow` as a stream to the task's end."""

    after: str | None = None
    limit: LogLength = 100
    tail: LogLength | None = None
    channel: str | None = None
    follow: bool = False


class ActivityQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of a task's activity."""

    after: str | None = None
    limit: Annotated[int, Meta(extra_json_schema={"minimum": 1, "maximum": ACTIVITY_PAGE_MAX})] = 100


async def save(call: Call) -> Answer:
    """Save a task before admission; saving again changes it."""
    async with call.plane.database.transaction() as conn:
        task_id, created = await admission.save(
            conn, call.owner_id, call.path["run"], call.path["taskKey"], call.body
        )
        found = await tasks.some(conn, call.owner_id, [task_id])
    call.plane.wrote()
    return Answer(found[0], 201 if created else 200)


async def page(call: Call) -> Tasks:
    """List a run's tasks, in the order they were saved, without payloads."""
    limit = bounded(call.query.limit, TASK_PAGE_MAX)
    async with call.plane.database.connection() as conn:
        found = await tasks.page(
            conn, call.owner_id, call.path["run"], after=call.query.cursor, limit=limit,
            status=call.query.status,
        )  # fmt: skip
    return Tasks(tasks=found, next_cursor=found[-1].task_id if len(found) == limit else None)


async def get(call: Call) -> TaskDetail:
    """Read one task; with `explain=1` also why it is not running."""
    async with call.plane.database.connection() as conn:
        task = await tasks.get(conn, call.owner_id, call.path["taskId"])
        if not call.query.explain:
            return task
        explanation = await explanations.explain(conn, task)
    return msgspec.structs.replace(task, explanation=explanation)


async def still(call: Call) -> TasksExplained:
    """List the tasks of a run that do not move, each with the reason and what to do."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        found, cursor = await explanations.of_run(
            conn, call.owner_id, call.path["run"], after=call.query.cursor, limit=limit
        )
    return TasksExplained(tasks=found, next_cursor=cursor)


async def get_by_key(call: Call) -> TaskDetail:
    """Read one task of a run by its key."""
    async with call.plane.database.connection() as conn:
        task_id = await tasks.id_of(conn, call.owner_id, call.path["run"], call.path["taskKey"])
    call.path["taskId"] = task_id
    return await get(call)


async def result(call: Call) -> TaskResult:
    """Read what an ended task left behind."""
    async with call.plane.database.connection() as conn:
        return await tasks.result(conn, call.owner_id, call.path["taskId"])


async def output(call: Call) -> Response:
    """Fetch the bytes of one output."""
    found = await result(call)
    chosen = found.outputs.get(call.path["outputKey"])
    if chosen is None:
        raise not_found("output")
    media = "application/json" if chosen.kind == "json" else "text/plain; charset=utf-8"
    headers = {"X-Content-Type-Options": "nosniff"}
    if chosen.text is not None:
        content = chosen.text.encode()
        headers["ETag"] = f'"sha256:{hashlib.sha256(content).hexdigest()}"'
        return Response(content, 200, headers, media)
    # What the sandbox said of size and digest was never held against the store.
    try:
        headers["Content-Length"] = str(await call.plane.blobs.size(chosen.digest))
    except BlobError as error:
        if error.code in ("blob_missing", "digest_invalid"):
            raise not_found("output") from error
        raise ApiError("storage_full", error.message, error.fix) from error
    headers["ETag"] = f'"{chosen.digest}"'
    return StreamingResponse(call.plane.blobs.get(chosen.digest), 200, headers, media)


async def read_logs(call: Call) -> Logs | StreamingResponse:
    """Read log lines of all attempts, by cursor or from the end; or follow them (`follow=1`, as SSE)."""
    query: LogsQuery = call.query
    limit = bounded(query.limit, limits.LOG_PAGE_LENGTH_MAX)
    if query.tail is not None and query.after is not None:
        raise ApiError("invalid_request", "tail and after exclude each other", "give one of them")
    if query.channel not in (None, "stdout", "stderr", "system"):
        raise ApiError("invalid_request", f"unknown channel {query.channel!r}", "one of stdout, stderr, system")
    task_id = call.path["taskId"]
    if query.follow:
        tail = None if query.tail is None else bounded(query.tail, limits.LOG_PAGE_LENGTH_MAX)
        return await log_following.follow(call, task_id, query.after, tail, query.channel)
    async with call.plane.database.connection() as conn:
        await tasks.require(conn, call.owner_id, task_id)
        if query.tail is not None:
            count = bounded(query.tail, limits.LOG_PAGE_LENGTH_MAX)
            entries, cursor = await logs.tail(conn, task_id, count=count, channel=query.channel)
        else:
            entries, cursor = await logs.page(
                conn, task_id, after=query.after, limit=limit, channel=query.channel
            )
    return Logs(logs=entries, next_cursor=cursor)


async def activity(call: Call) -> Events:
    """Read the product events of a task, oldest first."""
    limit = bounded(call.query.limit, ACTIVITY_PAGE_MAX)
    after = events.parse_cursor(call.query.after) if call.query.after else (0, 0)
    task_id = call.path["taskId"]
    async with call.plane.database.connection() as conn:
        run_id, _ = await tasks.require(conn, call.owner_id, task_id)
        found = await events.read(conn, call.owner_id, after, limit, run_id=run_id, task_id=task_id)
    return Events(events=found, next_cursor=found[-1].cursor if found else call.query.after)


async def cancel(call: Call) -> Answer:
    """Cancel a task; a running one ends when its sandbox confirms that nothing of it is left."""
    reason = call.body.reason
    task_id = call.path["taskId"]
    async with call.plane.database.transaction() as conn:
        done = await interventions.cancel_task(conn, call.owner_id, task_id, reason)
    call.plane.deliver(done, reason)
    async with call.plane.database.connection() as conn:
        return Answer((await tasks.some(conn, call.owner_id, [task_id]))[0], 202)


async def retry(call: Call) -> Task:
    """Try a failed or cancelled task again, and those that failed only because of it."""
    task_id = call.path["taskId"]
    async with call.plane.database.transaction() as conn:
        done = await interventions.retry_task(conn, call.owner_id, task_id)
    call.plane.wrote(ready=done.ready)
    async with call.plane.database.connection() as conn:
        return (await tasks.some(conn, call.owner_id, [task_id]))[0]


ENDPOINTS = [
    Endpoint("GET", "/v1/runs/{run}/tasks", page, Tasks, query=TasksQuery, tag="tasks"),
    Endpoint("GET", "/v1/runs/{run}/explanations", still, TasksExplained, query=Page, tag="tasks"),
    Endpoint("PUT", "/v1/runs/{run}/tasks/{taskKey}", save, Task, TaskDefinition, tag="tasks",
             creates=True,
             errors=("task_admitted", "run_closed", "run_deleting", "limit_exceeded",
                     "artifact_pending")),
    Endpoint("GET", "/v1/runs/{run}/tasks/{taskKey}", get_by_key, TaskDetail, query=TaskQuery, tag="tasks"),
    Endpoint("GET", "/v1/tasks/{taskId}", get, TaskDetail, query=TaskQuery, tag="tasks"),
    Endpoint("GET", "/v1/tasks/{taskId}/result", result, TaskResult, tag="tasks",
             errors=("result_not_ready",)),
    Endpoint("GET", "/v1/tasks/{taskId}/outputs/{outputKey}", output, "*/*", tag="tasks",
             errors=("result_not_ready", "storage_full")),
    Endpoint("GET", "/v1/tasks/{taskId}/logs", read_logs, Logs, query=LogsQuery, tag="tasks", streams=True),
    Endpoint("GET", "/v1/tasks/{taskId}/activity", activity, Events, query=ActivityQuery, tag="tasks"),
    Endpoint("POST", "/v1/tasks/{taskId}/cancel", cancel, Task, Reason, status=202, tag="tasks"),
    Endpoint("POST", "/v1/tasks/{taskId}/retry", retry, Task, Reason, tag="tasks",
             errors=("task_not_retryable", "run_deleting")),
]  # fmt: skip
