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
from flakes.workspace.capture import names
from flakes.workspace.commits import commit, is_ancestor, keep
from flakes.workspace.git import Git, WorkspaceError
from flakes.workspace.merging import merge
from flakes.workspace.packs import take_in
from flakes.workspace.snapshot import repository

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.wire.runs import Run
    from flakes.wire.tasks import TaskDetail
    from flakes.wire.workspaces import PredictedConflict, RunWorkspaces

MERGING_S = 20.0
"""How long results that are about to be brought in are waited for."""
HANDLES_MAX = 1_000
"""Handles of a run that are looked through."""
NAMED_MAX = 10
"""Handles that a sentence names."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A handle of a task that is not what is shown, and the attempt that stored it."""

    workspace_id: str
    kind: str
    attempt: int | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which of a task's results: by default the last attempt's that stored any."""

    attempt: int | None = None
    candidate: str | None = None


_ANY = Wanted()


@dataclass(frozen=True, slots=True)
class Result:
    """`parts` together are what came of the files in `base`. `task_key` is None for what the run selected."""

    run: Run
    base: WorkspaceHandle
    parts: tuple[WorkspaceHandle, ...]
    task_key: str | None
    head: str | None
    """What was checked out in the user's repository when the run began."""
    others: tuple[WorkspaceHandle, ...]
    """What all tasks of the run left, for the one who asks what is not in it."""
    beside: tuple[Beside, ...] = ()
    """What else the task stored: in other attempts, or before."""

    @property
    def handle(self) -> WorkspaceHandle:
        """The last part."""
        return self.parts[-1]

    @property
    def label(self) -> str:
        """The run, or RUN/TASK."""
        return self.run.run_key if self.task_key is None else f"{self.run.run_key}/{self.task_key}"


@dataclass(frozen=True, slots=True)
class Sides:
    """Two commits in a repository of ours: what there was, and what came of it."""

    git: Git
    old: str
    new: str


async def find(client: Client, reference: str, wanted: Wanted = _ANY) -> Result:
    """The result of a run (id or key) or of a task (id or RUN/TASKKEY). Raises `workspace_none`."""
    if wanted.candidate is not None and not _is_task(reference):
        run = await client.get_run(reference)
        handle = await client.get_workspace(wanted.candidate)
        if handle.run_id != run.run_id or handle.task_id is None:
            raise _nothing(f"{wanted.candidate} is not what a task of the run {run.run_key} left", f"see what there is: flakes inspect {run.run_key}")
        reference = handle.task_id
    if _is_task(reference):
        detail = await client.get_task(reference)
        run = await client.get_run(detail.run_id)
        return await _of_task(client, run, detail, wanted, ())
    if wanted.attempt is not None:
        raise _nothing("--attempt is about one task", f"name it: flakes diff {reference}/TASK --attempt {wanted.attempt}")
    run = await client.get_run(reference)
    page = await _settled(client, run)
    selected = next((ref for ref in page.refs if ref.name == SELECTED), None)
    if run.workspace_id is None or selected is None:
        raise _nothing(f"the run {run.run_key} began without files", "give a run files: call `flakes run` in a repository, or with --workspace DIR")
    left = tuple(_leaves(await _handles(client, run.run_id, None)))
    tasks = list(dict.fromkeys(each.task_id for each in left if each.task_id is not None))
    if selected.workspace_id == run.workspace_id and tasks:
        if len(tasks) > 1:
            keys_of = {task.task_id: task.task_key for task in await client.all_tasks(run.run_id)}
            named = [f"{run.run_key}/{keys_of.get(task_id, task_id)}" for task_id in tasks]
            raise ApiError("workspace_none", f"nothing of the run {run.run_key} is selected yet, and {len(tasks)} tasks changed files", f"take one: flakes diff {named[0]}", tasks=named[:20])
        return await _of_task(client, run, await client.get_task(tasks[0]), wanted, left)
    base = await client.get_workspace(run.workspace_id)
    handle = await client.get_workspace(selected.workspace_id)
    return Result(run, base, (handle,), None, base.head, left)


async def _settled(client: Client, run: Run) -> RunWorkspaces:
    """What the run has, once what its ended tasks left is brought in, or that takes a while."""
    give_up = asyncio.get_running_loop().time() + MERGING_S
    while True:
        page = await client.run_workspaces(run.run_id, limit=200)
        queued = {each.task_id for each in page.merges if each.state == "queued"}
        ended = {
            task.task_id for task in (await client.all_tasks(run.run_id) if queued else ())
            if task.status in ("SUCCEEDED", "FAILED", "CANCELLED")
        }  # fmt: skip
        if not queued & ended or asyncio.get_running_loop().time() > give_up:
            return page
        await asyncio.sleep(0.1)


