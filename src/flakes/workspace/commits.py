"""Commits that mean the same on every machine: the same tree and the same words give the same id."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence

from flakes.workspace.git import Git

_SIGNED = "Flakes <flakes@localhost>"
_AT = "946684800 +0000"


def commit(
    git: Git,
    tree: str,
    subject: str,
    *,
    parents: Sequence[str] = (),
    trailers: Mapping[str, str] | None = None,
) -> str:
    """Write the commit; its id. Author and date are fixed, so it is made once however often it is asked for."""
    lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents)]
    lines += [f"author {_SIGNED} {_AT}", f"committer {_SIGNED} {_AT}", "", subject]
    if trailers:
        lines += ["", *(f"{name}: {value}" for name, value in trailers.items())]
    data = ("\n".join(lines) + "\n").encode()
    return git.run("hash-object", "-t", "commit", "-w", "--stdin", stdin=data).decode().strip()


def trailer(git: Git, commit: str, name: str) -> str | None:
    """The value of a trailer of a commit of ours; a line further up may look like one."""
    lines = git.run("cat-file", "commit", commit).decode(errors="replace").splitlines()
    found = [line[len(name) + 2 :] for line in lines if line.startswith(f"{name}: ")]
    return found[-1] if found else None


def tree_of(git: Git, commit: str) -> str:
    """The tree of a commit."""
    return git.text("rev-parse", "--verify", f"{commit}^{{tree}}")


def keep(git: Git, commit: str) -> None:
    """Hold the commit and all it reaches against garbage collection."""
    git.run("update-ref", f"refs/flakes/{commit}", commit)
    with contextlib.suppress(FileNotFoundError):
        os.utime(git.directory / "refs" / "flakes" / commit)  # the newest ones stay longest


def is_ancestor(git: Git, older: str, newer: str) -> bool:
    """Whether `newer` was made from `older`."""
    return git.status("merge-base", "--is-ancestor", older, newer)[0] == 0
