"""From one repository to another and back: packs, checkouts, what a task did, merges, and the user's files again."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from flakes.workspace import packs
from flakes.workspace.apply import carry_out, plan
from flakes.workspace.changes import changes, in_scope, only, patch
from flakes.workspace.checkout import check_out, collect
from flakes.workspace.commits import commit
from flakes.workspace.git import Git, WorkspaceError
from flakes.workspace.merging import merge
from flakes.workspace.snapshot import Snapshot, snapshot
from workspace.theirs import fingerprint, git, repository, write


class Bench:
    """A user's repository, its snapshot, and a host's repository that knows it."""

    def __init__(self, tmp_path: Path, **files: str) -> None:
        self.tmp = tmp_path
        self.root = repository(tmp_path / "theirs", **files)
        self.taken = self.snapshot()
        self.host = Git.at(tmp_path / "host.git")
        packs.pack(self.taken.git, self.taken.commit, to=tmp_path / "pack")
        packs.unpack(self.host, [tmp_path / "pack"])
        self.base = self.taken.commit

    def snapshot(self) -> Snapshot:
        return snapshot(self.root, self.tmp / "state")

    def task(self, name: str) -> Path:
        check_out(self.host, self.base, self.tmp / name / "work", self.tmp / name / "index")
        return self.tmp / name / "work"

    def done(self, name: str) -> str | None:
        place = self.tmp / name
        return collect(
            self.host,
            self.base,
            place / "work",
            place / "index",
            subject=name,
            trailers={"Flakes-Task": name},
        )

    def home(self, made: str) -> Snapshot:
        """The result brought to the user's side."""
        packs.pack(self.host, made, without=[self.base], to=self.tmp / "result")
        now = self.snapshot()
        packs.unpack(now.git, [self.tmp / "result"])
        return now


def test_a_task_works_with_ordinary_git_and_its_changes_come_home(tmp_path: Path) -> None:
    bench = Bench(tmp_path, a_txt="one\ntwo\n", b_sh="#!/bin/sh\n", dir__c_txt="c")
    work = bench.task("t")
    assert git(work, "status", "--short") == ""
    write(work, a_txt="one\n2\n", dir__d_txt="new")
    (work / "dir/c.txt").unlink()
    (work / "b.sh").chmod(0o755)
    os.symlink("a.txt", work / "link")
    git(work, "add", "--all")
    git(work, "commit", "--quiet", "-m", "in the task")
    made = bench.done("t")
    assert made is not None
    assert [(c.kind, c.path) for c in changes(bench.host, bench.base, made)] == [
        ("changed", "a.txt"), ("changed", "b.sh"), ("removed", "dir/c.txt"), ("added", "dir/d.txt"), ("added", "link"),
    ]  # fmt: skip
    assert b"-two" in patch(bench.host, bench.base, made, ["a.txt"])
    assert bench.done("t") == made, "collected again, it is the same commit"
    before = fingerprint(bench.root / ".git")
    carry_out(plan(bench.home(made), bench.base, made))
    assert fingerprint(bench.root / ".git") == before
    assert (bench.root / "a.txt").read_text() == "one\n2\n"
    assert (bench.root / "dir/d.txt").read_text() == "new"
    assert not (bench.root / "dir/c.txt").exists()
    assert os.access(bench.root / "b.sh", os.X_OK)
    assert (bench.root / "link").readlink() == Path("a.txt")
    assert changes(bench.taken.git, bench.snapshot().tree, made) == []
    carry_out(
        plan(bench.snapshot(), bench.base, made)
    )  # a second time changes nothing and refuses nothing


def test_nothing_changed_is_no_commit_and_ignored_files_stay(tmp_path: Path) -> None:
    bench = Bench(tmp_path, a_txt="a", _gitignore="*.o\n")
    work = bench.task("t")
    write(work, x_o="object")
    os.mkfifo(work / "pipe.o")
    os.utime(work / "a.txt")
    assert bench.done("t") is None


