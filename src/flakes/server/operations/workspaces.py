"""Operations on what the task's run has selected. Storing and comparing files is the sandbox's own business."""

from __future__ import annotations

from typing import Final

from flakes.server.operations.act import Act, Handler
from flakes.store import overlaps, promotions, workspaces
from flakes.wire.overlaps import ChangesReported
from flakes.wire.workspaces import Promoted, WorkspaceSelected


async def selected(act: Act) -> WorkspaceSelected:
    async with act.fenced() as (conn, holder):
        ref = await promotions.ref(conn, holder.run_id, act.body.ref)
        if ref is None:
            return WorkspaceSelected()
        handle = await workspaces.get(conn, holder.owner_id, ref.workspace_id)
    return WorkspaceSelected(ref=ref, workspace=handle)


async def promote(act: Act) -> Promoted:
    async with act.locked() as (conn, holder, ledger):
        return await promotions.promote(
            conn, ledger, holder.owner_id, holder.run_id, act.body,
            assignment_id=holder.assignment_id, task_id=holder.task_id,
        )  # fmt: skip


async def changing(act: Act) -> ChangesReported:
    async with act.fenced() as (conn, holder):
        reported = await overlaps.report(conn, holder, act.body.paths)
    if reported.fresh:
        act.plane.wrote()
    return reported


HANDLERS: Final[dict[str, Handler]] = {
    "workspace.selected": selected, "workspace.promote": promote, "workspace.changing": changing,
}  # fmt: skip
