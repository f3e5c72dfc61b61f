"""Routes of what tasks make and wait for: children, groups, live rounds, waits, signals."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from flakes.core import limits
from flakes.server.operations.rounds import after
from flakes.server.routing import Answer, Call, Endpoint, Page, bounded
from flakes.store import groups, rounds, signals, spawning, waits
from flakes.wire.errors import ApiError
from flakes.wire.groups import Children, Groups
from flakes.wire.operations import Empty
from flakes.wire.rounds import Round, RoundOutput, RoundPost, Rounds, RoundWorkspace
from flakes.wire.waits import Signal, SignalPost, Waits


class ChildrenQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of a task's children: all, or those of a group (by id or key)."""

    group: str | None = None
    limit: int = limits.PAGE_LENGTH_DEFAULT
    cursor: str | None = None


async def children(call: Call) -> Children:
    """List the children of a task, in the order they were made."""
    query = call.query
    async with call.plane.database.connection() as conn:
        return await spawning.of_task(
            conn, call.owner_id, call.path["taskId"], group=query.group, after=query.cursor,
            limit=bounded(query.limit, limits.CHILDREN_PAGE_MAX),
        )  # fmt: skip


async def of_task(call: Call) -> Groups:
    """List the groups of a task."""
    async with call.plane.database.connection() as conn:
        return await groups.of_task(conn, call.owner_id, call.path["taskId"])


async def waited(call: Call) -> Waits:
    """List what a task waits for and has waited for, newest first."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        found = await waits.page(
            conn, call.owner_id, call.path["taskId"], before=call.query.cursor, limit=limit
        )
    return Waits(waits=found, next_cursor=found[-1].wait_id if len(found) == limit else None)


async def signal(call: Call) -> Answer:
    """Send a signal to a task; it is kept until the task waits for it."""
    async with call.plane.database.transaction() as conn:
        sent, ledger = await signals.post(
            conn, call.owner_id, call.path["taskId"], call.path["name"], call.body.payload,
            call.owner_id,
        )  # fmt: skip
    call.plane.joined(ledger)
    return Answer(sent, 202)


async def rounds_of(call: Call) -> Rounds:
    """List the rounds of a live task, oldest first, and where it is."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        return await rounds.owned(
            conn, call.owner_id, call.path["taskId"], after=after(call.query.cursor), limit=limit
        )


async def prompt(call: Call) -> Answer:
    """Send a prompt to a live task."""
    async with call.plane.database.transaction() as conn:
        sent, ledger = await rounds.post(conn, call.owner_id, call.path["taskId"], call.body)
    call.plane.joined(ledger)
    return Answer(sent, 202)


async def finish(call: Call) -> Answer:
    """Send no more prompts to a live task: it ends after its open rounds."""
    async with call.plane.database.transaction() as conn:
        found, ledger = await rounds.end(conn, call.owner_id, call.path["taskId"])
    call.plane.joined(ledger)
    return Answer(found, 202)


async def round_output(call: Call) -> Response:
    """Fetch a text or JSON output of a live round."""
    found = await _output(call)
    if found.kind == "workspace":
        raise ApiError("invalid_request", "the output is a workspace", "resolve it: .../workspace instead of .../fetch")
    media = "application/json" if found.kind == "json" else "text/plain; charset=utf-8"
    return Response(found.text.encode(), 200, {"X-Content-Type-Options": "nosniff"}, media)


async def round_workspace(call: Call) -> RoundWorkspace:
    """Resolve the handle that a workspace output of a live round holds."""
    found = await _output(call)
    if found.kind != "workspace":
        raise ApiError("invalid_request", f"the output is {found.kind}", "fetch it: .../fetch instead of .../workspace")
    return RoundWorkspace(handle=msgspec.json.decode(found.text))


async def _output(call: Call) -> RoundOutput:
    path = call.path
    async with call.plane.database.connection() as conn:
        return await rounds.output(
            conn, call.owner_id, path["taskId"], path["roundKey"], path["outputKey"]
        )


ENDPOINTS = [
    Endpoint("GET", "/v1/tasks/{taskId}/rounds", rounds_of, Rounds, query=Page, tag="tasks"),
    Endpoint("POST", "/v1/tasks/{taskId}/rounds", prompt, Round, RoundPost, status=202, tag="tasks",
             errors=("round_conflict", "operation_conflict", "task_ended", "limit_exceeded")),
    Endpoint("POST", "/v1/tasks/{taskId}/rounds/finish", finish, Rounds, Empty, status=202, tag="tasks",
             errors=("round_conflict",)),
    Endpoint("GET", "/v1/tasks/{taskId}/rounds/{roundKey}/outputs/{outputKey}/fetch", round_output, "*/*", tag="tasks"),
    Endpoint("GET", "/v1/tasks/{taskId}/rounds/{roundKey}/outputs/{outputKey}/workspace", round_workspace,
             RoundWorkspace, tag="tasks"),
    Endpoint("GET", "/v1/tasks/{taskId}/children", children, Children, query=ChildrenQuery, tag="tasks"),
    Endpoint("GET", "/v1/tasks/{taskId}/groups", of_task, Groups, tag="tasks"),
    Endpoint("GET", "/v1/tasks/{taskId}/waits", waited, Waits, query=Page, tag="tasks"),
    Endpoint("POST", "/v1/tasks/{taskId}/signals/{name}", signal, Signal, SignalPost, status=202, tag="tasks",
             errors=("task_ended", "limit_exceeded")),
]  # fmt: skip
