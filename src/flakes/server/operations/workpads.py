"""Operations on the task's own workpad."""

from __future__ import annotations

from typing import Final

from flakes.server.operations.act import Act, Handler
from flakes.store import tasks, workpads
from flakes.wire.workpads import Author, Workpad


async def read(act: Act) -> Workpad:
    async with act.fenced() as (conn, holder):
        return await workpads.read(conn, holder.task_id)


async def read_other(act: Act) -> Workpad:
    async with act.fenced() as (conn, holder):
        return await workpads.read(conn, await tasks.of_run(conn, holder.run_id, act.body.task))


async def save(act: Act) -> Workpad:
    async with act.fenced() as (conn, holder):
        author = Author(kind="assignment", assignment_id=holder.assignment_id)
        saved = await workpads.save(
            conn, holder.owner_id, holder.run_id, holder.task_id, act.body, author
        )
    act.plane.wrote()
    return saved


HANDLERS: Final[dict[str, Handler]] = {"workpad.read": read, "workpad.save": save, "task.workpad": read_other}
