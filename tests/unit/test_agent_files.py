"""Files that an agent had in its hands, and those that it needs: nothing leads the daemon anywhere else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flakes.agents.base import AgentError
from flakes.agents.programs import files_of
from flakes.sandbox.directory import TaskDirectory
from flakes.sandbox.outputs import find
from flakes.sandbox.sessions import Record, Sessions
from flakes.wire.tasks import OutputDeclaration


def test_the_record_of_a_session_is_neither_followed_nor_believed(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "sessions")
    directory = TaskDirectory(tmp_path / "task")
    directory.create("brief")
    directory.session.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    (directory.root / "session.json").symlink_to(victim)
    record = Record(task_id="task_1", adapter="pi", attempt=1, kind="pi", value="s")
    sessions.note(directory, record)
    assert victim.read_text() == "as it was"
    sessions.keep(directory, "task_2")
    assert not (tmp_path / "sessions" / "task_1").exists()
    sessions.keep(directory, "task_1")
    fresh = TaskDirectory(tmp_path / "again")
    fresh.create("brief")
    assert sessions.take("task_1", "pi", fresh) == record


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A directory, and this process as somebody who may not read all of it."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    (directory / "outputs").mkdir(mode=0o755)
    me = os.geteuid()
    yield directory / "outputs"
    os.seteuid(me)
    for path in directory.rglob("*"):
        path.chmod(0o700)
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    directory.rmdir()


def test_an_output_that_cannot_be_read_is_the_tasks_failure(nobody: Path) -> None:
    (nobody / "note").write_text("mine")
    (nobody / "note").chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65_534)
    with pytest.raises(AgentError) as raised:
        find({"note": OutputDeclaration()}, nobody)
    assert raised.value.code == "output_unreadable"
    assert not raised.value.lost
    found, left_out = find({"note": OutputDeclaration(required=False)}, nobody)
    assert not found
    assert [each.code for each in left_out] == ["output_unreadable"]


def test_what_an_agent_needs_to_start(tmp_path: Path) -> None:
    """Its package whole, the interpreter of its script, and the names under which they are found."""
    bin_, tree = tmp_path / "bin", tmp_path / "lib" / "node_modules"
    (tree / "pi" / "dist").mkdir(parents=True)
    bin_.mkdir()
    cli = tree / "pi" / "dist" / "cli.js"
    cli.write_text("#!/usr/bin/env -S node --flag\n")
    cli.chmod(0o755)
    (bin_ / "pi").symlink_to(cli)
    node = tmp_path / "node-24"
    node.write_bytes(b"\x7fELF")
    node.chmod(0o755)
    (bin_ / "node").symlink_to(node)
    assert set(files_of(("pi",), str(bin_))) == {
        (tree, tree), (cli, bin_ / "pi"), (node, node), (node, bin_ / "node"),
    }
    assert files_of(("nothing",), str(bin_)) == ()
    assert set(files_of((str(node), str(cli), "--flag"), str(bin_))) >= {(node, node), (tree, tree)}
