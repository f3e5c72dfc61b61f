"""The user's files as a commit of ours, without touching anything of theirs.

Files are read where they are and stored in a repository of ours, which also keeps the index that tells
next time what has changed. Theirs is only asked three things: where it begins, what it ignores, and which
ignored files it tracks all the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flakes.core.limits import MIB
from flakes.workspace.capture import GITLINK, Entry, capture, entries, names
from flakes.workspace.commits import commit, keep
from flakes.workspace.git import Git, GitFailed, WorkspaceError, split, users
from flakes.workspace.upkeep import remove_forgotten, tidy

LEFT_OUT_MAX: Final = 50
"""Paths that are left out because git takes nothing while they are there."""
RULES_BYTES_MAX: Final = 4 * MIB
_LEFT_OUT: Final = "no files, or repositories without a commit"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was captured. `head` is the commit of theirs that was checked out, if any."""

    git: Git
    root: Path
    commit: str
    tree: str
    head: str | None
    files: int
    """How many paths it holds."""
    notes: tuple[str, ...]
    """What is not in it although one might expect so, a sentence each."""


def snapshot(directory: Path, state: Path) -> Snapshot:
    """Capture the repository that holds `directory`, or the plain directory. `state` is where ours are kept.

    Raises `WorkspaceError`: unreadable or too large files, a repository that git will not trust, no git.
    """
    root, ignored, head = _theirs(directory.resolve())
    place = _place(root, state)
    git = Git.at(place / "objects.git").over(root, place / "index")
    with _alone(place / "lock"):
        exclude = place / "exclude"
        exclude.write_bytes(ignored)
        forced = [] if head is None and not (root / ".git").exists() else _forced(root, exclude)
        (place / "index.lock").unlink(
            missing_ok=True
        )  # of a capture that was killed: nobody else is here
        tree, left_out = _captured(git, exclude, forced)
        words = {"Flakes-Head": head} if head else {}
        made = commit(git, tree, "Files as they were", trailers=words)
        keep(git, made)
        if tidy(git):
            remove_forgotten(state, exclude.name)
    listed = entries(git, tree)
    notes = (*_notes(root, listed), *left_out, *_sparse(root))
    return Snapshot(git, root, made, tree, head, len(listed), notes)


def repository(directory: Path, state: Path) -> Git:
    """Where the objects of captures of these files are, without capturing."""
    root, *_ = _theirs(directory.resolve())
    return Git.at(_place(root, state) / "objects.git")


def _place(root: Path, state: Path) -> Path:
    return state / hashlib.sha256(os.fsencode(root)).hexdigest()[:32]


def _captured(
    git: Git, exclude: Path, forced: Sequence[str]
) -> tuple[str, list[str]]:
    """The tree, and what had to be left out of it: git refuses all of the files because of these."""
    left_out: list[str] = []
    for _ in range(LEFT_OUT_MAX + 1):
        try:
            tree = capture(git, exclude_file=exclude, forced=forced, leave_out=left_out)
            return tree, [f"not captured: {names(left_out)}: {_LEFT_OUT}"] if left_out else []
        except WorkspaceError as problem:
            found = _uncommitted(git, problem.message) or _special(git)
            new = [path for path in found if path not in left_out]
            if problem.code != "workspace_unreadable" or not new:
                raise
            git.run("update-index", "-z", "--force-remove", "--stdin", stdin=new)
            left_out += new
    raise WorkspaceError(
        "workspace_path_refused", f"git refuses too many paths, of which these: {names(left_out)}",
        "remove them, or ignore them (.gitignore)", left_out,
    )  # fmt: skip


def _uncommitted(git: Git, message: str) -> list[str]:
    """Repositories inside that have no commit yet, of which git complained."""
    found = re.findall(r"^(?:.*: )?error: '(.+)/' does not have a commit checked out$", message, re.M)
    assert git.work_tree is not None
    return [path for path in found if (git.work_tree / path).is_dir()]


def _special(git: Git) -> list[str]:
    """Captured paths where there is a pipe, a socket or a device now."""
    found: list[str] = []
    for path in split(git.run("ls-files", "-z")):
        with contextlib.suppress(OSError):
            mode = os.lstat(f"{git.work_tree}/{path}").st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
                found.append(path)
    return found


