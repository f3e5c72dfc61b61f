"""Two commits into one tree, on objects alone: nobody's files are touched, and nothing is left half done."""

from __future__ import annotations

from dataclasses import dataclass

from flakes.workspace.git import Git, WorkspaceError, split


@dataclass(frozen=True, slots=True)
class Merge:
    """`tree` holds conflict markers in `conflicts`; it is clean when there are none."""

    tree: str
    conflicts: tuple[str, ...]


def merge(git: Git, ours: str, theirs: str) -> Merge:
    """Merge by the nearest common ancestor of both. Raises `WorkspaceError` when they have none."""
    status, said = git.status(
        "merge-tree",
        "--write-tree",
        "--name-only",
        "--no-messages",
        "-z",
        ours,
        theirs,
        good=(0, 1, 128),
    )
    if status == 128:
        raise WorkspaceError(
            "workspace_unrelated", "these commits have no common ancestor",
            "both must come from the same snapshot",
        )  # fmt: skip
    tree, *conflicts = split(said)
    return Merge(tree, tuple(dict.fromkeys(conflicts)))
