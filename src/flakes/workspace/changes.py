"""What differs between two commits: paths, and patches that any git can apply."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from flakes.workspace.git import Git, encode, split

Kind = Literal["added", "changed", "removed"]
_KINDS: dict[str, Kind] = {
    "A": "added", "M": "changed", "T": "changed", "D": "removed", "R": "changed",
}  # fmt: skip
_ALIKE = ("--find-renames=50%", "-l1000")


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs. The modes and ids of a side where it does not exist are zeros."""

    path: str
    kind: Kind
    old_mode: str
    new_mode: str
    old_id: str
    new_id: str
    old_path: str | None = None
    """Where it was, when it was moved."""
    alike_percent: int | None = None
    """How much of what was moved is as it was."""


def changes(git: Git, old: str, new: str, *, renames: bool = False) -> list[Change]:
    """Paths that differ between two commits or trees, sorted; a rename is one removed and one added, or with `renames`
    one changed with its `old_path`."""
    form = _ALIKE if renames else ("--no-renames",)
    return list(_parse(git.run("diff-tree", "-r", "-z", "--raw", *form, old, new)))


def _parse(raw: bytes) -> Iterator[Change]:
    parts = iter(raw.split(b"\0"))
    for meta in parts:
        if not meta.startswith(b":"):
            continue
        old_mode, new_mode, old_id, new_id, letter = meta[1:].decode().split()
        path, old_path, alike = os.fsdecode(next(parts)), None, None
        if letter[0] == "R":
            path, old_path, alike = os.fsdecode(next(parts)), path, int(letter[1:])
        kind = _KINDS[letter[0]]
        yield Change(path, kind, old_mode, new_mode, old_id, new_id, old_path, alike)


@dataclass(frozen=True, slots=True)
class Lines:
    """How many lines of a file came and went; None for a binary one."""

    added: int | None
    removed: int | None


def lines(git: Git, old: str, new: str) -> dict[str, Lines]:
    """Lines that came and went, by path."""
    said = git.run(
        "diff-tree", "-r", "-z", "--numstat", "--no-renames", "--no-textconv", "--no-ext-diff", old, new
    )
    found: dict[str, Lines] = {}
    for line in split(said):
        added, removed, path = line.split("\t", 2)
        found[path] = (
            Lines(None, None) if added == "-" else Lines(int(added), int(removed))
        )
    return found


def patch(
    git: Git, old: str, new: str, paths: Sequence[str] = (), *, binary: bool = True, renames: bool = False
) -> bytes:
    """A patch from one commit to another, of these paths only, when given. Without `binary`, a sentence stands
    for what is in binary files; with `renames`, a file that was moved is told as such."""
    form = ["--binary"] if binary else []
    form += _ALIKE if renames else ("--no-renames",)
    limited = ["--", *paths] if paths else []
    return git.run("diff-tree", "-r", "-p", *form, "--full-index", "--no-textconv", "--no-ext-diff",
                   old, new, *limited)  # fmt: skip


def only(
    git: Git, base: str, new: str, scope: Sequence[tuple[Literal["exact", "prefix"], str]]
) -> str:
    """The tree of `base` with the paths in `scope` as they are in `new`. Its index is a file of its own."""
    return picked(git, base, [c for c in changes(git, base, new) if in_scope(c.path, scope)])


def picked(git: Git, base: str, wanted: Sequence[Change]) -> str:
    """The tree of `base` with these changes from it. Its index is a file of its own."""
    assert git.index is not None, "use a scratch index"
    git.run("read-tree", base)
    git.run(
        "update-index",
        "-z",
        "--force-remove",
        "--stdin",
        stdin=[c.path for c in wanted if c.kind == "removed"],
    )
    lines = [f"{c.new_mode} {c.new_id}\t{c.path}" for c in wanted if c.kind != "removed"]
    git.run("update-index", "-z", "--add", "--index-info", stdin=encode(lines))
    return git.text("write-tree")


def in_scope(path: str, scope: Sequence[tuple[Literal["exact", "prefix"], str]]) -> bool:
    """Whether a selector covers the path; a prefix covers whole segments."""
    return any(
        path == selected
        or (kind == "prefix" and (selected in ("", ".") or path.startswith(f"{selected}/")))
        for kind, selected in scope
    )
