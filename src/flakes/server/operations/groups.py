"""Operations on groups and children of the asking task."""

from __future__ import annotations

from typing import Final

from flakes.core import limits
from flakes.core.task import LIVE, TaskStatus
from flakes.server.api import artifact_content
from flakes.server.operations.act import Act, Handler
from flakes.store import cancels, groups, joins, spawning, tasks
from flakes.store.database import Connection
from flakes.store.fences import Holder
from flakes.wire.errors import ApiError, not_found
from flakes.wire.groups import Children, EndedTasks, Group, OutputPiece, Spawned
from flakes.wire.tasks import TaskResult, Tasks


async def open_(act: Act) -> Group:
    async with act.locked() as (conn, holder, ledger):
        return await groups.open_(conn, ledger, holder, act.body)


async def close(act: Act) -> Group:
    async with act.locked() as (conn, holder, ledger):
        group = await groups.close(conn, ledger, holder, act.body.group)
    act.plane.joined(ledger)
    return group


async def status(act: Act) -> Group:
    async with act.fenced() as (conn, holder):
        return await groups.get(conn, holder.task_id, act.body.group)


async def cancel(act: Act) -> Group:
    async with act.locked() as (conn, holder, ledger):
        group = await groups.cancel(conn, ledger, holder, act.body)
    act.plane.joined(ledger, act.body.reason or "its group was cancelled")
    return group


async def spawn(act: Act) -> Spawned:
    async with act.locked() as (conn, holder, ledger):
        spawned, ready = await spawning.spawn(conn, ledger, holder, act.body)
        ledger.ready += ready
    act.plane.joined(ledger)
    return spawned


async def children(act: Act) -> Children:
    body = act.body
    async with act.fenced() as (conn, holder):
        return await spawning.children(
            conn, holder.task_id, group=body.group, after=body.cursor, limit=body.limit
        )


async def cancel_children(act: Act) -> Children:
    reason = act.body.reason or "its parent cancelled it"
    async with act.locked() as (conn, holder, ledger):
        found = await spawning.resolve(conn, holder.task_id, act.body.tasks)
        live = [
            cancels.Live(task_id, run_id, status, optional, True)
            for task_id, _, run_id, status, optional in found if TaskStatus(status) in LIVE
        ]  # fmt: skip
        ledger.ready += await cancels.cancel(conn, ledger, live, reason)
        await joins.settle(conn, ledger)
        named = Children(children=await spawning.some(conn, [r[0] for r in found]))
    act.plane.joined(ledger, reason)
    return named


async def outputs(act: Act) -> TaskResult:
    async with act.fenced() as (conn, holder):
        return await _result(conn, holder, act.body.task)


async def results(act: Act) -> EndedTasks:
    async with act.fenced() as (conn, holder):
        return await tasks.ended(conn, holder.run_id, act.body.tasks)


async def output(act: Act) -> OutputPiece:
    """A piece, from the store of blobs unless it is so small that it stands in the result."""
    body = act.body
    async with act.fenced() as (conn, holder):
        result = await _result(conn, holder, body.task)
    found = result.outputs.get(body.output_key)
    if found is None:
        raise not_found("output")
    if body.offset > found.size_bytes:
        raise ApiError(
            "range_not_satisfiable", f"the output has {found.size_bytes} bytes", "begin within them",
            sizeBytes=found.size_bytes,
        )  # fmt: skip
    end = min(body.offset + limits.ARTIFACT_PIECE_BYTES_MAX, found.size_bytes)
    if found.text is not None:
        piece = found.text.encode()[body.offset : end]
    else:
        piece = await artifact_content.piece(act.plane, found.digest, body.offset, end)
    return OutputPiece(
        task_id=result.task_id, output_key=body.output_key, digest=found.digest,
        size_bytes=found.size_bytes, offset=body.offset, bytes_base64=piece,
    )  # fmt: skip


async def roster(act: Act) -> Tasks:
    body = act.body
    async with act.fenced() as (conn, holder):
        found = await tasks.page(
            conn, holder.owner_id, holder.run_id, after=body.cursor, limit=body.limit
        )
    return Tasks(tasks=found, next_cursor=found[-1].task_id if len(found) == body.limit else None)


async def _result(conn: Connection, holder: Holder, reference: str) -> TaskResult:
    """Of a task of the same run, by id or key."""
    task_id = await tasks.of_run(conn, holder.run_id, reference)
    return await tasks.result(conn, holder.owner_id, task_id)


HANDLERS: Final[dict[str, Handler]] = {
    "group.open": open_, "group.close": close, "group.status": status, "group.cancel": cancel,
    "task.spawn": spawn, "task.children": children, "task.cancel": cancel_children,
    "task.outputs": outputs, "task.results": results, "task.output": output, "run.tasks": roster,
}  # fmt: skip
