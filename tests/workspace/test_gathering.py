"""What a task left is kept but for what may not leave, which is named."""

from __future__ import annotations

import os
from pathlib import Path

from flakes.workspace.changes import changes
from flakes.workspace.gathering import gather
from workspace.test_round import Bench, bind
from workspace.theirs import git, repository, write


def test_what_may_not_leave_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path, a_txt="a", dir__c_txt="c", link_txt="plain", _gitignore="*.o\n")
    work = bench.task("t")
    write(work, a_txt="changed", dir__c_txt="changed too", new__d_txt="new", x_o="ignored")
    (work / "link.txt").unlink()
    os.symlink("/etc/passwd", work / "link.txt")
    os.symlink("../../up", work / "dir" / "up")
    os.mkfifo(work / "pipe")
    os.mkfifo(work / "pipe.o")
    bind(work / "sock")
    (work / "A.TXT").write_text("x")
    (work / "DIR").mkdir()
    (work / "DIR" / "y").write_text("x")
    repository(work / "nested", x_txt="x")
    (work / "empty").mkdir()
    git(work / "empty", "init", "--quiet")
    (work / "broken").mkdir()
    (work / "broken" / ".git").write_text("garbage")
    (work / "sub" / ".GIT").mkdir(parents=True)
    (work / "sub" / ".GIT" / "config").write_text("[core]")
    (work / "sub" / "f").write_text("kept")
    (work / ".git" / "config").write_text("[core]\n\tbare = true\n")
    found = gather(bench.host, bench.base, work, tmp_path / "t" / "index")
    assert sorted(found.refused) == [
        "A.TXT", "DIR", "broken", "dir/up", "empty", "link.txt", "nested", "pipe", "sock", "sub/.GIT",
    ]  # fmt: skip
    assert all(found.refused.values())
    assert [(c.kind, c.path) for c in found.changes] == [
        ("changed", "a.txt"), ("changed", "dir/c.txt"), ("added", "new/d.txt"), ("added", "sub/f"),
    ]  # fmt: skip
    assert list(found.changes) == changes(bench.host, bench.base, found.tree)
    again = gather(bench.host, bench.base, work, tmp_path / "t" / "index")
    assert (again.tree, again.refused) == (found.tree, found.refused), "gathered again, the same"
    (tmp_path / "t" / "index").unlink()
    assert gather(bench.host, bench.base, work, tmp_path / "t" / "index").tree == found.tree


def test_a_lock_that_a_killed_capture_left_is_in_nobody_s_way(tmp_path: Path) -> None:
    bench = Bench(tmp_path, a_txt="a")
    work = bench.task("t")
    (tmp_path / "t" / "index.lock").touch()
    write(work, a_txt="b")
    found = gather(bench.host, bench.base, work, tmp_path / "t" / "index")
    assert [change.path for change in found.changes] == ["a.txt"]


def test_a_pipe_that_git_would_read_holds_nobody_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path, a_txt="a", _gitignore="*.o\n")
    work = bench.task("t")
    (work / ".gitignore").unlink()
    os.mkfifo(work / ".gitignore")
    (work / "dir").mkdir()
    os.mkfifo(work / "dir" / ".gitattributes")
    write(work, a_txt="b")
    found = gather(bench.host, bench.base, work, tmp_path / "t" / "index")
    assert [(c.kind, c.path) for c in found.changes] == [("changed", "a.txt")]
    assert sorted(found.refused) == [".gitignore", "dir/.gitattributes"]
