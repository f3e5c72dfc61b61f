"""Which of a run's results would not merge: each that waits with what is selected, and they with each other.

Tried on git's objects alone, and nothing is written. What was tried once is remembered: handles never change.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

from flakes.server.bench import Bench
from flakes.store.blob_errors import BlobError
from flakes.wire.errors import ApiError
from flakes.wire.merging import WorkspaceMerge
from flakes.wire.workspaces import PredictedConflict, WorkspaceHandle, path_text
from flakes.workspace.git import Git, GitFailed, WorkspaceError
from flakes.workspace.merging import merge

COMPARED_MAX = 12
"""Results that are compared with each other, the newest ones."""
REMEMBERED_MAX = 10_000
NAMED_MAX = 20
LOOKED_AT_MAX = 100
"""Handles among which those are looked for: a task may have stored several."""

Pair = tuple[str, str]


@dataclass(slots=True)
class Predictions:
    """What is remembered; one a replica."""

    bench: Bench
    known: OrderedDict[Pair, tuple[str, ...]] = field(default_factory=OrderedDict)

    async def of(
        self, selected: WorkspaceHandle, merges: Sequence[WorkspaceMerge], handles: dict[str, WorkspaceHandle]
    ) -> list[PredictedConflict]:
        """The pairs that conflict, of `merges` that are not brought in. Raises `ApiError` `git_missing`, `workspace_pack_damaged`; `BlobError`."""
        waiting = _waiting(merges, handles)
        pairs = [(selected.workspace_id, each.workspace_id) for each in waiting]
        pairs += [
            (one.workspace_id, other.workspace_id) for one, other in combinations(waiting, 2)
            if one.task_id != other.task_id
        ]  # fmt: skip
        await self._try([pair for pair in pairs if pair not in self.known], {**handles, selected.workspace_id: selected})
        by_id = {each.workspace_id: each for each in waiting}
        found: list[PredictedConflict] = []
        for ours, theirs in pairs:
            paths = self.known.get((ours, theirs), ())
            if paths:
                one, other = by_id[theirs], by_id.get(ours)
                found.append(PredictedConflict(
                    workspace_id=theirs, task_id=one.task_id, task_key=one.task_key, with_workspace_id=ours,
                    with_task_id=other and other.task_id, with_task_key=other and other.task_key,
                    paths=list(paths[:NAMED_MAX]), count=len(paths),
                ))  # fmt: skip
        return found

    async def _try(self, pairs: Sequence[Pair], handles: dict[str, WorkspaceHandle]) -> None:
        if not pairs:
            return
        needed = {name for pair in pairs for name in pair}
        try:
            async with self.bench.repository([handles[name] for name in sorted(needed)]) as git:
                for pair in pairs:
                    ours, theirs = (handles[name].commit for name in pair)
                    self.known[pair] = await asyncio.to_thread(_conflicts, git, ours, theirs)
        except WorkspaceError as problem:
            raise ApiError(problem.code, problem.message, problem.fix or "look at them with `flakes diff`") from problem
        except (GitFailed, BlobError) as problem:
            if isinstance(problem, BlobError) and problem.code not in ("blob_missing", "blob_corrupt"):
                raise
            raise ApiError(
                "workspace_pack_damaged", "the packs of these workspaces cannot be read",
                "restore the server's blob store from a backup",
            ) from problem  # fmt: skip
        while len(self.known) > REMEMBERED_MAX:
            self.known.popitem(last=False)


def _waiting(
    merges: Sequence[WorkspaceMerge], handles: dict[str, WorkspaceHandle]
) -> list[WorkspaceMerge]:
    """Of each task what it stored last, the newest ones; what one went on from is in that."""
    found = [each for each in merges if each.workspace_id in handles]
    bases = {(handles[each.workspace_id].base_workspace_id, each.task_id) for each in found}
    left = [each for each in found if (each.workspace_id, each.task_id) not in bases]
    return sorted(left, key=lambda each: each.workspace_id)[-COMPARED_MAX:]


def _conflicts(git: Git, ours: str, theirs: str) -> tuple[str, ...]:
    try:
        return tuple(path_text(path) for path in merge(git, ours, theirs).conflicts)
    except WorkspaceError as problem:
        if problem.code == "workspace_unrelated":
            return ()
        raise