def test_only_new_objects_travel(tmp_path: Path) -> None:
    bench = Bench(tmp_path, **{f"f{n}_bin": os.urandom(500).hex() for n in range(100)})
    write(bench.root, f1_bin="changed")
    again = bench.snapshot()
    whole = packs.pack(again.git, again.commit, to=tmp_path / "whole")
    part = packs.pack(again.git, again.commit, without=[bench.base], to=tmp_path / "part")
    assert part < whole / 5
    packs.unpack(bench.host, [tmp_path / "part"])
    check_out(bench.host, again.commit, tmp_path / "w", tmp_path / "i")
    assert (tmp_path / "w/f1.bin").read_text() == "changed"


def test_a_damaged_pack_is_refused(tmp_path: Path) -> None:
    Bench(tmp_path, a_txt="a" * 1000)
    damaged = bytearray((tmp_path / "pack").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "pack").write_bytes(damaged)
    with pytest.raises(WorkspaceError, match="cannot be used"):
        packs.unpack(Git.at(tmp_path / "other.git"), [tmp_path / "pack"])


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda w: os.symlink("/etc/passwd", w / "abs"), "abs"),
        (lambda w: os.symlink("../../x", w / "dir" / "up"), "dir/up"),
        (lambda w: os.symlink(".git/config", w / "inner"), "inner"),
        (lambda w: os.mkfifo(w / "pipe"), "pipe"),
        (lambda w: bind(w / "sock"), "sock"),
        (lambda w: (w / "A.TXT").write_text("x"), "A.TXT"),
        (lambda w: (w / "DIR").mkdir() or (w / "DIR" / "y").write_text("x"), "DIR"),
        (lambda w: repository(w / "nested", x_txt="x"), "nested"),
    ],
    ids=["absolute-link", "link-out", "link-to-git", "pipe", "socket", "case", "case-of-directory", "repository"],
)  # fmt: skip
def test_what_may_not_leave_a_task_is_refused_by_name(
    tmp_path: Path, make: object, named: str
) -> None:
    bench = Bench(tmp_path, a_txt="a", dir__c_txt="c")
    work = bench.task("t")
    make(work)  # type: ignore[operator]
    write(work, a_txt="changed")
    with pytest.raises(WorkspaceError) as refused:
        bench.done("t")
    assert (refused.value.code, named in refused.value.paths) == ("workspace_path_refused", True)


def test_a_task_cannot_make_us_run_anything(tmp_path: Path) -> None:
    bench = Bench(tmp_path, a_txt="a")
    work = bench.task("t")
    ran = tmp_path / "ran"
    evil = f"sh -c 'echo x >> {ran}; cat'"
    for name in (
        "core.fsmonitor",
        "filter.evil.clean",
        "filter.evil.process",
        "core.hooksPath",
        "diff.external",
    ):
        git(work, "config", name, evil)
    write(work, _gitattributes="* filter=evil\n", a_txt="changed")
    made = bench.done("t")
    assert made is not None
    assert bench.host.run("show", f"{made}:a.txt") == b"changed"
    assert not ran.exists()


def test_results_side_by_side_merge_or_say_where_they_conflict(tmp_path: Path) -> None:
    bench = Bench(tmp_path, a_txt="1\n2\n3\n4\n5\n", b_txt="b")
    made: dict[str, str] = {}
    for name, text in (
        ("x", "one\n2\n3\n4\n5\n"),
        ("y", "1\n2\n3\n4\nfive\n"),
        ("z", "eins\n2\n3\n4\n5\n"),
    ):
        work = bench.task(name)
        write(work, a_txt=text)
        made[name] = bench.done(name) or ""
    both = merge(bench.host, made["x"], made["y"])
    assert both.conflicts == ()
    assert bench.host.run("show", f"{both.tree}:a.txt") == b"one\n2\n3\n4\nfive\n"
    merged = commit(bench.host, both.tree, "both", parents=[made["x"], made["y"]])
    against = merge(bench.host, merged, made["z"])
    assert against.conflicts == ("a.txt",)
    assert b"<<<<<<<" in bench.host.run("show", f"{against.tree}:a.txt")
    other = commit(bench.host, both.tree, "no ancestor")
    with pytest.raises(WorkspaceError, match="common ancestor"):
        merge(bench.host, other, made["x"])


