"""`flakes run`, `diff`, `apply` and `publish` with a real repository, against a real server.

What a task would do is done here with the same functions a sandbox has: checked out, changed, collected, packed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.caller import Api, name
from api.peer import SandboxPeer, adapter, sandbox
from api.plane import Server
from flakes.cli.main import run_cli
from flakes.wire.sandbox_stream import Assignment
from flakes.workspace.checkout import check_out, collect
from flakes.workspace.commits import tree_of
from flakes.workspace.git import Git
from flakes.workspace.packs import pack, take_in
from workspace.theirs import fingerprint, git, repository, write

Edit = Callable[[Path], None]


class Machine:
    """A sandbox's side of files: what comes with an offer, and what is stored of it."""

    def __init__(self, api: Api, peer: SandboxPeer, token: str, scratch: Path) -> None:
        self.api = api.as_(token)
        self.base = f"/v1/sandboxes/{peer.sandbox_id}"
        self.scratch = scratch
        self.git = Git.at(scratch / "objects.git")

    def work(self, given: Assignment, edit: Edit) -> str:
        """Do `edit` in the files of the offer, and store what changed; the handle's id."""
        assert given.workspace is not None
        handle = given.workspace.handle
        place = self.scratch / f"{given.assignment_id}-{len(list(self.scratch.iterdir()))}"
        for each in handle.packs:
            content = self.api.get(f"{self.base}/packs/{each.digest}").content
            place.with_suffix(".pack").write_bytes(content)
            take_in(self.git, place.with_suffix(".pack"))
        index = place.with_suffix(".index")
        check_out(self.git, handle.commit, place, index)
        edit(place)
        made = collect(self.git, handle.commit, place, index, subject="Work", trailers={})
        assert made is not None
        size = pack(self.git, made, without=[handle.commit], to=self.scratch / "new.pack")
        content = (self.scratch / "new.pack").read_bytes()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.api.call("PUT", f"{self.base}/packs/{digest}", content=content).ok(201)
        packs = [{"digest": p.digest, "sizeBytes": p.size_bytes} for p in handle.packs]
        body = {
            "commit": made, "tree": tree_of(self.git, made), "kind": "candidate", "changeCount": 1,
            "baseWorkspaceId": handle.workspace_id, "packs": [*packs, {"digest": digest, "sizeBytes": size}],
        }  # fmt: skip
        path = f"{self.base}/assignments/{given.assignment_id}/workspaces"
        return self.api.post(path, body).ok(201)["workspaceId"]


