"""Repositories in every state that one finds them in: captured as the files lie there, or refused by name with a fix;
never touched, and the result comes back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flakes.workspace import packs
from flakes.workspace.apply import carry_out, plan
from flakes.workspace.branches import branch
from flakes.workspace.capture import entries
from flakes.workspace.changes import changes
from flakes.workspace.checkout import check_out, collect
from flakes.workspace.git import Git, WorkspaceError
from flakes.workspace.snapshot import Snapshot, snapshot
from workspace.theirs import fingerprint, git, repository, write

Files = dict[str, str]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"


def submodule(tmp: Path) -> Path:
    inner = repository(tmp / "inner", x_txt="x")
    root = repository(tmp / "r", a_txt="a")
    git(root, "-c", "protocol.file.allow=always", "submodule", "add", "--quiet", str(inner), "sub")
    git(root, "commit", "--quiet", "-m", "with a submodule")
    write(root / "sub", x_txt="changed within")
    return root


def submodule_not_there(tmp: Path) -> Path:
    root = submodule(tmp)
    git(tmp, "clone", "--quiet", str(root), "clone")
    return tmp / "clone"


def lfs(tmp: Path) -> Path:
    root = repository(tmp / "r", _gitattributes="*.bin filter=lfs -text\n", pointer_bin=LFS, a_txt="a")
    (root / "fetched.bin").write_text("the whole of it")
    return root


def sparse(tmp: Path) -> Path:
    root = repository(tmp / "r", a_txt="a", far__b_txt="b", near__c_txt="c")
    git(root, "sparse-checkout", "set", "near")
    return root


def linked(tmp: Path) -> Path:
    root = repository(tmp / "main", a_txt="a", _gitignore="*.o\n")
    (root / ".git" / "info" / "exclude").write_text("*.secret\n")
    git(root, "worktree", "add", "--quiet", "-b", "side", str(tmp / "r"))
    write(tmp / "r", b_txt="b", c_o="no", d_secret="no")
    return tmp / "r"


def shallow(tmp: Path) -> Path:
    root = repository(tmp / "deep", a_txt="a")
    for number in range(3):
        write(root, a_txt=f"{number}")
        git(root, "commit", "--quiet", "-am", f"{number}")
    git(tmp, "clone", "--quiet", "--depth=1", f"file://{root}", "r")
    return tmp / "r"


def without_a_commit(tmp: Path) -> Path:
    (tmp / "r").mkdir()
    git(tmp / "r", "init", "--quiet")
    write(tmp / "r", a_txt="a", b_txt="b")
    git(tmp / "r", "add", "a.txt")
    return tmp / "r"


def detached(tmp: Path) -> Path:
    root = repository(tmp / "r", a_txt="a")
    git(root, "checkout", "--quiet", "--detach")
    return root


def merging(tmp: Path) -> Path:
    root = repository(tmp / "r", a_txt="a\n", b_txt="b\n")
    git(root, "checkout", "--quiet", "-b", "side")
    write(root, a_txt="theirs\n")
    git(root, "commit", "--quiet", "-am", "side")
    git(root, "checkout", "--quiet", "-")
    write(root, a_txt="ours\n")
    git(root, "commit", "--quiet", "-am", "ours")
    with pytest.raises(Exception, match="returned non-zero"):
        git(root, "merge", "side")
    return root


def intent_to_add(tmp: Path) -> Path:
    root = repository(tmp / "r", a_txt="a")
    write(root, soon_txt="soon", gone_txt="gone")
    git(root, "add", "--intent-to-add", "soon.txt", "gone.txt")
    (root / "gone.txt").unlink()
    return root


def modes(tmp: Path) -> Path:
    root = repository(tmp / "r", a_sh="a", b_sh="b", c_txt="c")
    (root / "b.sh").chmod(0o755)
    git(root, "commit", "--quiet", "-am", "b runs")
    (root / "a.sh").chmod(0o755)
    (root / "b.sh").chmod(0o644)
    (root / "c.txt").unlink()
    os.symlink("a.sh", root / "c.txt")
    return root


def sha256(tmp: Path) -> Path:
    (tmp / "r").mkdir()
    git(tmp / "r", "init", "--quiet", "--object-format=sha256")
    write(tmp / "r", a_txt="a")
    git(tmp / "r", "add", ".")
    git(tmp / "r", "commit", "--quiet", "-m", "first")
    return tmp / "r"


def replaced(tmp: Path) -> Path:
    """Files that became something else."""
    root = repository(tmp / "r", a_txt="a", b_txt="b", c_txt="c")
    for name in ("b.txt", "c.txt"):
        (root / name).unlink()
    os.mkfifo(root / "b.txt")
    write(root, c_txt__d="a directory now")
    (root / "fresh").mkdir()
    git(root / "fresh", "init", "--quiet")
    write(root, fresh__x="x")
    return root


def case_collision(tmp: Path) -> Path:
    return repository(tmp / "r", a_txt="a", A_txt="A", dir__b="b", DIR__c="c")


def many_ignore_files(tmp: Path) -> Path:
    """Ignore rules where none can be read: they are none, and nobody waits for them."""
    root = repository(tmp / "r", a_txt="a")
    (root / ".git" / "info" / "exclude").unlink()
    os.mkfifo(root / ".git" / "info" / "exclude")
    git(root, "config", "core.excludesFile", "/dev/zero")
    return root


CASES: list[tuple[Callable[[Path], Path], Files, str | None]] = [
    (submodule, {"a.txt": "a", ".gitmodules": "", "sub": "a commit"}, "only their names: 'sub'"),
    (submodule_not_there, {"a.txt": "a", ".gitmodules": ""}, "not checked out are not captured: 'sub'"),
    (lfs, {".gitattributes": "", "a.txt": "a", "pointer.bin": LFS, "fetched.bin": "the whole of it"}, None),
    (sparse, {"a.txt": "a", "near/c.txt": "c"}, "sparse: 1 tracked paths"),
    (linked, {".gitignore": "*.o\n", "a.txt": "a", "b.txt": "b"}, None),
    (shallow, {"a.txt": "2"}, None),
    (without_a_commit, {"a.txt": "a", "b.txt": "b"}, None),
    (detached, {"a.txt": "a"}, None),
    (merging, {"a.txt": "<<<<<<< HEAD\nours\n=======\ntheirs\n>>>>>>> side\n", "b.txt": "b\n"}, None),
    (intent_to_add, {"a.txt": "a", "soon.txt": "soon"}, None),
    (modes, {"a.sh": "a", "b.sh": "b", "c.txt": "a.sh"}, None),
    (sha256, {"a.txt": "a"}, None),
    (replaced, {"a.txt": "a", "c.txt/d": "a directory now"}, "not captured: 'fresh'"),
    (case_collision, {"A.txt": "A", "a.txt": "a", "DIR/c": "c", "dir/b": "b"}, None),
    (many_ignore_files, {"a.txt": "a"}, None),
]


@pytest.mark.parametrize(("make", "expected", "note"), CASES, ids=lambda each: getattr(each, "__name__", ""))
def test_captured_as_it_lies_there_and_a_result_comes_back(
    tmp_path: Path, make: Callable[[Path], Path], expected: Files, note: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    root = make(tmp_path)
    snapshot(root, tmp_path / "state")  # a second one must not depend on the first
    before = fingerprint(root)
    taken = snapshot(root, tmp_path / "state")
    assert fingerprint(root) == before
    assert {path: text for path, text in held(taken).items() if expected.get(path) != ""} == {
        path: text for path, text in expected.items() if text != ""
    }
    assert {*held(taken)} == {*expected}
    assert (note is None) == (taken.notes == ()), taken.notes
    assert note is None or note in " ".join(taken.notes)

    made = worked(taken, tmp_path)
    now = snapshot(root, tmp_path / "state")
    packs.unpack(now.git, [tmp_path / "made.pack"])
    carry_out(plan(now, taken.commit, made))
    assert (root / "made.txt").read_text() == "made\n"
    assert {p: v for p, v in fingerprint(root).items() if p != "made.txt"} == before, "and nothing else"
    hindered = {sha256: "sha256", many_ignore_files: "info/exclude"}.get(make)
    if hindered is not None:
        monkeypatch.setattr("flakes.workspace.git.PATIENCE_S", 0.5)
        with pytest.raises(WorkspaceError, match=hindered) as refused:
            made_branch(root, taken, made)
        assert refused.value.fix
        return
    name = made_branch(root, taken, made)
    assert git(root, "show", f"{name}:made.txt") == "made"
    listed = git(root, "ls-tree", "-r", "--name-only", name).split("\n")
    if make is without_a_commit:
        assert listed == ["a.txt", "b.txt", "made.txt"]
    else:
        assert {*listed} == {*git(root, "ls-tree", "-r", "--name-only", "HEAD").split("\n"), "made.txt"}
    git(root, "fsck", "--strict", name)


def held(taken: Snapshot) -> Files:
    return {
        each.path: "a commit" if each.mode == "160000"
        else taken.git.run("cat-file", "blob", each.object_id).decode()
        for each in entries(taken.git, taken.tree)
    }  # fmt: skip


def worked(taken: Snapshot, tmp: Path) -> str:
    """A task on another machine adds a file; its commit, and `made.pack` with what it has beyond the snapshot."""
    packs.pack(taken.git, taken.commit, to=tmp / "pack")
    host = Git.at(tmp / "host.git")
    packs.unpack(host, [tmp / "pack"])
    check_out(host, taken.commit, tmp / "t" / "work", tmp / "t" / "index")
    assert git(tmp / "t" / "work", "status", "--porcelain") == ""
    write(tmp / "t" / "work", made_txt="made\n")
    made = collect(host, taken.commit, tmp / "t" / "work", tmp / "t" / "index", subject="t", trailers={})
    assert made is not None
    assert [(c.kind, c.path) for c in changes(host, taken.commit, made)] == [("added", "made.txt")]
    packs.pack(host, made, without=[taken.commit], to=tmp / "made.pack")
    return made


def made_branch(root: Path, taken: Snapshot, made: str) -> str:
    return branch(
        root, taken.git, base=taken.commit, result=made, head=taken.head, name="from/task", subject="made",
        trailers={"Flakes-Run": "r"},
    ).name  # fmt: skip


def bare(tmp: Path) -> Path:
    git(tmp, "clone", "--quiet", "--bare", str(repository(tmp / "r", a_txt="a")), "bare.git")
    return tmp / "bare.git"


def within_git(tmp: Path) -> Path:
    return repository(tmp / "r", a_txt="a") / ".git" / "refs"


def elsewhere(tmp: Path) -> Path:
    """A repository that says that the files of another one are its own."""
    repository(tmp / "home", secret_txt="secret")
    root = repository(tmp / "home" / "r", a_txt="a")
    git(root, "config", "core.worktree", str(tmp / "home"))
    return root


def gone(tmp: Path) -> Path:
    write(tmp / "r", a_txt="a")
    (tmp / "r" / ".git").write_text(f"gitdir: {tmp}/nowhere\n")
    return tmp / "r"


def from_the_future(tmp: Path) -> Path:
    root = repository(tmp / "r", a_txt="a")
    git(root, "config", "core.repositoryFormatVersion", "99")
    return root


@pytest.mark.parametrize(
    ("make", "code", "named"),
    [
        (bare, "workspace_none", "bare.git"),
        (within_git, "workspace_none", "refs"),
        (elsewhere, "workspace_untrusted", "home"),
        (gone, "workspace_unreadable", "nowhere"),
        (from_the_future, "workspace_unreadable", "99"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_cannot_be_captured_is_refused_with_a_fix(
    tmp_path: Path, make: Callable[[Path], Path], code: str, named: str
) -> None:
    place = make(tmp_path)
    before = fingerprint(tmp_path)
    with pytest.raises(WorkspaceError) as refused:
        snapshot(place, tmp_path / "state")
    assert refused.value.code == code
    assert named in refused.value.message
    assert refused.value.fix
    assert fingerprint(tmp_path) == before


def test_a_capture_within_a_hook_of_another_repository_is_of_the_named_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, other = repository(tmp_path / "r", a_txt="a"), repository(tmp_path / "other", b_txt="b")
    for name, value in {
        "GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": str(other / ".git/index"),
        "GIT_OBJECT_DIRECTORY": str(other / ".git/objects"), "GIT_ICASE_PATHSPECS": "1", "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.autocrlf", "GIT_CONFIG_VALUE_0": "true", "GIT_EXTERNAL_DIFF": "false",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    write(root, dos_txt="a\r\n")
    before = fingerprint(other)
    assert held(snapshot(root, tmp_path / "state")) == {"a.txt": "a", "dos.txt": "a\r\n"}
    assert fingerprint(other) == before


@pytest.mark.parametrize("name", [".gitignore", ".gitattributes"])
def test_a_pipe_that_git_would_read_is_named_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("flakes.workspace.git.PATIENCE_S", 0.5)
    root = repository(tmp_path / "r", a_txt="a", dir__b_txt="b")
    os.mkfifo(root / "dir" / name)
    with pytest.raises(WorkspaceError) as refused:
        snapshot(root, tmp_path / "state")
    assert (refused.value.code, refused.value.paths) == ("workspace_path_refused", (f"dir/{name}",))
