"""What a task left in its work tree, for a task that cannot be asked to mend it any more.

Like `checkout.collect`, but nothing is refused as a whole: what may not leave is left out, by name and with the
reason, and the rest is kept. The repository inside the work tree is not consulted.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from flakes.workspace.capture import FILE_SIZE_BYTES_MAX, capture, unfit
from flakes.workspace.changes import Change, changes
from flakes.workspace.commits import tree_of
from flakes.workspace.git import GITS_OWN, Git, WorkspaceError

TRIES_MAX: Final = 50
"""Paths that git itself refuses are found one at a time."""
_NAMED: Final = re.compile(r"'([^']+)'|\"([^\"]+)\"")

Scope = Sequence[tuple[Literal["exact", "prefix"], str]]


@dataclass(frozen=True, slots=True)
class Gathered:
    """`changes` lead from `base` to `tree`; `refused` are paths that are not in it, each with why."""

    base: str
    tree: str
    changes: tuple[Change, ...]
    refused: Mapping[str, str]


def gather(store: Git, base: str, work_tree: Path, index: Path) -> Gathered:
    """See the module. Raises `WorkspaceError` when nothing at all can be captured."""
    if work_tree.is_symlink() or not work_tree.is_dir():
        # What lies behind a link is not the task's: it must not be read with our rights.
        raise WorkspaceError(
            "workspace_path_refused", "the working directory is gone, or something else in its place"
        )
    git = store.over(work_tree, index)
    # Of a capture that was killed; nobody else is here.
    index.with_name(f"{index.name}.lock").unlink(missing_ok=True)
    if not index.exists():
        git.run("read-tree", base)
    strange = dict(_strange(work_tree))
    for path in strange:
        if path.rpartition("/")[2] in GITS_OWN and not (work_tree / path).is_dir():
            with contextlib.suppress(OSError):
                (work_tree / path).unlink()  # git would read it, and wait for ever
    refused = _not_ignored(git, strange)
    tree = _captured(git, refused)
    changed = changes(store, base, tree)
    refused |= {
        path: why
        for path, why in unfit(git, tree, [change.path for change in changed]).items()
        if not (why.startswith("it differs only by case") and store.has(f"{base}:{path}"))
    }
    if refused:
        tree = _without(git, base, refused)
        changed = changes(store, base, tree)
    return Gathered(base, tree, tuple(changed), refused)


def in_base(store: Git, base: str) -> Gathered:
    """Nothing has changed."""
    return Gathered(base, tree_of(store, base), (), {})


def _captured(git: Git, refused: dict[str, str]) -> str:
    """The tree of everything that git takes; what it does not take is added to `refused`."""
    for _ in range(TRIES_MAX):
        try:
            return capture(git, leave_out=list(refused))
        except WorkspaceError as problem:
            found = list(problem.paths) or _named(git, problem.message)
            new = [path for path in found if path not in refused]
            if not new:
                raise
            _open_up(git)
            refused |= dict.fromkeys(new, problem.message.partition(": ")[0])
    raise WorkspaceError("workspace_unreadable", f"more than {TRIES_MAX} paths cannot be captured")


def _named(git: Git, message: str) -> list[str]:
    """The existing paths that git complained of."""
    assert git.work_tree is not None
    found = [first or second for first, second in _NAMED.findall(message)]
    return [path.rstrip("/") for path in found if os.path.lexists(git.work_tree / path)]


def _strange(work_tree: Path) -> Iterator[tuple[str, str]]:
    """Paths that are no files of a workspace, each with why; what lies below them is not looked at."""
    waiting = [os.fspath(work_tree)]
    while waiting:
        directory = waiting.pop()
        try:
            listing = sorted(os.scandir(directory), key=lambda item: item.name)
        except OSError:
            continue  # git will name it
        top = len(directory) == len(os.fspath(work_tree))
        if not top and any(item.name == ".git" for item in listing):
            yield os.path.relpath(directory, work_tree), "it holds a git repository of its own"
            continue
        for item in listing:
            path = os.path.relpath(item.path, work_tree)
            if item.name == ".git":
                continue
            if item.name.casefold() == ".git":
                yield path, "its name is that of git's own directory on some machines"
            elif item.is_dir(follow_symlinks=False):
                waiting.append(item.path)
            elif item.is_symlink():
                continue
            elif not item.is_file(follow_symlinks=False):
                yield path, "it is not a file (a device, socket or pipe)"
            elif item.stat(follow_symlinks=False).st_size > FILE_SIZE_BYTES_MAX:
                yield path, f"it is larger than {FILE_SIZE_BYTES_MAX} bytes"


def _not_ignored(git: Git, found: dict[str, str]) -> dict[str, str]:
    if not found:
        return found
    said = git.run(
        "--no-literal-pathspecs", "check-ignore", "-z", "--stdin", "--no-index",
        stdin=[f"./{path}" for path in found], good=(0, 1, 128),
    )  # fmt: skip
    ignored = {os.fsdecode(name).removeprefix("./") for name in said.split(b"\0")}
    return {path: why for path, why in found.items() if path not in ignored}


def _without(git: Git, base: str, refused: Mapping[str, str]) -> str:
    """The tree with the refused paths, and all below them, as they were in the base."""
    below = tuple(f"{path}/" for path in refused)
    held = git.run("ls-files", "-z").split(b"\0")
    gone = [p for p in map(os.fsdecode, held) if p in refused or (p and p.startswith(below))]
    git.run("update-index", "-z", "--force-remove", "--stdin", stdin=gone)
    lines: list[bytes] = []
    for line in git.run("ls-tree", "-r", "-z", "--full-tree", base).split(b"\0"):
        path = os.fsdecode(line.partition(b"\t")[2])
        if path and (path in refused or path.startswith(below)):
            lines.append(line)
    git.run("update-index", "-z", "--add", "--index-info", stdin=b"".join(x + b"\0" for x in lines))
    return git.text("write-tree")


def _open_up(git: Git) -> None:
    """Give ourselves back the rights that the task took away from its files."""
    assert git.work_tree is not None
    for directory, names, files in os.walk(git.work_tree):
        for name in [*names, *files]:
            path = f"{directory}/{name}"
            try:
                mode = os.lstat(path).st_mode
                wanted = 0o700 if stat.S_ISDIR(mode) else 0o400
                if not stat.S_ISLNK(mode) and mode & wanted != wanted:
                    os.chmod(path, stat.S_IMODE(mode) | wanted)  # noqa: PTH101
            except OSError:
                continue
