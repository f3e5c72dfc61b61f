"""A commit as a directory in which ordinary git works, and what was done in it as a commit again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from flakes.workspace.capture import capture, refuse_unfit
from flakes.workspace.changes import changes
from flakes.workspace.commits import commit, keep
from flakes.workspace.git import Git

_CONFIG = """[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
[user]
\tname = Flakes task
\temail = task@localhost
[gc]
\tauto = 0
"""


def check_out(source: Git, made: str, target: Path, index: Path, files: str | None = None) -> None:
    """Make `target` a repository of its own, detached at the commit `made`, with its files, or with those of
    the commit `files`, which then seem to be changed and not committed.

    Its objects are copies: what is done to them there reaches nobody else. `index`, a file outside the
    task's reach, remembers what was written, so that `collect` reads only what has changed since.
    """
    inner = target / ".git"
    target.mkdir(parents=True)
    git = Git.at(inner)
    wanted = f"{made}\n" if files is None else f"{made}\n{files}\n"
    pack = source.run(
        "pack-objects", "--stdout", "--revs", "--quiet", "--threads=1", stdin=wanted.encode()
    )
    git.run("index-pack", "--stdin", "--threads=1", stdin=pack)
    (inner / "config").write_text(_CONFIG)
    (inner / "HEAD").write_text(f"{made}\n")
    over = git.over(target, inner / "index")
    over.run("read-tree", files or made)
    over.run("checkout-index", "--all", "--quiet", "--index")
    shutil.copyfile(inner / "index", index)
    if files is not None:
        over.run("read-tree", "-m", made)


def collect(
    store: Git,
    base: str,
    work_tree: Path,
    index: Path,
    *,
    subject: str,
    trailers: Mapping[str, str],
) -> str | None:
    """What is different in `work_tree` from the commit `base`, as a commit made from it; None when nothing is.

    The repository inside `work_tree` is not consulted: its commits, index and configuration are the task's
    own affair. Raises `WorkspaceError`, naming the paths, for what may not leave.
    """
    git = store.over(work_tree, index)
    if not index.exists():
        git.run("read-tree", base)
    tree = capture(git)
    changed = [change.path for change in changes(store, base, tree)]
    if not changed:
        return None
    refuse_unfit(git, tree, changed)
    made = commit(store, tree, subject, parents=[base], trailers=trailers)
    keep(store, made)
    return made