def _sparse(root: Path) -> Iterator[str]:
    """Tracked files that a sparse checkout leaves out are not there, for tasks too."""
    said = users(root, "config", "--type=bool", "--get", "core.sparseCheckout", good=(0, 1, 128, 129))
    if said.strip() == b"true":
        listed = users(root, "ls-files", "-z", "-t", good=(0, 128))
        count = sum(line.startswith(b"S ") for line in listed.split(b"\0"))
        if count:
            yield f"the checkout is sparse: {count:,} tracked paths are not there, and not in the tasks' files either"


def _notes(root: Path, listed: Sequence[Entry]) -> Iterator[str]:
    inner = [entry.path for entry in listed if entry.mode == GITLINK]
    if inner:
        yield f"repositories inside are not captured, only their names: {names(inner)}"
    if (root / ".gitmodules").is_file():
        staged = users(root, "ls-files", "-z", "--stage", good=(0, 128)).split(b"\0")
        theirs = [os.fsdecode(line.partition(b"\t")[2]) for line in staged if line.startswith(b"160000")]
        absent = [path for path in theirs if path not in inner]
        if absent:
            yield f"submodules that are not checked out are not captured: {names(absent)}"


def _forced(root: Path, exclude: Path) -> list[str]:
    """Ignored files that they track all the same. By the rules that were read: theirs may be no files at all."""
    rules = ("--exclude-per-directory=.gitignore", f"--exclude-from={exclude}")
    return split(users(root, "ls-files", "-z", "--cached", "--ignored", *rules))


def _theirs(directory: Path) -> tuple[Path, bytes, str | None]:
    """Where the files begin, further ignore rules, and the commit checked out."""
    try:
        root = Path(os.fsdecode(users(directory, "rev-parse", "--show-toplevel").rstrip(b"\n")))
    except GitFailed as problem:
        if "dubious ownership" in problem.said:
            raise WorkspaceError(
                "workspace_untrusted", f"git does not trust {directory}: it belongs to another user",
                f"git config --global --add safe.directory {directory}",
            ) from problem  # fmt: skip
        if "must be run in a work tree" in problem.said:
            raise WorkspaceError(
                "workspace_none", f"{directory} is in a repository itself, and not among files of one",
                "call this in a checkout of it, or name one: --workspace DIR",
            ) from problem  # fmt: skip
        if "not a git repository" not in problem.said or (directory / ".git").exists():
            raise WorkspaceError(
                "workspace_unreadable", f"git cannot read the repository at {directory}: {problem.said}",
                "see what `git status` says there",
            ) from problem  # fmt: skip
        return directory, b"", None
    _require_own(directory, root)
    rules = [_rules(path) for path in _ignore_files(root)]
    head = users(root, "rev-parse", "--verify", "--quiet", "HEAD", good=(0, 1)).decode().strip()
    return root, b"\n".join(rules), head or None


def _require_own(directory: Path, root: Path) -> None:
    """Refuse a repository that says of other files that they are its own: whoever wrote its configuration would
    have them captured."""
    own = users(directory, "rev-parse", "--absolute-git-dir").rstrip(b"\n")
    found = users(root, "rev-parse", "--resolve-git-dir", str(root / ".git"), good=(0, 128)).rstrip(b"\n")
    there = os.path.realpath(root / os.fsdecode(found)) if found else ""
    if there != os.path.realpath(os.fsdecode(own)):
        raise WorkspaceError(
            "workspace_untrusted", f"the configuration of the repository at {directory} says that its files are {root}",
            "unset core.worktree there, or name the files that are meant: --workspace DIR",
        )  # fmt: skip


def _rules(path: Path) -> bytes:
    """Ignore rules in a file; nothing when it is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        return file.read(RULES_BYTES_MAX) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""


def _ignore_files(root: Path) -> Iterator[Path]:
    """Their own ignore file of all repositories, then this repository's, which wins."""
    said = users(root, "config", "--path", "--get", "core.excludesFile", good=(0, 1)).rstrip(b"\n")
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    yield Path(os.fsdecode(said)) if said else home / "git" / "ignore"
    yield root / os.fsdecode(users(root, "rev-parse", "--git-path", "info/exclude").rstrip(b"\n"))


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One capture of a place at a time, also between processes."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
