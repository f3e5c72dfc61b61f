"""Capturing the user's files: what is in it, that theirs stays as it was, and what hostile ones may not do."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flakes.workspace import capture, upkeep
from flakes.workspace.capture import entries
from flakes.workspace.git import WorkspaceError
from flakes.workspace.snapshot import Snapshot, snapshot
from workspace.theirs import fingerprint, git, repository, write


def paths(taken: Snapshot) -> list[str]:
    return [entry.path for entry in entries(taken.git, taken.tree)]


def test_tracked_changed_and_new_files_are_in_it_and_ignored_ones_are_not(tmp_path: Path) -> None:
    root = repository(
        tmp_path / "r", a_txt="a", src__b_py="b", _gitignore="*.log\nbuild/\n", gone_txt="x"
    )
    write(root, a_txt="changed", new__c_txt="c", out_log="no", build__x="no")
    (root / "gone.txt").unlink()
    (root / "forced.log").write_text("tracked although ignored")
    git(root, "add", "--force", "forced.log")
    (root / ".git/info/exclude").write_text("*.secret\n")
    (root / "my.secret").write_text("no")
    before = fingerprint(root)
    taken = snapshot(root / "src", tmp_path / "state")
    assert paths(taken) == [".gitignore", "a.txt", "forced.log", "new/c.txt", "src/b.py"]
    assert taken.git.run("show", f"{taken.commit}:a.txt") == b"changed"
    assert (taken.root, taken.head) == (root, git(root, "rev-parse", "HEAD"))
    assert fingerprint(root) == before


def test_the_same_files_are_the_same_commit_and_other_files_are_not(tmp_path: Path) -> None:
    root = repository(tmp_path / "r", a_txt="a")
    first = snapshot(root, tmp_path / "state")
    assert snapshot(root, tmp_path / "state").commit == first.commit
    assert snapshot(root, tmp_path / "elsewhere").commit == first.commit
    write(root, a_txt="b")
    assert snapshot(root, tmp_path / "state").commit != first.commit
    write(root, a_txt="a")
    assert snapshot(root, tmp_path / "state").commit == first.commit


def test_a_plain_directory_and_an_empty_one(tmp_path: Path) -> None:
    write(tmp_path / "d", a_txt="a", sub__b_txt="b")
    taken = snapshot(tmp_path / "d", tmp_path / "state")
    assert (paths(taken), taken.head) == (["a.txt", "sub/b.txt"], None)
    (tmp_path / "e").mkdir()
    assert paths(snapshot(tmp_path / "e", tmp_path / "state")) == []


def test_bytes_are_those_on_disk_whatever_attributes_say(tmp_path: Path) -> None:
    root = repository(
        tmp_path / "r", _gitattributes="* text=auto eol=lf ident\n*.bin filter=evil\n"
    )
    (root / "dos.txt").write_bytes(b"one\r\ntwo $Id$\r\n")
    (root / "x.bin").write_bytes(b"\0\1")
    taken = snapshot(root, tmp_path / "state")
    assert taken.git.run("show", f"{taken.commit}:dos.txt") == b"one\r\ntwo $Id$\r\n"
    assert taken.git.run("show", f"{taken.commit}:x.bin") == b"\0\1"


def test_nothing_of_a_hostile_repository_runs(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    evil = f"sh -c 'echo $0 >> {ran}; cat'"
    root = repository(
        tmp_path / "r", a_txt="a", _gitattributes="* filter=evil diff=evil merge=evil\n"
    )
    inner = repository(root / "inner", x_txt="x")
    for place in (root, inner):
        for name in ("core.fsmonitor", "filter.evil.clean", "filter.evil.smudge", "filter.evil.process",
                     "diff.evil.textconv", "diff.external", "core.pager", "core.sshCommand"):  # fmt: skip
            git(place, "config", name, evil)
        git(place, "config", "filter.evil.required", "true")
        for hook in ("pre-commit", "post-index-change", "reference-transaction", "post-checkout"):
            path = place / ".git/hooks" / hook
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\necho {hook} >> {ran}\n")
            path.chmod(0o755)
    write(
        root,
        _gitmodules='[submodule "inner"]\n\tpath = inner\n\turl = ext::sh -c "touch x"\n',
        b_txt="b",
    )
    (inner / "x.txt").write_text("dirty")
    os.symlink("/etc/passwd", root / "link")
    odd = "new\nline \udcff -- :(glob)*"
    (root / odd).write_text("odd")
    taken = snapshot(root, tmp_path / "state")
    again = snapshot(root, tmp_path / "state")
    assert not ran.exists()
    assert again.commit == taken.commit
    assert {"inner", "link", odd, "b.txt"} <= set(paths(taken))
    assert "'inner'" in taken.notes[0]


def test_a_file_that_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "FILE_SIZE_BYTES_MAX", 100)
    write(tmp_path / "d", a_txt="a" * 101, b_txt="b")
    with pytest.raises(WorkspaceError, match=r"a\.txt") as refused:
        snapshot(tmp_path / "d", tmp_path / "state")
    assert (refused.value.code, refused.value.paths) == ("workspace_file_too_large", ("a.txt",))
    assert "gitignore" in refused.value.fix


def test_an_unfinished_capture_is_taken_up(tmp_path: Path) -> None:
    root = repository(tmp_path / "r", a_txt="a")
    first = snapshot(root, tmp_path / "state")
    (first.git.index.parent / "index.lock").touch()  # type: ignore[union-attr]
    write(root, a_txt="b")
    assert snapshot(root, tmp_path / "state").commit != first.commit


def test_captures_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "PACKS_MAX", 4)
    monkeypatch.setattr(upkeep, "REFS_KEPT", 3)
    root, state = repository(tmp_path / "r", a_txt="0"), tmp_path / "state"
    forgotten, used = state / "forgotten", state / "used"
    for place, age_days in ((forgotten, 61), (used, 1)):
        write(place, exclude="")
        at = time.time() - age_days * 86_400
        os.utime(place / "exclude", (at, at))
    made: list[Snapshot] = []
    for number in range(12):
        write(root, a_txt=f"{number}\n")
        made.append(snapshot(root, state))
    packs = made[0].git.directory / "objects/pack"
    assert len(list(packs.glob("*.pack"))) <= 5
    assert all(each.git.has(each.commit) for each in made), "all of them are of this hour"
    assert len(list((made[0].git.directory / "refs/flakes").iterdir())) <= 8
    made[-1].git.run("fsck", "--strict")
    assert (forgotten.exists(), used.exists()) == (False, True)
