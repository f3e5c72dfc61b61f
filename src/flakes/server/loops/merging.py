"""The promotion queue: brings what tasks left into what their runs have selected, one after the other.

Runs on the leader, when attempts end and every few seconds. `core.merging` says which step comes next; git merges on
objects alone; a step is recorded in one transaction that has locked the run and finds everything as it was, so
that a step may be begun any number of times, by any replica, and is done once. What cannot be brought in stays a
candidate, and says why.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog

from flakes.core.limits import WORKSPACE_CHANGES_MAX
from flakes.core.merging import Bring, Conclude, Keep, MergeState, steps
from flakes.server.bench import Brought, bring, unresolved
from flakes.server.loops.leadership import Leadership
from flakes.server.plane import Plane
from flakes.store import merge_tasks, merging, promotions, workspaces
from flakes.store.blob_errors import BlobError
from flakes.store.database import Connection
from flakes.store.ledger import Ledger
from flakes.store.merging import Open, RunMerging
from flakes.store.workspaces import Place
from flakes.wire.errors import ApiError
from flakes.wire.workspaces import (
    PromotionPost,
    WorkspaceChange,
    WorkspaceHandle,
    WorkspacePost,
    path_text,
)
from flakes.workspace.git import Git, GitFailed, WorkspaceError

INTERVAL_S = 3.0
TRIES_MAX = 5
"""How often a step is tried that fails for no reason that could be told."""

log = structlog.get_logger()


class _MovedError(Exception):
    """The run is not as it was: look again."""


class Merger:
    """See the module."""

    def __init__(self, plane: Plane, leadership: Leadership) -> None:
        self._plane = plane
        self._leadership = leadership
        self._bench = plane.bench
        self._failures: Counter[str] = Counter()

    async def run_once(self) -> float | None:
        """One step in every run that has one; at once again while there are any."""
        if self._leadership.term() is None:
            return None
        async with self._plane.database.connection() as conn:
            due = await merging.due(conn)
        moved = False
        for run_id in due:
            if self._leadership.term() is None:
                return None
            moved = await self._advance(run_id) or moved
        return 0.0 if moved else None

    async def _advance(self, run_id: str) -> bool:
        """What can be done in a run now; whether anything was."""
        async with self._plane.database.connection() as conn:
            found = await merging.load(conn, run_id)
        if found is None:
            return False
        entries = [each.entry for each in found.open.values()]
        todo = steps(entries, cancelled=found.cancelled)
        for step in todo:
            opened = found.open[step.workspace_id]
            try:
                await self._do(found, opened, step)
            except _MovedError:
                log.info("merging.moved", run=run_id, workspace=step.workspace_id)
            except (WorkspaceError, GitFailed, BlobError, ApiError) as error:
                await self._failed(found, opened, error)
        return bool(todo)

    async def _do(self, found: RunMerging, opened: Open, step: Keep | Bring | Conclude) -> None:
        match step:
            case Keep():
                await self._settle(found, opened, MergeState.KEPT, reason=step.reason)
            case Bring():
                await self._bring(found, opened)
            case Conclude():
                await self._conclude(found, opened, succeeded=step.succeeded)

    # ---- bringing one in

    async def _bring(self, found: RunMerging, opened: Open) -> None:
        async with self._plane.database.connection() as conn:
            ref = await promotions.ref(conn, found.run_id)
            if ref is None:
                raise _MovedError
            ours = await workspaces.get(conn, found.owner_id, ref.workspace_id)
            theirs = await workspaces.get(conn, found.owner_id, opened.entry.workspace_id)
        resolved = _resolved_by(found, opened)
        if ours.commit == theirs.commit:
            await self._settle(found, opened, MergeState.CONTAINED, selected=ours)
            return
        if theirs.base_workspace_id == ours.workspace_id and not found.policy.verify and not resolved:
            await self._promote(found, opened, ours, theirs.workspace_id)
            return
        async with self._bench.repository([ours, theirs]) as git:
            subject = f"Brought in: {opened.task_key}"
            brought = await asyncio.to_thread(bring, git, ours.commit, theirs.commit, subject)
            paths = [path for each in resolved for path in each]
            left = await asyncio.to_thread(unresolved, git, theirs.commit, paths) if paths else []
            if left:
                reason = "the files still have the markers of a conflict"
                await self._conflict(found, opened, ours, left, len(left), reason)
            elif brought.contained:
                await self._settle(found, opened, MergeState.CONTAINED, selected=ours)
            elif brought.conflicts and (found.policy.resolver is None or resolved):
                shown = [path_text(path) for path in brought.conflicts]
                await self._conflict(found, opened, ours, shown, len(shown), None)
            else:
                await self._merged(found, opened, git, ours, theirs, brought)

    async def _merged(
        self, found: RunMerging, opened: Open, git: Git, ours: WorkspaceHandle,
        theirs: WorkspaceHandle, brought: Brought,
    ) -> None:  # fmt: skip
        """Store what came of it, and have it tested, resolved or selected."""
        packs = theirs.packs
        if not brought.forward:
            packs = await self._bench.store(git, brought.commit, [ours, theirs])
        post = WorkspacePost(
            commit=brought.commit, tree=brought.tree, kind="merged", packs=packs,
            base_workspace_id=ours.workspace_id, change_count=len(brought.changes),
            changes=[
                WorkspaceChange(
                    path=path_text(each.path), kind=each.kind,
                    object_id=None if each.kind == "removed" else each.new_id,
                )
                for each in brought.changes[:WORKSPACE_CHANGES_MAX]
            ],
        )  # fmt: skip
        shown = [path_text(path) for path in brought.conflicts]
        async with self._step(found, opened, ours) as (conn, ledger):
            merged_id, _ = await workspaces.create(
                conn, found.owner_id, post, Place(found.run_id), ledger
            )
            known = {"selected_id": ours.workspace_id, "merged_id": merged_id}
            if not (shown or found.policy.verify):
                await self._select(conn, ledger, found, opened, ours, merged_id)
                return
            asked = merge_tasks.Asked(
                found.owner_id, found.run_id, opened.entry.task_id, opened.task_key, merged_id, shown
            )
            if shown:
                assert found.policy.resolver is not None
                helper = await merge_tasks.resolve(conn, ledger, asked, found.policy.resolver)
                _tell_conflict(ledger, found, opened, ours, shown, len(shown), {"resolverTaskId": helper})
                state = MergeState.RESOLVING
            else:
                helper = await merge_tasks.verify(conn, ledger, asked, found.policy.verify)
                state = MergeState.VERIFYING
            await merging.move(
                conn, ledger, found.run_id, opened.entry.workspace_id, state, helper_task_id=helper,
                paths=shown or None, **known,
            )  # fmt: skip

    # ---- what a helper gave

    async def _conclude(self, found: RunMerging, opened: Open, *, succeeded: bool) -> None:
        if opened.entry.state is MergeState.VERIFYING:
            if not succeeded:
                reason = "the merged files did not pass their test"
                await self._settle(found, opened, MergeState.UNVERIFIED, reason=reason)
                return
            assert opened.merged_id is not None
            assert opened.selected_id is not None
            async with self._plane.database.connection() as conn:
                tested_on = await workspaces.get(conn, found.owner_id, opened.selected_id)
                ref = await promotions.ref(conn, found.run_id)
            if ref is not None and ref.workspace_id == tested_on.workspace_id:
                await self._promote(found, opened, tested_on, opened.merged_id)
                return
            # Somebody selected something else meanwhile: merged and tested again.
            async with self._step(found, opened, None) as (conn, ledger):
                await merging.move(
                    conn, ledger, found.run_id, opened.entry.workspace_id, MergeState.QUEUED
                )
            return
        assert opened.entry.helper_task_id is not None
        async with self._plane.database.connection() as conn:
            told = await merging.of_tasks(conn, [opened.entry.helper_task_id])
        resolution = told.get(opened.entry.helper_task_id)
        if succeeded and resolution is not None and resolution.state in ("promoted", "contained"):
            await self._settle(
                found, opened, MergeState.PROMOTED, reason=f"resolved by {resolution.task_key}"
            )
            return
        reason = "it was not resolved" if succeeded else "the task that was to resolve it failed"
        await self._settle(found, opened, MergeState.CONFLICT, reason=reason)

    # ---- recording

    @asynccontextmanager
    async def _step(
        self, found: RunMerging, opened: Open, ours: WorkspaceHandle | None
    ) -> AsyncIterator[tuple[Connection, Ledger]]:
        """A transaction in which the entry is open and `ours` still selected. Raises `_MovedError`."""
        async with self._plane.database.transaction() as conn:
            ledger = await Ledger.lock(conn, [found.run_id])
            if found.run_id not in ledger.runs:
                raise _MovedError
            if ledger.runs[found.run_id].cancelled != found.cancelled:
                raise _MovedError
            if not await merging.still_open(conn, opened.entry.workspace_id):
                raise _MovedError
            if ours is not None:
                ref = await promotions.ref(conn, found.run_id)
                if ref is None or ref.workspace_id != ours.workspace_id:
                    raise _MovedError
            yield conn, ledger
            await ledger.flush(conn)
        self._failures.pop(opened.entry.workspace_id, None)
        self._plane.wrote(ready=1)

    async def _promote(
        self, found: RunMerging, opened: Open, ours: WorkspaceHandle, to: str
    ) -> None:
        async with self._step(found, opened, ours) as (conn, ledger):
            await self._select(conn, ledger, found, opened, ours, to)

    async def _select(
        self, conn: Connection, ledger: Ledger, found: RunMerging, opened: Open,
        ours: WorkspaceHandle, to: str,
    ) -> None:  # fmt: skip
        post = PromotionPost(workspace_id=to, expected_workspace_id=ours.workspace_id)
        await promotions.promote(
            conn, ledger, found.owner_id, found.run_id, post, assignment_id=opened.assignment_id,
            task_id=opened.entry.task_id,
        )  # fmt: skip
        await merging.move(
            conn, ledger, found.run_id, opened.entry.workspace_id, MergeState.PROMOTED,
            selected_id=ours.workspace_id, merged_id=to,
        )  # fmt: skip

    async def _settle(
        self, found: RunMerging, opened: Open, state: MergeState, *,
        selected: WorkspaceHandle | None = None, reason: str | None = None,
    ) -> None:  # fmt: skip
        async with self._step(found, opened, selected) as (conn, ledger):
            await merging.move(
                conn, ledger, found.run_id, opened.entry.workspace_id, state, reason=reason,
                selected_id=None if selected is None else selected.workspace_id,
            )  # fmt: skip
            if state in (MergeState.UNVERIFIED, MergeState.FAILED):
                data = {"workspaceId": opened.entry.workspace_id, "state": str(state), "reason": reason}
                ledger.event(found.run_id, "workspace.not_promoted", opened.entry.task_id, data)

    async def _conflict(
        self, found: RunMerging, opened: Open, ours: WorkspaceHandle, paths: list[str], count: int,
        reason: str | None,
    ) -> None:  # fmt: skip
        async with self._step(found, opened, ours) as (conn, ledger):
            await merging.move(
                conn, ledger, found.run_id, opened.entry.workspace_id, MergeState.CONFLICT,
                selected_id=ours.workspace_id, paths=paths, reason=reason,
            )  # fmt: skip
            _tell_conflict(ledger, found, opened, ours, paths, count, {})

    async def _failed(self, found: RunMerging, opened: Open, error: Exception) -> None:
        """Tell what will not pass; try the rest again, for a while."""
        workspace_id = opened.entry.workspace_id
        self._failures[workspace_id] += 1
        log.warning("merging.failed", run=found.run_id, workspace=workspace_id, error=str(error)[:300])
        final = isinstance(error, WorkspaceError) or (
            isinstance(error, BlobError) and error.code == "blob_missing"
        )
        if final or self._failures[workspace_id] >= TRIES_MAX:
            await self._settle(found, opened, MergeState.FAILED, reason=str(error)[:500])


def _resolved_by(found: RunMerging, opened: Open) -> list[list[str]]:
    """The conflicts that the entry's own task was made to resolve: the paths of each."""
    return [
        each.paths for each in found.open.values()
        if each.entry.state is MergeState.RESOLVING
        and each.entry.helper_task_id == opened.entry.task_id
    ]  # fmt: skip


def _tell_conflict(
    ledger: Ledger, found: RunMerging, opened: Open, ours: WorkspaceHandle, paths: list[str],
    count: int, more: dict[str, Any],
) -> None:  # fmt: skip
    data = {
        "workspaceId": opened.entry.workspace_id, "selectedWorkspaceId": ours.workspace_id,
        "paths": paths[: merging.NAMED_MAX], "count": count, **more,
    }  # fmt: skip
    ledger.event(found.run_id, "workspace.candidate_conflict", opened.entry.task_id, data)