@pytest.fixture
def api(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Api:
    api = server.account()
    assert api.token is not None
    monkeypatch.setenv("FLAKES_SERVER", api.url)
    monkeypatch.setenv("FLAKES_TOKEN", api.token)
    monkeypatch.setenv("FLAKES_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    return api


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = repository(tmp_path / "theirs", a_txt="one\ntwo\n", src__b_py="b = 1\n", gone_txt="x\n")
    monkeypatch.chdir(root)
    return root


def flakes(*words: str, code: int = 0) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    assert run_cli(list(words), out, err) == code, (out.getvalue(), err.getvalue())
    return out.getvalue(), err.getvalue()


def said(*words: str) -> Any:
    return json.loads(flakes(*words, "--json")[0])


def begun(own: str, *words: str) -> tuple[str, str]:
    """A run of one task that waits for its sandbox: its key, and what was said of the files."""
    key = name("run")
    _, err = flakes("run", "do it", "--adapter", own, "--key", key, "--detach", *words)
    return key, next(iter(line for line in err.splitlines() if line.startswith("files from")), "")


@pytest.fixture
def machine(api: Api, tmp_path: Path) -> Iterator[Callable[[Edit], str]]:
    """Begins a run in the current directory and does the work of its task; the run's key."""
    own, who = adapter(), api.sandbox()
    with sandbox(api, who, adapters=[own]) as peer:
        there = Machine(api, peer, who[1], tmp_path / "machine")

        def work(edit: Edit) -> str:
            key, _ = begun(own)
            given = peer.start()
            there.work(given, edit)
            peer.finish(given.assignment_id)
            return key

        yield work


def edit(root: Path) -> None:
    write(root, a_txt="one\nTWO\n", new__c_txt="c\n")
    (root / "gone.txt").unlink()
    (root / "data.bin").write_bytes(bytes(range(256)))


def test_a_run_takes_the_files_and_sends_only_what_changed(api: Api, theirs: Path) -> None:
    before = fingerprint(theirs)
    _, first = begun("nobody")
    assert "3 files" in first
    assert "uploaded" in first
    _, again = begun("nobody")
    assert again.endswith("3 files, unchanged, nothing to upload")
    assert fingerprint(theirs) == before
    write(theirs, a_txt="other\n")
    key, third = begun("nobody")
    assert "3 files, 1 changed," in third
    run = api.get(f"/v1/runs/{key}").ok()
    assert len(api.get(f"/v1/workspaces/{run['workspaceId']}").ok()["packs"]) == 2
    key, nothing = begun("nobody", "--no-workspace")
    assert (nothing, api.get(f"/v1/runs/{key}").ok().get("workspaceId")) == ("", None)
    assert "began without files" in flakes("diff", key, code=2)[1]


def test_a_server_that_forgot_gets_everything_again(api: Api, server: Server, theirs: Path) -> None:
    begun("nobody")
    with server.connect() as conn:
        owner = api.get("/v1/me").ok()["userId"]
        conn.execute("delete from workspaces where owner_id = %s", [owner])
    key, line = begun("nobody")
    assert "uploaded" in line
    assert api.get(f"/v1/runs/{key}").ok()["workspaceId"]


def test_what_is_no_repository(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tmp_path / "plain"
    write(plain, a_txt="a")
    monkeypatch.chdir(plain)
    assert "1 file," in begun("nobody")[1], "small ones are taken"
    (plain / "large").write_bytes(bytes(17 * 1024**2))
    assert begun("nobody")[1] == ""
    assert "2 files" in begun("nobody", "--workspace", ".")[1], "unless they are named"
    (plain / "large").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert begun("nobody")[1] == "", "without git a run needs no files"
    refused = flakes("run", "x", "--adapter", "nobody", "--workspace", ".", "--json", code=2)[1]
    assert json.loads(refused)["error"] == "git_missing"
    assert "--no-workspace" in json.loads(refused)["fix"]


def test_diff_and_apply(theirs: Path, machine: Callable[[Edit], str]) -> None:
    write(theirs, a_txt="one\ntwo\nnot committed\n", local_txt="mine\n")
    key = machine(lambda root: write(root, a_txt="one\nTWO\nnot committed\n", new__c_txt="c\n"))
    before = fingerprint(theirs)
    assert flakes("diff", key, "--name-only")[0] == "a.txt\nnew/c.txt\n"
    assert "2 files, +2 -1" in flakes("diff", f"{key}/task", "--stat")[0]
    patch = flakes("diff", key)[0]
    assert "-two\n+TWO\n" in patch
    facts = said("diff", key)
    assert [(f["path"], f["kind"], f["addedLines"]) for f in facts["files"]] == [
        ("a.txt", "changed", 1), ("new/c.txt", "added", 1),
    ]  # fmt: skip
    assert fingerprint(theirs) == before
    write(theirs, local_txt="mine, later\n")
    assert flakes("apply", key)[0] == "M a.txt\nA new/c.txt\n"
    assert (theirs / "a.txt").read_text() == "one\nTWO\nnot committed\n"
    assert (theirs / "local.txt").read_text() == "mine, later\n"
    assert "everything is here already" in flakes("apply", key)[1]
    assert git(theirs, "diff", "--cached", "--name-only") == ""


def test_the_end_of_a_run_says_where_the_changes_are(
    theirs: Path, machine: Callable[[Edit], str]
) -> None:
    key = machine(edit)
    assert f"changed files: flakes diff {key}" in flakes("watch", key)[1]


def test_apply_refuses_what_would_be_lost_and_merges_when_told(
    theirs: Path, machine: Callable[[Edit], str]
) -> None:
    write(theirs, a_txt="1\n2\n3\n4\n5\n6\n7\n8\n")
    key = machine(lambda root: write(root, a_txt="1\n2\n3\n4\n5\n6\n7\nEIGHT\n", other_txt="o\n"))
    write(theirs, a_txt="ONE\n2\n3\n4\n5\n6\n7\n8\n")
    before = fingerprint(theirs)
    refused = json.loads(flakes("apply", key, "--json", code=2)[1])
    assert (refused["error"], refused["paths"]) == ("apply_would_overwrite", ["a.txt"])
    assert fingerprint(theirs) == before
    flakes("apply", key, "--3way", "--index")
    assert (theirs / "a.txt").read_text() == "ONE\n2\n3\n4\n5\n6\n7\nEIGHT\n"
    assert git(theirs, "diff", "--cached", "--name-only").split() == ["a.txt", "other.txt"]
    write(theirs, a_txt="1\n2\n3\n4\n5\n6\n7\nacht\n")
    assert "a.txt  conflict" in flakes("apply", key, "--3way", code=2)[0]
    assert "<<<<<<<" in (theirs / "a.txt").read_text()


def test_a_branch_leaves_the_checkout_alone(theirs: Path, machine: Callable[[Edit], str]) -> None:
    write(theirs, local_txt="not committed\n")
    key = machine(edit)
    before = {
        path: seen for path, seen in fingerprint(theirs).items() if not path.startswith(".git/")
    }
    head, staged = git(theirs, "rev-parse", "HEAD"), (theirs / ".git/index").read_bytes()
    flakes("apply", key, "--branch", "result")
    after = {
        path: seen for path, seen in fingerprint(theirs).items() if not path.startswith(".git/")
    }
    assert after == before
    assert (theirs / ".git/index").read_bytes() == staged
    assert git(theirs, "rev-parse", "result^") == head
    assert git(theirs, "ls-tree", "-r", "--name-only", "result").split() == [
        "a.txt", "data.bin", "new/c.txt", "src/b.py",
    ]  # fmt: skip
    assert f"Flakes-Run: {key}" in git(theirs, "log", "-1", "--format=%B", "result")
    git(theirs, "fsck", "--strict")
    assert "there already" in flakes("apply", key, "--branch", "result")[0]
    git(theirs, "branch", "mine")
    for taken in ("mine", "main", "-x", "a..b"):
        refused = flakes("apply", key, f"--branch={taken}", code=2)[1]
        assert refused.startswith("error: ")
    git(theirs, "checkout", "--quiet", "result")
    assert "checked out" in flakes("apply", key, "--branch", "result", code=2)[1]


@pytest.mark.parametrize(
    ("forge", "program", "asks"),
    [("gitlab", "glab", "mr create --source-branch"), ("github", "gh", "pr create --head")],
)
def test_publish_pushes_and_never_forces(
    theirs: Path, tmp_path: Path, machine: Callable[[Edit], str], monkeypatch: pytest.MonkeyPatch,
    forge: str, program: str, asks: str,
) -> None:  # fmt: skip
    remote = tmp_path / f"{forge}.git"
    git(tmp_path, "init", "--quiet", "--bare", str(remote))
    key = machine(edit)
    assert "no remote" in flakes("publish", key, code=2)[1]
    git(theirs, "remote", "add", "origin", str(remote))
    hook = theirs / ".git/hooks/pre-push"
    hook.write_text("#!/bin/sh\ntouch hooked\n")
    hook.chmod(0o755)
    programs = tmp_path / "programs"
    write(programs, **{program: "#!/bin/sh\nexit 1\n"})
    (programs / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    told = flakes("publish", key, "--pr")[1]
    assert f"open a pull request: {program} {asks} flakes/{key}" in told, "it did not open one itself"
    (programs / program).write_text('#!/bin/sh\necho "$@" > ../asked\n')
    facts = said("publish", key, "--pr")
    assert (facts["branch"], facts["pullRequestOpened"]) == (f"flakes/{key}", True)
    assert (tmp_path / "asked").read_text().startswith(f"{asks} flakes/{key} --title ")
    words = git(remote, "log", "-1", "--format=%B", f"flakes/{key}").splitlines()
    assert f"Flakes-Run: {key}" in words
    assert f"Flakes-Workspace: {facts['workspaceId']}" in words
    assert any(word.startswith("Flakes-Run-Id: run_") for word in words)
    assert git(remote, "rev-parse", f"flakes/{key}") == facts["branchCommit"]
    assert not (theirs / "hooked").exists()
    assert said("publish", key)["branchCommit"] == facts["branchCommit"], "again"
    other = repository(tmp_path / "other", z_txt="z")
    git(other, "push", "--quiet", str(remote), "HEAD:refs/heads/taken")
    there = git(remote, "rev-parse", "taken")
    refused = json.loads(flakes("publish", key, "--branch", "taken", "--json", code=2)[1])
    assert refused["error"] == "publish_refused"
    assert git(remote, "rev-parse", "taken") == there


def test_what_several_tasks_changed_is_the_run_s_as_soon_as_it_is_brought_in(
    api: Api, theirs: Path, tmp_path: Path
) -> None:
    own, who = adapter(), api.sandbox()
    plan = tmp_path / "plan.md"
    plan.write_text(f"+++\nadapter = '{own}'\n+++\n## a: A\n\nDo.\n\n## b: B\n\nDo.\n")
    key = name("run")
    flakes("run", str(plan), "--key", key, "--detach")
    with sandbox(api, who, adapters=[own]) as peer:
        there = Machine(api, peer, who[1], tmp_path / "machine")
        for _ in range(2):
            given = peer.start()
            file = f"{given.task_key}_txt"
            there.work(given, lambda root, file=file: write(root, **{file: "changed\n"}))
            if given.task_key == "b":
                there.work(given, lambda root: write(root, more_txt="another part\n"))
            peer.finish(given.assignment_id)
    assert flakes("diff", f"{key}/b", "--name-only")[0] == "b.txt\nmore.txt\n", "both parts"
    flakes("apply", f"{key}/b", "--branch", "of-b")
    assert git(theirs, "diff", "--name-only", "HEAD", "of-b").split() == ["b.txt", "more.txt"]
    assert flakes("diff", key, "--name-only")[0].splitlines()[0] == "a.txt"


def test_what_earlier_attempts_failed_and_cancelled_ones_left_is_taken_too(
    api: Api, theirs: Path, tmp_path: Path
) -> None:
    own, who = adapter(), api.sandbox()
    with sandbox(api, who, adapters=[own]) as peer:
        there = Machine(api, peer, who[1], tmp_path / "machine")
        key, _ = begun(own)
        given = peer.start()
        part = there.work(given, lambda root: write(root, part_txt="p\n"))
        first = there.work(given, lambda root: write(root, one_txt="1\n", part_txt="p\n"))
        peer.finish(given.assignment_id, "failed")
        assert flakes("diff", f"{key}/task", "--name-only")[0] == "one.txt\npart.txt\n", "of a failed one"
        api.post(f"/v1/tasks/{given.task_id}/retry").ok()
        again = peer.start()
        second = there.work(again, lambda root: write(root, two_txt="2\n"))
        api.post(f"/v1/tasks/{given.task_id}/cancel", {}).ok(202)
        peer.finish(again.assignment_id, "cancelled")
    out, err = flakes("diff", f"{key}/task", "--name-only")
    assert out == "two.txt\n", "of a cancelled one, and the last"
    assert f"{first} (attempt 1)" in err
    assert f"{part} (attempt 1)" in err
    assert flakes("diff", key, "--name-only")[0] == "two.txt\n"
    assert said("diff", f"{key}/task")["others"][0]["workspaceId"] == first
    assert flakes("diff", f"{key}/task", "--attempt", "1", "--name-only")[0] == "one.txt\npart.txt\n"
    assert flakes("diff", key, "--candidate", part, "--name-only")[0] == "part.txt\n"
    assert f"{second} (attempt 2)" in flakes("diff", key, "--candidate", part)[1]
    refused = flakes("diff", f"{key}/task", "--attempt", "9", code=2)[1]
    assert "left nothing as attempt 9" in refused
    assert f"{first} (attempt 1)" in refused
    assert "--attempt is about one task" in flakes("diff", key, "--attempt", "1", code=2)[1]
    began = api.get(f"/v1/runs/{key}").ok()["workspaceId"]
    assert "not what a task of the run" in flakes("diff", key, "--candidate", began, code=2)[1]
    assert flakes("apply", f"{key}/task", "--candidate", first)[0] == "A one.txt\nA part.txt\n"
    assert not (theirs / "two.txt").exists()


def _link_on_the_way(root: Path) -> None:
    (root / "elsewhere").mkdir()
    (root / ".git/info/exclude").write_text("new\nelsewhere\n")
    (root / "new").symlink_to("elsewhere")


REFUSALS = {
    "changed here since": (lambda root: write(root, a_txt="mine\n"), [], "apply_would_overwrite"),
    "new here too": (lambda root: write(root, data_bin="mine\n"), [], "apply_would_overwrite"),
    "a directory in its place": (lambda root: write(root, data_bin__x="x"), [], "apply_would_overwrite"),
    "behind a link": (_link_on_the_way, [], "workspace_path_refused"),
    "a branch of somebody": (lambda root: git(root, "branch", "theirs"), ["--branch", "theirs"], "apply_would_overwrite"),
    "what is checked out": (lambda root: None, ["--branch", "main"], "apply_would_overwrite"),
    "no name for a branch": (lambda root: None, ["--branch", "a..b"], "workspace_none"),
    "a history without its beginning": (
        lambda root: [shutil.rmtree(root / ".git"), git(root, "init", "--quiet")], ["--branch", "b"], "workspace_unrelated",
    ),
    "no repository": (lambda root: shutil.rmtree(root / ".git"), ["--branch", "b"], "workspace_none"),
    "no such run": (lambda root: None, ["--run", "none"], "not_found"),
    "no such task": (lambda root: None, ["--run", "KEY/none"], "not_found"),
    "no git": (lambda root: None, ["--path", "nowhere"], "git_missing"),
}  # fmt: skip


def test_what_apply_refuses_says_why_and_what_to_do_and_changes_nothing(
    theirs: Path, tmp_path: Path, machine: Callable[[Edit], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = machine(edit)
    for name_, (prepare, words, code) in REFUSALS.items():
        place = tmp_path / name_
        shutil.copytree(theirs, place, symlinks=True)
        prepare(place)
        monkeypatch.chdir(place)
        given, asked = list(words), key
        with monkeypatch.context() as patched:
            if given[:1] == ["--run"]:
                asked, given = given[1].replace("KEY", key), []
            elif given[:1] == ["--path"]:
                patched.setenv("PATH", str(tmp_path / "nowhere"))
                given = []
            before = fingerprint(place)
            refused = json.loads(flakes("apply", asked, *given, "--json", code=2)[1])
        assert refused["error"] == code, (name_, refused)
        assert refused["message"], name_
        assert refused["fix"], name_
        after = fingerprint(place)
        assert {k: v for k, v in after.items() if "/objects/" not in k} == {
            k: v for k, v in before.items() if "/objects/" not in k
        }, name_


TRAPS = """\
[core]
	fsmonitor = {trap}
	hooksPath = {hooks}
	sshCommand = {trap}
	editor = {trap}
	pager = {trap}
	attributesFile = {attributes}
[filter "evil"]
	clean = {trap}
	smudge = {trap}
	process = {trap}
	required = true
[diff "evil"]
	command = {trap}
	textconv = {trap}
[diff]
	external = {trap}
[merge "evil"]
	driver = {trap}
[credential]
	helper = {trap}
[gpg]
	program = {trap}
[commit]
	gpgSign = true
[submodule "inner"]
	url = ext::{trap}
	update = !{trap}
[alias]
	rev-parse = !{trap}
"""
ODD = [
    "-rf",
    "--",
    "new\nline",
    'quo"te',
    "tab\there",
    "back\\slash",
    " space ",
    "ünïcode",
    "$(touch x)",
    ":(top)x",
    "b\udce9ytes",
]


def test_a_hostile_repository_executes_nothing_and_breaks_nothing(
    theirs: Path, tmp_path: Path, machine: Callable[[Edit], str]
) -> None:
    sprung = tmp_path / "sprung"
    trap, hooks, attributes = tmp_path / "trap", tmp_path / "hooks", tmp_path / "attributes"
    trap.write_text(f'#!/bin/sh\necho "$0 $*" >> {sprung}\ncat\n')
    trap.chmod(0o755)
    hooks.mkdir()
    for each in (
        "post-checkout",
        "post-index-change",
        "pre-push",
        "reference-transaction",
        "pre-commit",
        "post-commit",
    ):
        (hooks / each).symlink_to(trap)
        (theirs / ".git/hooks" / each).symlink_to(trap)
    attributes.write_text("* filter=evil diff=evil merge=evil\n")
    for odd in ODD:
        (theirs / odd).write_text(f"{odd!r}\n")
    (theirs / ".gitattributes").write_text(
        "* filter=evil diff=evil merge=evil ident text eol=crlf\n"
    )
    (theirs / ".gitmodules").write_text(
        f'[submodule "inner"]\n\tpath = inner\n\turl = ext::{trap}\n'
    )
    git(theirs, "init", "--quiet", "inner")
    git(theirs / "inner", "commit", "--quiet", "--allow-empty", "-m", "inner")
    (theirs / "out").symlink_to("/etc/passwd")
    with (theirs / ".git/config").open("a") as config:
        config.write(TRAPS.format(trap=trap, hooks=hooks, attributes=attributes))
    before = fingerprint(theirs)

    def edit(root: Path) -> None:
        assert not (root / "inner/.git").exists()
        for odd in ODD:
            assert (root / odd).read_text() == f"{odd!r}\n"
            (root / odd).write_text("done\n")
        (root / ".gitattributes").write_text("* filter=evil2\n")

    key = machine(edit)
    assert len(said("diff", key)["files"]) == len(ODD) + 1
    assert b"done" in flakes("diff", key)[0].encode()
    flakes("apply", key, "--branch", "result")
    (theirs / ".git/refs/heads/result").unlink()
    assert {
        k: v for k, v in fingerprint(theirs).items() if "/objects/" not in k and "logs/" not in k
    } == {k: v for k, v in before.items() if "/objects/" not in k and "logs/" not in k}
    flakes("apply", key)
    assert all((theirs / odd).read_text() == "done\n" for odd in ODD)
    assert not sprung.exists(), sprung.read_text()
    with (theirs / "huge").open("wb") as huge:
        huge.truncate(513 * 1024**2)
    refused = json.loads(flakes("run", "x", "--adapter", "nobody", "--json", code=2)[1])
    assert (refused["error"], refused["paths"]) == ("workspace_file_too_large", ["huge"])
