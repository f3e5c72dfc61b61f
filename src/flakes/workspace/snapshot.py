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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flakes.workspace.capture import GITLINK, Entry, capture, entries, names
from flakes.workspace.commits import commit, keep
from flakes.workspace.git import Git, GitFailed, WorkspaceError, split, users
from flakes.workspace.upkeep import remove_forgotten, tidy


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
    root, ignored, forced, head = _theirs(directory.resolve())
    place = _place(root, state)
    git = Git.at(place / "objects.git").over(root, place / "index")
    with _alone(place / "lock"):
        exclude = place / "exclude"
        exclude.write_bytes(ignored)
        (place / "index.lock").unlink(
            missing_ok=True
        )  # of a capture that was killed: nobody else is here
        tree = capture(git, exclude_file=exclude, forced=forced)
        words = {"Flakes-Head": head} if head else {}
        made = commit(git, tree, "Files as they were", trailers=words)
        keep(git, made)
        if tidy(git):
            remove_forgotten(state, exclude.name)
    listed = entries(git, tree)
    return Snapshot(git, root, made, tree, head, len(listed), tuple(_notes(listed)))


def repository(directory: Path, state: Path) -> Git:
    """Where the objects of captures of these files are, without capturing."""
    root, *_ = _theirs(directory.resolve())
    return Git.at(_place(root, state) / "objects.git")


def _place(root: Path, state: Path) -> Path:
    return state / hashlib.sha256(os.fsencode(root)).hexdigest()[:32]


def _notes(listed: Sequence[Entry]) -> Iterator[str]:
    inner = [entry.path for entry in listed if entry.mode == GITLINK]
    if inner:
        yield f"repositories inside are not captured, only their names: {names(inner)}"


def _theirs(directory: Path) -> tuple[Path, bytes, list[str], str | None]:
    """Where the files begin, further ignore rules, ignored files that are tracked, and the commit checked out."""
    try:
        root = Path(os.fsdecode(users(directory, "rev-parse", "--show-toplevel").rstrip(b"\n")))
    except GitFailed as problem:
        if "dubious ownership" in problem.said:
            raise WorkspaceError(
                "workspace_untrusted", f"git does not trust {directory}: it belongs to another user",
                f"git config --global --add safe.directory {directory}",
            ) from problem  # fmt: skip
        return directory, b"", [], None
    rules: list[bytes] = []
    for path in _ignore_files(root):
        with contextlib.suppress(OSError):
            rules.append(path.read_bytes())
    forced = split(users(root, "ls-files", "-z", "--cached", "--ignored", "--exclude-standard"))
    head = users(root, "rev-parse", "--verify", "--quiet", "HEAD", good=(0, 1)).decode().strip()
    return root, b"\n".join(rules), forced, head or None


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
