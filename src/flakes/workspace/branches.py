"""A result as a branch of the user's repository: objects and one ref are added, and nothing that is there changes.

The branch begins at the commit that was checked out when the files were captured, and holds what changed since
then, so uncommitted work of the user stays out of it except in files that the result changes too. No hook,
filter or signing program of theirs is run: bytes go in as they are on disk.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from flakes.workspace.capture import GITLINK, entries, names
from flakes.workspace.changes import Change, changes
from flakes.workspace.git import Git, GitFailed, WorkspaceError, encode, users

EMPTY_TREE: Final = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_NOBODY: Final = "Flakes <flakes@localhost>"
_NONE: Final = "0" * 40


@dataclass(frozen=True, slots=True)
class Branch:
    """What was made. `fresh` is False when the branch held it already."""

    name: str
    commit: str
    parent: str | None
    fresh: bool
    notes: tuple[str, ...]


def branch(
    root: Path,
    store: Git,
    *,
    base: str,
    result: str,
    head: str | None,
    name: str,
    subject: str,
    trailers: Mapping[str, str],
) -> Branch:
    """Make the branch `name` in the repository at `root` of what leads from `base` to `result` in `store`.

    A branch of that name is extended when its last commit has the same first trailer, else refused as
    `apply_would_overwrite`; so is one that is checked out.
    """
    theirs = _theirs(root, name)
    reference = f"refs/heads/{name}"
    if head is not None and not theirs.has(head):
        raise WorkspaceError(
            "workspace_unrelated", f"the commit {head[:12]}, from which the run began, is not in {root}",
            "fetch it, or use the repository that the run began from",
        )  # fmt: skip
    mark = next(f"{key}: {value}" for key, value in trailers.items())
    tip = _tip(root, theirs, reference, mark)
    changed = changes(store, EMPTY_TREE if head is None else base, result)
    _refuse_inner(changed)
    tree = _tree(theirs, store, head, changed)
    parent = tip or head
    notes = tuple(_notes(theirs, head, changed))
    if tip is not None and theirs.text("rev-parse", f"{tip}^{{tree}}") == tree:
        return Branch(name, tip, head, False, notes)
    made = _commit(root, theirs, tree, parent, subject, trailers)
    theirs.run("update-ref", "-m", "flakes", reference, made, tip or _NONE)
    return Branch(name, made, parent, True, notes)


def push(root: Path, made: Branch, remote: str) -> str:
    """Push the branch, never forced; what git said. Raises `WorkspaceError` `publish_refused`."""
    try:
        said = users(
            root, "push", "--porcelain", remote, f"{made.commit}:refs/heads/{made.name}", prompts=True
        )
    except GitFailed as problem:
        raise WorkspaceError(
            "publish_refused", f"{remote} did not take the branch {made.name}: {problem.said}",
            "choose another name with --branch, or see what is there: nothing is ever forced",
        ) from problem  # fmt: skip
    return said.decode(errors="replace").strip()


def _theirs(root: Path, name: str) -> Git:
    try:
        found = users(root, "rev-parse", "--absolute-git-dir").rstrip(b"\n")
    except GitFailed as problem:
        raise WorkspaceError(
            "workspace_none", f"{root} is no git repository, so it has no branches",
            "leave --branch out: the files are written",
        ) from problem  # fmt: skip
    theirs = Git(Path(os.fsdecode(found)))
    names_by = theirs.text("rev-parse", "--show-object-format")
    if names_by != "sha1":
        raise WorkspaceError(
            "workspace_unrelated", f"{root} names its objects by {names_by}, so nothing can be put into it as a commit",
            "leave --branch out: the files are written; then commit them yourself",
        )  # fmt: skip
    if theirs.status("check-ref-format", "--branch", name, good=(0, 1, 128))[0] != 0:
        raise WorkspaceError(
            "workspace_none", f"{name!r} is no name for a branch", "choose another one"
        )
    return theirs


def _tip(root: Path, theirs: Git, reference: str, mark: str) -> str | None:
    status, said = theirs.status("rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}")
    if status != 0:
        return None
    tip = said.decode().strip()
    worktrees = users(root, "worktree", "list", "--porcelain").decode(errors="replace").splitlines()
    name = reference.removeprefix("refs/heads/")
    if f"branch {reference}" in worktrees:
        raise WorkspaceError(
            "apply_would_overwrite", f"the branch {name} is checked out", "choose another name"
        )
    lines = theirs.run("cat-file", "commit", tip).decode(errors="replace").splitlines()
    if mark not in lines:
        raise WorkspaceError(
            "apply_would_overwrite", f"there is a branch {name}, which is not of this run",
            "choose another name",
        )  # fmt: skip
    return tip


def _refuse_inner(changed: Sequence[Change]) -> None:
    inner = [each.path for each in changed if GITLINK in (each.old_mode, each.new_mode)]
    if inner:
        raise WorkspaceError(
            "workspace_path_refused", f"these are repositories of their own: {names(inner)}",
            "change them by hand", inner,
        )  # fmt: skip


def _tree(theirs: Git, store: Git, head: str | None, changed: Sequence[Change]) -> str:
    """The tree of `head` with the changes made, written into their repository with what it needs."""
    kept = [each for each in changed if each.kind != "removed"]
    with tempfile.TemporaryDirectory(prefix="flakes-branch-") as scratch:
        if kept:
            content = Path(scratch) / "pack"
            wanted = "".join(f"{each}\n" for each in sorted({c.new_id for c in kept}))
            store.run("pack-objects", "--stdout", "--quiet", stdin=wanted.encode(), to=content)
            theirs.run("index-pack", "--stdin", stdin=content)
        scratched = replace(theirs, index=Path(scratch) / "index")
        scratched.run("read-tree", *([head] if head is not None else ["--empty"]))
        gone = [each.path for each in changed if each.kind == "removed"]
        scratched.run("update-index", "-z", "--force-remove", "--stdin", stdin=gone)
        lines = [f"{each.new_mode} {each.new_id}\t{each.path}" for each in kept]
        scratched.run(
            "update-index", "-z", "--add", "--replace", "--index-info", stdin=encode(lines)
        )
        return scratched.text("write-tree")


def _notes(theirs: Git, head: str | None, changed: Sequence[Change]) -> Sequence[str]:
    if head is None:
        return []
    committed = {each.path: each.object_id for each in entries(theirs, head)}
    mixed = [
        each.path
        for each in changed
        if (None if each.kind == "added" else each.old_id) != committed.get(each.path)
    ]
    if not mixed:
        return []
    return [f"with changes that were not committed when the run began: {names(mixed)}"]


def _commit(
    root: Path, theirs: Git, tree: str, parent: str | None, subject: str, trailers: Mapping[str, str]
) -> str:
    who = _identity(root)
    at = f"{int(time.time())} +0000"
    lines = [f"tree {tree}", *([f"parent {parent}"] if parent else [])]
    lines += [f"author {who} {at}", f"committer {who} {at}", "", subject, ""]
    lines += [f"{key}: {value}" for key, value in trailers.items()]
    data = ("\n".join(lines) + "\n").encode(errors="surrogateescape")
    return theirs.run("hash-object", "-t", "commit", "-w", "--stdin", stdin=data).decode().strip()


def _identity(root: Path) -> str:
    """Who the user is, as their git would write it."""
    told = [
        users(root, "config", "--get", f"user.{part}", good=(0, 1)).decode(errors="replace").strip()
        for part in ("name", "email")
    ]
    name, email = ("".join(c for c in each if c not in "<>\n") for each in told)
    return f"{name} <{email}>" if name and email else _NOBODY
