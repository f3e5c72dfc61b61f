"""A repository, and a task, that want programs of theirs to be run by whoever looks at their files: nobody does."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from e2e.stage import Stage
from workspace.theirs import fingerprint, git, repository, write

pytestmark = pytest.mark.timeout(240)

HOOKS = (
    "pre-commit", "post-commit", "post-checkout", "post-index-change", "reference-transaction", "post-merge", "pre-push",
    "pre-applypatch", "post-rewrite", "fsmonitor-watchman", "pre-auto-gc", "prepare-commit-msg", "commit-msg",
)  # fmt: skip
CONFIG = """
[core]
	fsmonitor = {ran}fsmonitor
	sshCommand = {ran}ssh
	pager = {ran}pager
	editor = {ran}editor
	askPass = {ran}askpass
	alternateRefsCommand = {ran}alternates
	attributesFile = {root}/.gitattributes
	untrackedCache = true
[diff]
	external = {ran}external-diff
[filter "evil"]
	clean = {ran}clean
	smudge = {ran}smudge
	process = {ran}process
	required = true
[diff "evil"]
	textconv = {ran}textconv
	command = {ran}diff
[merge "evil"]
	driver = {ran}merge
[credential]
	helper = !{ran}credential
[gpg]
	program = {ran}gpg
[commit]
	gpgSign = true
[uploadpack]
	packObjectsHook = {ran}pack
[submodule "inner"]
	update = !{ran}submodule
	url = ext::{ran}ext
