"""A first capture of many files, by several processes: the same as by one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flakes.workspace import filling
from flakes.workspace.filling import fill
from flakes.workspace.git import Git, split
from flakes.workspace.snapshot import snapshot
from workspace.theirs import git, repository

ODD = ["-dash", "a b", "line\nend", 'quo"te', "ä/ö/ü", "deep/" * 30 + "file", "a", "a.b", "a-b", "a/b/c/" + "n" * 200]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(filling, "FILES_MIN", 20)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    root = repository(tmp_path / "theirs")
    for number in range(100):
        path = root / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number}\n" * number)
    for name in ODD:
        path = root / (name if name != "a" else "aa")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe")).write_bytes(b"odd")
    (root / "tool").write_text("#!/bin/sh\n")
    (root / "tool").chmod(0o755)
    (root / "link").symlink_to("tool")
    (root / "empty").touch()
    (root / ".gitignore").write_text("*.log\n")
    (root / "left.log").write_text("ignored")
    return root


def test_it_is_the_tree_that_git_makes_and_nothing_has_to_be_read_again(root: Path, tmp_path: Path) -> None:
    taken = snapshot(root, tmp_path / "state")
    git(root, "add", "--all")
    assert taken.tree == git(root, "write-tree")
    ours = taken.git
    # What was seen of each file is in the index: git needs no look into any of them to know that they are as they were.
    assert ours.run("diff-files", "--name-only") == b""
    assert ours.run("fsck", "--strict", "--no-dangling") == b""
    listed = sorted(os.listdir(tmp_path / "state" / ours.directory.parent.name))
    assert [name for name in listed if name.startswith("index")] == ["index"]
    (root / "tool").write_text("changed\n")
    (root / "d1" / "f1").unlink()
    again = snapshot(root, tmp_path / "state")
    git(root, "add", "--all")
    assert again.tree == git(root, "write-tree")


def test_the_parts_are_really_joined(root: Path, tmp_path: Path) -> None:
    """As `git add` after it would hide it if they were not."""
    ours = Git.at(tmp_path / "objects.git").over(root, tmp_path / "index")
    paths = split(ours.run("ls-files", "-z", "--others", "--exclude-standard"))
    assert len(paths) > 110
    assert fill(ours, paths, ())
    assert sorted(split(ours.run("ls-files", "-z"))) == sorted(paths)
    assert ours.run("diff-files", "--name-only") == b""


@pytest.mark.parametrize("what", ["gone", "one process", "few"])
def test_where_it_cannot_git_does_it_all(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    ours = Git.at(tmp_path / "objects.git").over(root, tmp_path / "index")
    paths = [f"d{number % 7}/f{number}" for number in range(100)]
    if what == "gone":
        paths.append("gone")
    elif what == "few":
        monkeypatch.setattr(filling, "FILES_MIN", 1_000)
    else:
        monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert not fill(ours, paths, ())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("index")] == []
