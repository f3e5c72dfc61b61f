"""What a run or a task made of its files, found on the server and fetched into a repository of ours."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flakes.cli.capturing import refusal, state_dir
from flakes.core import keys
from flakes.wire.errors import ApiError
from flakes.wire.workspaces import SELECTED, WorkspaceHandle
from flakes.workspace.commits import is_ancestor, keep
from flakes.workspace.git import Git, WorkspaceError
from flakes.workspace.packs import take_in
from flakes.workspace.snapshot import repository

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.wire.runs import Run

HANDLES_MAX = 1_000
"""Handles of a run that are looked through."""


@dataclass(frozen=True, slots=True)
class Result:
    """`handle` is what came of the files in `base`. `task_key` is None for what the run selected."""

    run: Run
    base: WorkspaceHandle
    handle: WorkspaceHandle
    task_key: str | None
    others: tuple[WorkspaceHandle, ...]
    """The newest handle of each task of the run, for the one who asks what is not in it."""

    @property
    def label(self) -> str:
        """The run, or RUN/TASK."""
        return self.run.run_key if self.task_key is None else f"{self.run.run_key}/{self.task_key}"


async def find(client: Client, reference: str) -> Result:
    """The result of a run (id or key) or of a task (id or RUN/TASKKEY). Raises `workspace_none`."""
    if "/" in reference or keys.has_prefix(reference, "task"):
        detail = await client.get_task(reference)
        run = await client.get_run(detail.run_id)
        found = await _handles(client, run.run_id, detail.task_id)
        if not found:
            raise _nothing(f"the task {detail.task_key} changed no files", f"see what the run has: flakes diff {run.run_key}")
        return await _of_task(client, run, found, detail.task_key, ())
    run = await client.get_run(reference)
    page = await client.run_workspaces(run.run_id, limit=200)
    selected = next((ref for ref in page.refs if ref.name == SELECTED), None)
    if run.workspace_id is None or selected is None:
        raise _nothing(f"the run {run.run_key} began without files", "give a run files: call `flakes run` in a repository, or with --workspace DIR")
    newest = _newest(await _handles(client, run.run_id, None))
    if selected.workspace_id == run.workspace_id and newest:
        if len(newest) > 1:
            tasks = {task.task_id: task.task_key for task in await client.all_tasks(run.run_id)}
            named = [f"{run.run_key}/{tasks.get(each.task_id or '', each.task_id)}" for each in newest]
            raise ApiError("workspace_none", f"nothing of the run {run.run_key} is selected yet, and {len(newest)} tasks changed files", f"take one: flakes diff {named[0]}", tasks=named[:20])
        only = await client.get_task(newest[0].task_id or "")
        found = await _handles(client, run.run_id, only.task_id)
        return await _of_task(client, run, found, only.task_key, tuple(newest))
    base = await client.get_workspace(run.workspace_id)
    handle = await client.get_workspace(selected.workspace_id)
    return Result(run, base, handle, None, tuple(newest))


async def _of_task(
    client: Client, run: Run, found: list[WorkspaceHandle], task_key: str, others: tuple[WorkspaceHandle, ...]
) -> Result:
    """From what the task began with to the last that it stored: one may build on the other."""
    own = {each.workspace_id: each for each in found}
    last = first = found[0]
    while first.base_workspace_id in own:
        first = own[first.base_workspace_id]
    if first.base_workspace_id is None:
        raise _nothing(f"the task {task_key} began without files", "read its outputs: flakes tasks result")
    base = await client.get_workspace(first.base_workspace_id)
    return Result(run, base, last, task_key, others)


async def _handles(client: Client, run: str, task_id: str | None) -> list[WorkspaceHandle]:
    """Newest first; of a task, those of its last attempt that stored any."""
    found: list[WorkspaceHandle] = []
    cursor: str | None = None
    while len(found) < HANDLES_MAX:
        page = await client.run_workspaces(run, task_id=task_id, limit=200, cursor=cursor)
        found += page.workspaces
        cursor = page.next_cursor
        if cursor is None:
            break
    if task_id is not None:
        found = [each for each in found if each.assignment_id == found[0].assignment_id]
    return found


def _newest(found: list[WorkspaceHandle]) -> list[WorkspaceHandle]:
    by_task: dict[str, WorkspaceHandle] = {}
    for each in found:
        if each.task_id is not None and each.kind in ("output", "candidate"):
            by_task.setdefault(each.task_id, each)
    return list(by_task.values())


def _nothing(message: str, fix: str) -> ApiError:
    return ApiError("workspace_none", message, fix)


async def fetch(client: Client, result: Result, git: Git) -> None:
    """Bring both sides into the repository; what is there is not fetched again."""
    await _fetch(client, git, result.base)
    await _fetch(client, git, result.handle)


async def _fetch(client: Client, git: Git, handle: WorkspaceHandle) -> None:
    if await asyncio.to_thread(git.has, handle.commit):
        return
    there: set[str] = set()
    base_id = handle.base_workspace_id
    while base_id is not None:
        base = await client.get_workspace(base_id)
        if await asyncio.to_thread(git.has, base.commit):
            there = {each.digest for each in base.packs}
            break
        base_id = base.base_workspace_id
    with tempfile.TemporaryDirectory(prefix="flakes-packs-") as scratch:
        for each in handle.packs:
            if each.digest in there:
                continue
            path = Path(scratch) / "pack"
            await client.download_pack(handle.workspace_id, each, path)
            try:
                await asyncio.to_thread(take_in, git, path)
            except WorkspaceError as problem:
                raise refusal(problem) from problem
    if not await asyncio.to_thread(git.has, handle.commit):
        raise ApiError("workspace_pack_damaged", f"the packs of {handle.workspace_id} do not hold its commit", "see whether the server's blob store is whole: `flakes doctor`")
    await asyncio.to_thread(keep, git, handle.commit)


def store_of(directory: Path) -> Git:
    """The repository of ours in which the files at `directory` are captured."""
    try:
        return repository(directory, state_dir())
    except WorkspaceError as problem:
        raise refusal(problem) from problem


def left_out(git: Git, result: Result) -> int:
    """How many tasks have changes that are not in the result."""
    if result.task_key is not None:
        return 0
    return sum(
        not (git.has(each.commit) and is_ancestor(git, each.commit, result.handle.commit))
        for each in result.others
    )