[remote "origin"]
	url = ext::{ran}origin
	promisor = true
	fetch = +refs/heads/*:refs/remotes/origin/*
[extensions]
	partialClone = origin
[protocol]
	allow = always
[alias]
	add = !{ran}alias
	ls-files = !{ran}alias
[trailer]
	command = {ran}trailer
[interactive]
	diffFilter = {ran}interactive
"""
ATTRIBUTES = "* filter=evil diff=evil merge=evil ident\n*.txt text eol=crlf working-tree-encoding=UTF-16\n"
MODULES = '[submodule "inner"]\n\tpath = inner\n\turl = -u./payload\n\tupdate = !touch x\n[submodule "../../x"]\n\tpath = -x\n'


class Trap:
    """A program that notes that it ran, and as what."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self.ran = place / "ran"
        self.program = place / "run"
        self.program.write_text(f'#!/bin/sh\necho "$0 $@" >> {self.ran}\ncat\n')
        self.program.chmod(0o755)

    def set(self, root: Path) -> None:
        """Everywhere in a repository where git looks for programs."""
        for name in HOOKS:
            hook = root / ".git" / "hooks" / name
            hook.parent.mkdir(exist_ok=True)
            hook.unlink(missing_ok=True)
            hook.symlink_to(self.program)
        with (root / ".git" / "config").open("a") as config:
            config.write(CONFIG.format(ran=f"{self.program} ", root=root))


def test_a_hostile_repository_goes_through_a_run_and_back_and_nothing_of_it_runs(session: Stage) -> None:
    trap = Trap(session.scratch / "trap")
    root = repository(session.scratch / "hostile", a_txt="a\n", b_txt="b\n")
    inner = repository(root / "inner", x_txt="x")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "with one inside")
    write(root, _gitattributes=ATTRIBUTES, _gitmodules=MODULES, a_txt="changed $Id$\r\n", A_TXT="another\n")
    odd = [b"new\nline", b'quo"te\'s', b"\xff\xfe bytes", b"-rf", b"--help", b":(glob)*", b" blank ", b"tab\t", b"back\\slash"]
    for name in odd:
        (root / os.fsdecode(name)).write_bytes(b"odd\n")
    os.symlink("/etc/passwd", root / "out")
    os.symlink("../../..", root / "up")
    os.mkfifo(root / "pipe")
    if os.geteuid() == 0:
        os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    (root / "empty").mkdir()
    git(root / "empty", "init", "--quiet")
    for place in (root, inner, root / "empty"):
        trap.set(place)
    large = root / "large.bin"
    with large.open("wb") as file:
        file.truncate(600 * 2**20)
    refused = session.flakes("run", "true", "--adapter", "command", "--key", "large", cwd=root)
    assert refused.code == 2, refused.err
    assert "'large.bin'" in refused.err
    assert ".gitignore" in refused.err
    large.unlink()

    before = fingerprint(root)
    listed = "find . -path ./.git -prune -o ! -type d -print0 | sort -z | od -An -v -tx1 | tr -d ' \\n'"
    line = f"{listed}; echo; cat a.txt; cat ./-rf; printf 'made\\n' > ./-made; rm b.txt"
    ran = session.flakes("run", line, "--adapter", "command", "--key", "hostile", cwd=root, timeout_s=90)
    assert ran.code == 0, ran.err
    assert "'inner'" in ran.err
    assert "'empty'" in ran.err
    said = session.flakes("logs", "hostile/task", "--channel", "stdout").ok().out.splitlines()
    names = {b"a.txt", b"b.txt", b"A.TXT", b"out", b"up", b".gitattributes", b".gitmodules", *odd}
    assert {each for each in bytes.fromhex(said[0]).split(b"\0") if each} == {b"./" + name for name in names}
    assert [each for each in said[1:] if each] == ["changed $Id$", "odd"], "as they lie on disk"
    for command in (("diff", "hostile"), ("diff", "hostile", "--stat"), ("diff", "hostile", "--json")):
        session.flakes(*command, cwd=root, errors="replace").ok()
    assert fingerprint(root) == before
    session.flakes("apply", "hostile", cwd=root).ok()
    session.flakes("apply", "hostile", "--branch", "from/run", cwd=root).ok()
    assert (root / "-made").read_text() == "made\n"
    assert not (root / "b.txt").exists()
    assert not trap.ran.exists(), trap.ran.read_text()


TASK = r"""
set -e
for name in {hooks}; do ln -sf {program} .git/hooks/$name 2>/dev/null || {{ mkdir -p .git/hooks; ln -sf {program} .git/hooks/$name; }}; done
cat {config} >> .git/config
cp {attributes} .gitattributes; cp {modules} .gitmodules; cp {attributes} .git/info/attributes
mkdir -p sub/.git/hooks .GIT/hooks deep/inner deep/git~1; cp .git/config sub/.git/config; cp .git/config .GIT/config
echo 'ref: refs/heads/x' > sub/.git/HEAD; mkdir sub/.git/objects sub/.git/refs; echo x > sub/file
echo "gitdir: {place}" > deep/inner/.git; echo x > deep/inner/file; echo x > deep/git~1/config
ln -s /etc/passwd out; ln -s ../../../.. up; ln -s .git/config inside; mkfifo pipe; mkdir -p dir; mkfifo dir/.gitignore dir/.gitattributes
printf x > "$(printf 'new\nline')"; printf x > "$(printf '\377')"; printf x > ./--upload-pack=touch
echo changed > a.txt; echo more > b.txt
export GIT_DIR=/nowhere GIT_EXTERNAL_DIFF={program} GIT_SSH_COMMAND={program} GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=core.fsmonitor GIT_CONFIG_VALUE_0={program}
"""


def test_a_hostile_task_makes_nobody_run_anything(session: Stage) -> None:
    trap = Trap(session.scratch / "trap-of-task")
    place = session.scratch / "things"
    place.mkdir()
    write(place, attributes=ATTRIBUTES, modules=MODULES, config=CONFIG.format(ran=f"{trap.program} ", root="."))
    line = TASK.format(
        hooks=" ".join(HOOKS), program=trap.program, place=place, config=place / "config",
        attributes=place / "attributes", modules=place / "modules",
    )  # fmt: skip
    root = repository(session.scratch / "mine", a_txt="a\n", b_txt="1\n2\n")
    before = fingerprint(root)
    ran = session.flakes("run", line, "--adapter", "command", "--key", "task", cwd=root, timeout_s=120)
    assert ran.code == 0, ran.err
    task = session.flakes("tasks", "result", "task/task", "--json").ok().out
    assert "workspace_path_refused" in task
    found = session.flakes("diff", "task", "--json", cwd=root).ok().json
    paths = {each["path"] for each in found["files"]}
    assert {"a.txt", "b.txt", ".gitattributes", ".gitmodules", "new\nline", "\\xff"} <= paths, paths
    unfit = ("sub", ".GIT", "deep/inner", "deep/git~1", "out", "up", "inside", "pipe", "dir/")
    assert not [path for path in paths if path.startswith(unfit)], paths
    session.flakes("diff", "task", cwd=root, errors="replace").ok()
    assert fingerprint(root) == before
    session.flakes("apply", "task", cwd=root).ok()
    session.flakes("apply", "task", "--branch", "from/task", cwd=root).ok()
    assert (root / "a.txt").read_text() == "changed\n"
    # The user's own git afterwards: attributes name drivers that nobody has defined here.
    done = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, timeout=60, check=True)
    assert " M a.txt" in done.stdout
    assert {path: v for path, v in fingerprint(root).items() if path.startswith((".git/hooks", ".git/config"))} == {
        path: v for path, v in before.items() if path.startswith((".git/hooks", ".git/config"))
    }
    assert not trap.ran.exists(), trap.ran.read_text()
