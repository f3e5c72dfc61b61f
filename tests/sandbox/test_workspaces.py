"""A task in the files of its run: what it finds, what is stored of it, and that nothing is lost on the way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from flakes.core.task import Outcome
from flakes.wire.sandbox_stream import Assignment, Result
from flakes.wire.workspaces import OwnWorkspace
from flakes.workspace.capture import entries
from sandbox.bwrap import needs_bubblewrap
from sandbox.conftest import Start
from sandbox.controlplane import ControlPlane, DaemonProcess, eventually, make, shell
from sandbox.files import Files
from workspace.theirs import fingerprint


@pytest.fixture
def files(plane: ControlPlane, tmp_path) -> Files:  # type: ignore[no-untyped-def]
    return Files(plane, tmp_path, a_txt="one\ntwo\nthree\n", dir__b_txt="b", _gitignore="*.o\n")


def run(plane: ControlPlane, assignment: Assignment) -> Result:
    plane.offer(assignment)
    return plane.result(assignment.assignment_id)


def test_a_task_works_in_the_files_and_what_it_changed_is_stored(
    plane: ControlPlane, daemon: DaemonProcess, files: Files
) -> None:
    before = fingerprint(files.root)
    line = """
        test "$PWD" = "$FLAKES_WORKSPACE" && test -z "$(git status --porcelain)" && git log -1 --format=%s
        echo 1 > a.txt && rm dir/b.txt && mkdir new && echo n > new/n.txt && echo o > x.o
        git checkout -q -b mine && git add -A && git commit -qm "in the task" && git status --porcelain
    """
    assignment = files.task(line)
    result = run(plane, assignment)
    assert (result.outcome, result.warnings) == (Outcome.SUCCEEDED, [])
    assert plane.text(assignment.assignment_id) == ["Files as they were"]
    assert files.stored(assignment) == {
        "candidate": [("changed", "a.txt"), ("removed", "dir/b.txt"), ("added", "new/n.txt")]
    }
    assert files.text(assignment, "a.txt") == "1\n"
    ((post, _),) = plane.stored[assignment.assignment_id]
    assert post.base_workspace_id == files.base.workspace_id
    assert fingerprint(files.root) == before
    fetched = len(plane.fetched)
    again = files.task("true")
    assert run(plane, again).outcome is Outcome.SUCCEEDED
    assert files.stored(again) == {}, "nothing was changed"
    assert len(plane.fetched) == fetched, "packs are fetched once"
    eventually(
        lambda: not list((daemon.state_dir / "workspaces").iterdir()), "nothing to be left beside the tasks"
    )  # fmt: skip


def test_declared_paths_are_outputs_and_the_rest_is_a_candidate(
    plane: ControlPlane, files: Files
) -> None:
    declared = {
        "code": {"kind": "workspace", "paths": ["dir", "a.txt"]},
        "maybe": {"kind": "workspace", "paths": ["nothing/"], "required": False},
        "note": {},
    }
    line = 'echo 1 > a.txt; echo c > dir/c; echo s > stray; echo note > "$FLAKES_OUTPUTS/note"'
    assignment = files.task(line, declaredOutputs=declared)
    result = run(plane, assignment)
    assert result.outcome is Outcome.SUCCEEDED
    assert sorted(result.outputs) == ["code", "note"]
    assert [(w.code, w.output) for w in result.warnings] == [("output_missing", "maybe")]
    assert files.stored(assignment) == {
        "output": [("changed", "a.txt"), ("added", "dir/c")], "candidate": [("added", "stray")],
    }  # fmt: skip
    output = result.outputs["code"]
    assert (output.kind, output.text is not None) == ("workspace", True)
    told = msgspec.json.decode(output.text or "")
    ((post, handle), _) = plane.stored[assignment.assignment_id]
    assert (told["workspaceId"], told["commit"]) == (handle.workspace_id, post.commit)
    assert [(s.kind, s.path) for s in post.paths or []] == [("prefix", "dir"), ("exact", "a.txt")]


@pytest.mark.parametrize("how", ["failed", "timed out", "cancelled", "without its output", "unverified"])
def test_what_a_task_changed_is_kept_however_it_ended(
    plane: ControlPlane, files: Files, how: str
) -> None:
    line = "echo changed > a.txt; echo up; "
    more = {
        "failed": (line + "exit 3", {}),
        "timed out": (line + "sleep 600", {"timeoutS": 6}),
        "cancelled": (line + "sleep 600", {}),
        "without its output": (line, {"declaredOutputs": {"note": {}}}),
        "unverified": (line, {"verify": ["false"]}),
    }[how]
    assignment = files.task(more[0], **more[1])
    plane.offer(assignment)
    plane.wait(lambda: plane.lines.get(assignment.assignment_id), "the change")
    if how == "cancelled":
        plane.cancel(assignment.assignment_id)
    expected = Outcome.CANCELLED if how == "cancelled" else Outcome.FAILED
    assert plane.result(assignment.assignment_id).outcome is expected
    assert files.stored(assignment) == {"candidate": [("changed", "a.txt")]}


def test_what_several_dependencies_left_is_merged_in_order(
    plane: ControlPlane, files: Files
) -> None:
    first, second = files.after(a_txt="1\ntwo\nthree\n"), files.after(a_txt="one\ntwo\n3\n")
    third = files.after(dir__b_txt="B")
    assignment = files.task("cat a.txt dir/b.txt; echo more >> dir/b.txt", first, second, third)
    assert run(plane, assignment).outcome is Outcome.SUCCEEDED
    assert plane.text(assignment.assignment_id) == ["1", "two", "3", "B"]
    assert files.stored(assignment) == {"candidate": [("changed", "dir/b.txt")]}
    assert files.text(assignment, "a.txt") == "1\ntwo\n3\n"


def test_a_conflict_of_dependencies_fails_the_task_by_name(
    plane: ControlPlane, files: Files
) -> None:
    first, second = files.after(a_txt="1\n"), files.after(a_txt="2\n")
    result = run(plane, files.task("true", first, second))
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.code == "workspace_conflict"
    assert (result.error.details or {})["paths"] == ["a.txt"]
    assert "a.txt" in result.error.message


def test_what_may_not_leave_is_a_warning_or_fails_a_required_output(
    plane: ControlPlane, files: Files
) -> None:
    line = "ln -s /etc/passwd dir/out; mkfifo pipe; echo ok > dir/ok"
    kept = files.task(line)
    result = run(plane, kept)
    assert result.outcome is Outcome.SUCCEEDED
    (warning,) = result.warnings
    assert warning.code == "workspace_path_refused"
    assert "'dir/out'" in warning.message
    assert "'pipe'" in warning.message
    assert files.stored(kept) == {"candidate": [("added", "dir/ok")]}
    refused = files.task(line, declaredOutputs={"code": {"kind": "workspace", "paths": ["dir"]}})
    result = run(plane, refused)
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.code == "workspace_path_refused"
    assert (result.error.details or {})["paths"] == ["dir/out"]
    assert files.stored(refused) == {"candidate": [("added", "dir/ok")]}


def test_further_files_are_mounted_beside_and_work_may_be_chosen(
    plane: ControlPlane, files: Files
) -> None:
    other = files.after(a_txt="other\n")
    line = "cat a.txt ../reference/a.txt; echo x > ../reference/a.txt"
    assignment = make(shell(line), workspace_inputs={"reference": other, "work": files.base})
    assert run(plane, assignment).outcome is Outcome.SUCCEEDED
    assert plane.text(assignment.assignment_id) == ["one", "two", "three", "other"]
    assert files.stored(assignment) == {}
    outside = make(shell("true"), workspace_inputs={"../up": other, "work": files.base})
    result = run(plane, outside)
    assert result.error is not None
    assert result.error.code == "workspace_path_refused"


def test_without_files_a_workspace_output_is_refused(plane: ControlPlane) -> None:
    result = plane.run(shell("true", declaredOutputs={"code": {"kind": "workspace"}}))
    assert result.error is not None
    assert result.error.code == "output_unsupported"


@needs_bubblewrap
def test_under_bubblewrap_too(own: Start, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """With a task that puts links to what the daemon keeps in the way of whoever stores its files for it."""
    plane, _ = own(isolation={"kind": "bubblewrap"})
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.txt").write_text("only the daemon may read this\n")
    files = Files(plane, tmp_path, dir__a_txt="a\n", b_txt="b\n")
    assignment = files.task(f"""
        git status --porcelain; ls ../../..; echo b > dir/a.txt; flakes workspace diff --name-only
        cp -r dir real; ln -s {secret} link; ln -s /etc/passwd out; mkfifo pipe
        flakes workspace commit; echo $?; rm link out pipe; flakes workspace commit > first || exit 3
        (while true; do rm -rf dir; cp -r real dir; echo $RANDOM > dir/a.txt; rm -rf dir; ln -s {secret} dir; done) 2> /dev/null &
        for n in 1 2 3 4 5 6; do flakes workspace commit > said 2>&1; echo $n >> b.txt; done
        kill $!; wait; rm -rf dir; cp -r real dir; rm first said
    """)
    result = run(plane, assignment)
    assert result.outcome is Outcome.SUCCEEDED, plane.text(assignment.assignment_id, "stderr")
    assert plane.text(assignment.assignment_id)[-2:] == ["changed\tdir/a.txt", "2"]
    said = " ".join(plane.text(assignment.assignment_id, "stderr"))
    assert all(name in said for name in ("'link'", "'out'", "'pipe'")), said
    stored = [post for post, _ in plane.stored[assignment.assignment_id]]
    assert len(stored) >= 2
    for post in stored:
        git = files.repository_of(post)
        for each in entries(git, post.commit):
            assert b"only the daemon" not in git.run("cat-file", "blob", each.object_id)
    assert not any("workspaces" in line for line in plane.text(assignment.assignment_id))


def test_a_running_task_stores_and_compares_its_files(plane: ControlPlane, files: Files) -> None:
    line = """
        echo 1 > a.txt && first=$(flakes workspace commit -m half a.txt) && echo "$first"
        echo 2 > dir/b.txt && flakes workspace diff --name-only && flakes workspace diff dir | grep '^+'
    """
    assignment = files.task(line)
    assert run(plane, assignment).outcome is Outcome.SUCCEEDED
    (half, handle), (whole, _) = plane.stored[assignment.assignment_id]
    assert plane.text(assignment.assignment_id) == [
        handle.workspace_id, "changed\ta.txt", "changed\tdir/b.txt", "+++ b/dir/b.txt", "+2",
    ]  # fmt: skip
    assert [change.path for change in half.changes] == ["a.txt"]
    assert (whole.base_workspace_id, len(whole.packs)) == (handle.workspace_id, 3)
    git = files.repository_of(whole)
    assert git.text("rev-parse", f"{whole.commit}^") == half.commit


@pytest.mark.parametrize("after", ["yielded", "lost"])
def test_a_command_goes_on_from_where_it_yielded_and_begins_anew_after_a_loss(
    plane: ControlPlane, files: Files, after: Literal["yielded", "lost"]
) -> None:
    first = files.task("echo 1 > a.txt; rm dir/b.txt; echo n > new; flakes workspace commit -m 'Flakes-Base: x' > id; echo 2 >> a.txt; exit 75")
    assert run(plane, first).outcome is Outcome.RETRYABLE
    half = plane.stored[first.assignment_id][-1][1]
    own = OwnWorkspace(after=after, handle=half, base_workspace_id=files.base.workspace_id)
    again = msgspec.structs.replace(
        files.task("git log -1 --format=%s; git status --porcelain; cat a.txt; echo 3 >> a.txt"), own_workspaces=[own]
    )
    assert run(plane, again).outcome is Outcome.SUCCEEDED
    ((post, _),) = plane.stored[again.assignment_id]
    told = [(change.kind, change.path) for change in post.changes]
    assert post.base_workspace_id == files.base.workspace_id
    if after == "lost":
        assert plane.text(again.assignment_id) == ["Files as they were", "one", "two", "three"]
        assert told == [("changed", "a.txt")]
        return
    assert plane.text(again.assignment_id) == [
        "Files as they were", " M a.txt", " D dir/b.txt", "?? id", "?? new", "1", "2",
    ]  # fmt: skip
    assert told == [("changed", "a.txt"), ("removed", "dir/b.txt"), ("added", "id"), ("added", "new")]
    git = files.repository_of(post)
    assert git.text("rev-parse", f"{post.commit}^") == half.commit, "nothing of it can conflict with that"
    assert git.text("cat-file", "blob", f"{post.commit}:a.txt") == "1\n2\n3"


def test_what_is_put_in_the_place_of_the_files_is_not_read(plane: ControlPlane, files: Files) -> None:
    assignment = files.task("cd .. && mv work aside && ln -s /etc work")
    result = run(plane, assignment)
    assert result.error is not None
    assert result.error.code == "workspace_path_refused"
    assert files.stored(assignment) == {}


def test_what_is_kept_at_hand_is_bounded_and_a_running_task_loses_nothing(own: Start, tmp_path: Path) -> None:
    plane, daemon = own(workspacesBytesMax=40_000)
    files = Files(plane, tmp_path, a_txt="a\n", big_bin=os.urandom(10_000).hex())
    gate = tmp_path / "go"
    first = files.task(
        f"echo up; until test -e {gate}; do sleep 0.05; done; echo b > a.txt; flakes workspace commit; wc -c < big.bin"
    )
    plane.offer(first)
    plane.wait(lambda: plane.lines.get(first.assignment_id), "its start", 30.0)
    others = [files.after(big_bin=os.urandom(10_000).hex()) for _ in range(6)]
    for other in others:
        assert run(plane, files.task("test $(wc -c < big.bin) = 20000", other)).outcome is Outcome.SUCCEEDED
    kept = [path for path in (daemon.state_dir / "packs").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in kept) <= 40_000
    assert len(plane.fetched) == len({*plane.fetched}) == 7, "what all of them need was fetched once"
    assert run(plane, files.task("true", others[0])).outcome is Outcome.SUCCEEDED
    assert len(plane.fetched) == 8, "what had to go is fetched again"
    gate.touch()
    result = plane.result(first.assignment_id)
    assert (result.outcome, plane.text(first.assignment_id)[-1]) == (Outcome.SUCCEEDED, "20000")
    files.repository_of(plane.stored[first.assignment_id][-1][0])  # which looks whether it is whole
