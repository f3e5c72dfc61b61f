"""The files of a directory as a git tree: what git would list, byte for byte, checked against our rules."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flakes.core.limits import MIB
from flakes.workspace.filling import fill
from flakes.workspace.git import Git, GitFailed, WorkspaceError, split

FILE_SIZE_BYTES_MAX = 512 * MIB
"""One captured file."""
NAMED_MAX = 20
"""Paths that an error names."""

GITLINK = "160000"
SYMLINK = "120000"


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a tree: `mode` as git writes it (100644, 100755, 120000, 160000)."""

    mode: str
    object_id: str
    path: str


def capture(
    git: Git,
    *,
    exclude_file: Path | None = None,
    forced: Iterable[str] = (),
    leave_out: Sequence[str] = (),
) -> str:
    """Bring the index up to date with the work tree and write its tree; the tree's id.

    Ignored files are left out, but for those `forced`; paths to `leave_out` stay as the index has them.
    Unchanged files are recognised by the index and not read again. Raises `WorkspaceError` for a file that
    is too large or cannot be read.
    """
    settings = (
        f"core.excludesFile={exclude_file or os.devnull}",
        # Above this size git writes blobs straight into one pack; everything does, so that fifty thousand
        # files are one file of ours.
        "core.bigFileThreshold=1",
    )
    changed = _changed(git, settings, leave_out)
    _refuse_large(git, changed)
    fill(git, [path for path in changed if not path.endswith("/")], settings)
    try:
        git.run(
            "--no-literal-pathspecs",
            "add",
            "--all",
            "--pathspec-from-file=-",
            "--pathspec-file-nul",
            stdin=[".", *(f":(exclude,literal){path}" for path in leave_out)],
            settings=settings,
        )
        kept = [p for p in forced if p not in leave_out and os.path.lexists(f"{git.work_tree}/{p}")]
        if kept:
            git.run(
                "add",
                "--force",
                "--pathspec-from-file=-",
                "--pathspec-file-nul",
                stdin=kept,
                settings=settings,
            )
    except GitFailed as problem:
        raise WorkspaceError(
            "workspace_unreadable", f"the files could not be captured: {problem.said}",
            "make them readable, or ignore them (.gitignore)",
        ) from problem  # fmt: skip
    return git.text("write-tree")


def _changed(git: Git, settings: Sequence[str], leave_out: Sequence[str]) -> list[str]:
    listed = git.run(
        "ls-files", "-z", "--others", "--modified", "--exclude-standard", settings=settings
    )
    without = set(leave_out)
    return [path for path in split(listed) if path not in without]


def _refuse_large(git: Git, changed: Iterable[str]) -> None:
    large: list[str] = []
    for path in changed:
        try:
            found = os.lstat(f"{git.work_tree}/{path}")
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode) and found.st_size > FILE_SIZE_BYTES_MAX:
            large.append(path)
    if large:
        raise WorkspaceError(
            "workspace_file_too_large",
            f"files larger than {FILE_SIZE_BYTES_MAX // MIB} MiB: {names(large)}",
            "ignore them (.gitignore), or hand them over as artifacts", large,
        )  # fmt: skip


def entries(git: Git, tree: str) -> list[Entry]:
    """Every path of a tree or commit, in git's order."""
    found: list[Entry] = []
    for line in git.run("ls-tree", "-r", "-z", "--full-tree", tree).split(b"\0"):
        if line:
            meta, _, path = line.partition(b"\t")
            mode, _, object_id = meta.decode().split()
            found.append(Entry(mode, object_id, os.fsdecode(path)))
    return found


def refuse_unfit(git: Git, tree: str, changed: Iterable[str]) -> None:
    """Raise `WorkspaceError`, naming the paths, when a changed path may not leave a task: a repository
    inside, a link that leads out, a special file, or names that are one on a machine that ignores case."""
    found = unfit(git, tree, changed)
    special = list(_special(git))
    found |= dict.fromkeys(special, "it is not a file (a device, socket or pipe)")
    if found:
        paths = sorted(found)
        why = found[paths[0]]
        raise WorkspaceError(
            "workspace_path_refused",
            f"these paths may not leave the task (of the first: {why}): {names(paths)}",
            "remove or rename them, or ignore them (.gitignore)",
            paths,
        )


def unfit(git: Git, tree: str, changed: Iterable[str]) -> dict[str, str]:
    """The changed paths of a tree that may not leave a task, each with why."""
    listed = entries(git, tree)
    new = set(changed)
    found: dict[str, str] = {}
    for entry in listed:
        if entry.path not in new:
            continue
        if entry.mode == GITLINK:
            found[entry.path] = "it holds a git repository of its own"
        elif entry.mode == SYMLINK and _leads_out(
            entry.path, git.run("cat-file", "blob", entry.object_id)
        ):
            found[entry.path] = "it is a link that leads out of the workspace"
    same: dict[str, str] = {}
    above = {parent for path in new for parent in _with_directories([path])}
    for path in _with_directories(entry.path for entry in listed):
        other = same.setdefault(path.casefold(), path)
        if other != path:
            for one, two in ((path, other), (other, path)):
                if one in above:
                    found[one] = f"it differs only by case from {two!r}"
    return found


def names(paths: Sequence[str]) -> str:
    """The first paths, and how many more there are."""
    shown = ", ".join(repr(path) for path in paths[:NAMED_MAX])
    return shown if len(paths) <= NAMED_MAX else f"{shown} and {len(paths) - NAMED_MAX} more"


def _leads_out(path: str, target: bytes) -> bool:
    text = os.fsdecode(target)
    if text.startswith("/"):
        return True
    reached = os.path.normpath(os.path.join(os.path.dirname(path), text))  # noqa: PTH118, PTH120 - lexical
    return reached == ".." or reached.startswith("../") or ".git" in reached.split("/")


def _special(git: Git) -> Iterator[str]:
    """Devices, sockets and pipes in the work tree that are not ignored."""
    assert git.work_tree is not None
    root = os.fspath(git.work_tree)
    found: list[str] = []
    waiting = [root]
    while waiting:
        with os.scandir(waiting.pop()) as listing:
            for item in listing:
                if item.is_dir(follow_symlinks=False):
                    if item.name != ".git":
                        waiting.append(item.path)
                elif not item.is_file(follow_symlinks=False) and not item.is_symlink():
                    found.append(os.path.relpath(item.path, root))
    if found:
        asked = [f"./{path}" for path in found]
        said = git.run(
            "--no-literal-pathspecs",
            "check-ignore",
            "-z",
            "--stdin",
            "--no-index",
            stdin=asked,
            good=(0, 1),
        )
        yield from sorted(set(found) - {path.removeprefix("./") for path in split(said)})


def _with_directories(paths: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for path in paths:
        yield path
        while (cut := path.rfind("/")) > 0 and (path := path[:cut]) not in seen:
            seen.add(path)
            yield path