def test_a_scope_takes_only_its_paths(tmp_path: Path) -> None:
    bench = Bench(tmp_path, docs__a_md="a", docs__old_md="old", src__b_py="b", docset_md="c")
    work = bench.task("t")
    write(work, docs__a_md="A", docs__sub__n_md="n", src__b_py="B", docset_md="C")
    (work / "docs/old.md").unlink()
    made = bench.done("t") or ""
    scratch = bench.host.over(work, tmp_path / "scratch")
    tree = only(scratch, bench.base, made, [("prefix", "docs"), ("exact", "nowhere")])
    assert [(c.kind, c.path) for c in changes(bench.host, bench.base, tree)] == [
        ("changed", "docs/a.md"), ("removed", "docs/old.md"), ("added", "docs/sub/n.md"),
    ]  # fmt: skip
    assert in_scope("any/thing", [("prefix", ".")])


def result_of(bench: Bench, **files: str) -> str:
    work = bench.task("t")
    write(work, **files)
    return bench.done("t") or ""


def test_files_changed_since_are_never_overwritten(tmp_path: Path) -> None:
    bench = Bench(tmp_path, a_txt="1\n2\n3\n4\n5\n", b_txt="b")
    made = result_of(bench, a_txt="1\n2\n3\n4\nfive\n", b_txt="B", new_txt="theirs")
    write(bench.root, a_txt="one\n2\n3\n4\n5\n", new_txt="mine")
    now = bench.home(made)
    before = fingerprint(bench.root)
    with pytest.raises(WorkspaceError) as refused:
        plan(now, bench.base, made)
    assert refused.value.paths == ("a.txt", "new.txt")
    assert "--3way" in refused.value.fix
    assert fingerprint(bench.root) == before
    write(bench.root, new_txt="theirs")
    merged = plan(bench.snapshot(), bench.base, made, three_way=True)
    assert merged.conflicts == ()
    carry_out(merged)
    assert (bench.root / "a.txt").read_text() == "one\n2\n3\n4\nfive\n"
    assert (bench.root / "b.txt").read_text() == "B"


def test_a_conflict_gets_markers_and_is_named(tmp_path: Path) -> None:
    bench = Bench(tmp_path, a_txt="1\n")
    made = result_of(bench, a_txt="theirs\n")
    write(bench.root, a_txt="mine\n")
    merged = plan(bench.home(made), bench.base, made, three_way=True)
    assert merged.conflicts == ("a.txt",)
    carry_out(merged)
    assert "<<<<<<<" in (bench.root / "a.txt").read_text()


def test_a_file_where_a_directory_is_and_a_link_on_the_way(tmp_path: Path) -> None:
    bench = Bench(tmp_path, a_txt="a")
    made = result_of(bench, thing="a file", out__x_txt="x")
    (bench.root / "thing").mkdir()
    write(bench.root, thing__mine_txt="mine")
    now = bench.home(made)
    with pytest.raises(WorkspaceError, match="thing"):
        plan(now, bench.base, made)
    (bench.root / "thing/mine.txt").unlink()
    (bench.root / "thing").rmdir()
    (tmp_path / "outside").mkdir()
    os.symlink(tmp_path / "outside", bench.root / "out")
    with pytest.raises(WorkspaceError):
        carry_out(plan(bench.snapshot(), bench.base, made))
    assert list((tmp_path / "outside").iterdir()) == []