async def _of_task(
    client: Client, run: Run, detail: TaskDetail, wanted: Wanted, others: tuple[WorkspaceHandle, ...]
) -> Result:
    """From what the task began with to what it stored in one attempt: outputs, and what else it changed."""
    every = await _handles(client, run.run_id, detail.task_id)
    if not every:
        raise _nothing(f"the task {detail.task_key} changed no files", f"see what the run has: flakes diff {run.run_key}")
    number = {each.assignment_id: each.attempt for each in detail.attempts}
    found = _chosen(every, number, wanted, detail.task_key)
    own = {each.workspace_id: each for each in every}
    first = found[-1]
    while first.base_workspace_id in own:
        first = own[first.base_workspace_id]
    if first.base_workspace_id is None:
        raise _nothing(f"the task {detail.task_key} began without files", "read its outputs: flakes tasks result")
    base = await client.get_workspace(first.base_workspace_id)
    began = base if run.workspace_id is None else await client.get_workspace(run.workspace_id)
    parts = tuple(found if wanted.candidate else reversed(_leaves(found)))
    shown = {each.workspace_id for each in parts}
    beside = tuple(
        Beside(each.workspace_id, each.kind, number.get(each.assignment_id or ""))
        for each in every
        if each.workspace_id not in shown and each.kind in ("output", "candidate")
    )
    return Result(run, base, parts, detail.task_key, began.head, others, beside)


def _chosen(
    every: list[WorkspaceHandle], number: dict[str, int], wanted: Wanted, task_key: str
) -> list[WorkspaceHandle]:
    """The handles that are asked for, newest first: of one attempt, or one."""
    if wanted.candidate is not None:
        found = [each for each in every if each.workspace_id == wanted.candidate]
    elif wanted.attempt is not None:
        found = [each for each in every if number.get(each.assignment_id or "") == wanted.attempt]
    else:
        found = every
    if not found:
        which = wanted.candidate or f"attempt {wanted.attempt}"
        named = ", ".join(f"{e.workspace_id} (attempt {number.get(e.assignment_id or '')})" for e in every[:NAMED_MAX])
        raise _nothing(f"the task {task_key} left nothing as {which}", f"take one of: {named}")
    return [each for each in found if each.assignment_id == found[0].assignment_id]


async def _handles(client: Client, run: str, task_id: str | None) -> list[WorkspaceHandle]:
    """Newest first."""
    found: list[WorkspaceHandle] = []
    cursor: str | None = None
    while len(found) < HANDLES_MAX:
        page = await client.run_workspaces(run, task_id=task_id, limit=200, cursor=cursor)
        found += page.workspaces
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


def _is_task(reference: str) -> bool:
    return "/" in reference or keys.has_prefix(reference, "task")


def _leaves(found: list[WorkspaceHandle]) -> list[WorkspaceHandle]:
    """What tasks stored and did not go on from, in the same order."""
    bases = {(each.task_id, each.base_workspace_id) for each in found}
    return [
        each
        for each in found
        if each.kind in ("output", "candidate") and (each.task_id, each.workspace_id) not in bases
    ]


def _nothing(message: str, fix: str) -> ApiError:
    return ApiError("workspace_none", message, fix)


async def fetch(client: Client, result: Result, git: Git) -> Sides:
    """Bring both sides into the repository; what is there is not fetched again."""
    await _fetch(client, git, result.base)
    for part in result.parts:
        await _fetch(client, git, part)
    try:
        new = await asyncio.to_thread(_together, git, [part.commit for part in result.parts])
    except WorkspaceError as problem:
        raise refusal(problem) from problem
    return Sides(git, result.base.commit, new)


def _together(git: Git, commits: list[str]) -> str:
    """One commit of several that come of the same files and change different ones."""
    new, *more = commits
    for each in more:
        merged = merge(git, new, each)
        if merged.conflicts:
            raise WorkspaceError(
                "workspace_conflict", f"what the task stored does not fit together: {names(merged.conflicts)}",
                "fetch what it stored one by one over the API", merged.conflicts,
            )  # fmt: skip
        new = commit(git, merged.tree, "What the task stored", parents=[new, each])
    return new


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


async def predicted(client: Client, result: Result) -> list[PredictedConflict]:
    """What is not brought in and would conflict, for a whole run; nothing where the server cannot tell."""
    if result.task_key is not None or all(each.run_id is None for each in result.others):
        return []
    try:
        page = await client.run_workspaces(result.run.run_id, limit=1, conflicts=True)
    except ApiError:
        return []  # it is a warning, and the diff is there
    return page.predicted or []


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
    return len({
        each.task_id
        for each in result.others
        if not (git.has(each.commit) and is_ancestor(git, each.commit, result.handle.commit))
    })
