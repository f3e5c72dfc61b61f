"""Packs: what one commit has and others have not, as one file of bytes that any repository can take in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from flakes.workspace.git import Git, GitFailed, WorkspaceError


def pack(git: Git, commit: str, *, without: Sequence[str] = (), to: Path) -> int:
    """Write to the file `to` every object that `commit` reaches and none of `without` does; its size in bytes.

    Complete in itself: no object is stored as a difference to one outside.
    """
    # Their trees by name too: git leaves out what an unrelated commit holds only when told so.
    revisions = [
        commit,
        *(f"^{name}" for known in without for name in (known, f"{known}^{{tree}}")),
    ]
    git.run(
        "pack-objects", "--stdout", "--revs", "--quiet", "--threads=1", "--delta-base-offset",
        stdin=("\n".join(revisions) + "\n").encode(), to=to,
    )  # fmt: skip
    return to.stat().st_size


def unpack(git: Git, packs: Iterable[Path]) -> None:
    """Take packs in. Every object is checked; raises `WorkspaceError` for bytes that are not a sound pack."""
    for path in packs:
        take_in(git, path)


def take_in(git: Git, path: Path) -> str:
    """Take one pack in; the name that git gives it. Raises like `unpack`."""
    try:
        said = _index(git, path, f"--strict={_LENIENT}")
    except GitFailed as problem:
        raise WorkspaceError(
            "workspace_pack_damaged",
            f"the pack {path.name} cannot be used: {problem.said}",
            "upload it again",
        ) from problem
    return said.decode().split()[-1]


# These files mean something to git only where submodules are used, and attributes are not obeyed here. A
# user's may hold anything, so they are bytes; paths that git itself lives in stay refused.
_LENIENT = ",".join(
    f"{name}=ignore"
    for name in (
        "gitmodulesUrl", "gitmodulesUpdate", "gitmodulesName", "gitmodulesPath", "gitmodulesParse",
        "gitmodulesBlob", "gitmodulesLarge", "gitmodulesMissing", "gitmodulesSymlink", "gitattributesLineLength",
        "gitattributesLarge", "gitattributesMissing", "gitattributesBlob",
    )
)  # fmt: skip


def _index(git: Git, path: Path, strict: str) -> bytes:
    try:
        return git.run("index-pack", "--stdin", strict, "--threads=1", stdin=path)
    except GitFailed as problem:
        if "Unhandled message id" not in problem.said or strict == "--strict":
            raise
        return _index(git, path, "--strict")  # an older git, which checks less
