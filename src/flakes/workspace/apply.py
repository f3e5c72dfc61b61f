"""Results onto the user's own files: all of it, or nothing and a list of what is in the way."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flakes.workspace.capture import GITLINK, SYMLINK, names
from flakes.workspace.changes import Change, changes
from flakes.workspace.commits import commit
from flakes.workspace.git import GitFailed, WorkspaceError, users
from flakes.workspace.merging import merge
from flakes.workspace.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be written: `changes` take the files from `now` to `tree`."""

    now: Snapshot
    tree: str
    changes: tuple[Change, ...]
    conflicts: tuple[str, ...] = ()


def plan(now: Snapshot, base: str, result: str, *, three_way: bool = False) -> Plan:
    """How to bring what happened from `base` to `result` to the files as they are `now`.

    Raises `WorkspaceError` `apply_would_overwrite` when files that are to change have changed since, unless
    `three_way`: then both are merged, and what conflicts gets markers. Changes that are already there are fine.
    """
    git = now.git
    wanted = changes(git, base, result)
    if three_way:
        ours = commit(git, now.tree, "Files as they are", parents=[base])
        merged = merge(git, ours, result)
        return Plan(now, merged.tree, tuple(changes(git, now.tree, merged.tree)), merged.conflicts)
    since = {change.path: change for change in changes(git, base, now.tree)}
    inside = {
        path
        for changed in since
        for path in _directories(changed)
        if since[changed].kind != "removed"
    }
    todo: list[Change] = []
    blocked: list[str] = []
    for change in wanted:
        mine = since.get(change.path)
        if mine is not None:
            if (mine.new_mode, mine.new_id) != (change.new_mode, change.new_id):
                blocked.append(change.path)
        elif change.kind != "removed" and (
            change.path in inside or any(parent in since for parent in _directories(change.path))
        ):
            blocked.append(change.path)
        else:
            todo.append(change)
    if blocked:
        raise WorkspaceError(
            "apply_would_overwrite", f"changed here since the run began: {names(blocked)}",
            "commit or put them away, or merge with --3way, or take the result as a branch with --branch NAME",
            blocked,
        )  # fmt: skip
    return Plan(now, result, tuple(todo))


def carry_out(planned: Plan) -> None:
    """Write the files. Each is replaced in one step; the bytes were all read before the first is."""
    git, root = planned.now.git, planned.now.root
    unfit = [c.path for c in planned.changes if GITLINK in (c.old_mode, c.new_mode)]
    if unfit:
        raise WorkspaceError(
            "workspace_path_refused",
            f"these are repositories of their own: {names(unfit)}",
            "change them by hand",
            unfit,
        )
    gone = {change.path for change in planned.changes if change.kind == "removed"}
    for change in planned.changes:
        _refuse_link(root, change.path, gone)
    with tempfile.TemporaryDirectory(prefix=".flakes-apply-", dir=root) as scratch:
        staged: list[tuple[Change, Path]] = []
        for number, change in enumerate(c for c in planned.changes if c.kind != "removed"):
            held = Path(scratch) / str(number)
            _write(held, change, git.run("cat-file", "blob", change.new_id))
            staged.append((change, held))
        for change in planned.changes:
            if change.kind == "removed":
                _remove(root, change.path)
        for change, held in staged:
            target = _place(root, change.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            held.replace(target)


def stage_changes(planned: Plan) -> None:
    """Put what was written into the user's index, as `git add` does: with the conversions of their repository."""
    paths = [change.path for change in planned.changes if change.path not in planned.conflicts]
    try:
        for start in range(0, len(paths), _PATHS_AT_ONCE):
            some = [f":(top,literal){path}" for path in paths[start : start + _PATHS_AT_ONCE]]
            users(planned.now.root, "add", "--all", "--force", "--", *some, writes=True)
    except GitFailed as problem:
        raise WorkspaceError(
            "workspace_none", f"the files are written, and could not be staged: {problem.said}",
            "stage them with git add",
        ) from problem  # fmt: skip


_PATHS_AT_ONCE = 500


def _write(path: Path, change: Change, content: bytes) -> None:
    if change.new_mode == SYMLINK:
        path.symlink_to(os.fsdecode(content))
        return
    path.write_bytes(content)
    if change.new_mode == "100755":
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _place(root: Path, path: str) -> Path:
    """Where the path lies; refused when a directory on the way is a link, which could lead anywhere."""
    _refuse_link(root, path, ())
    return root / path


def _refuse_link(root: Path, path: str, gone: Collection[str]) -> None:
    """Refuse a path behind a link, but for links that are `gone` before it is written."""
    for parent in _directories(path):
        if parent not in gone and (root / parent).is_symlink():
            raise WorkspaceError(
                "workspace_path_refused", f"{path!r} lies behind the link {parent!r}",
                "remove the link, or take the result as a branch with --branch NAME", [path],
            )  # fmt: skip


def _remove(root: Path, path: str) -> None:
    _place(root, path).unlink(missing_ok=True)
    for parent in _directories(path):
        with suppress(OSError):
            (root / parent).rmdir()


def _directories(path: str) -> Sequence[str]:
    """The directories that hold the path, nearest first."""
    found: list[str] = []
    while (cut := path.rfind("/")) > 0:
        path = path[:cut]
        found.append(path)
    return found
