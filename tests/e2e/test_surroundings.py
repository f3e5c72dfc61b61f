"""Surroundings that are not as nice: an ordinary user, a full disk."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.stage import CHECKOUT, Stage, until
from flakes.session import processes

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else and to mount"),
]

MIB = 1024 * 1024


@pytest.fixture
def nobody() -> Iterator[tuple[Stage, dict[str, Any]]]:
    """A place of the user nobody, and how to start a process as that user."""
    user = pwd.getpwnam("nobody")
    options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    parent = Path(tempfile.mkdtemp(prefix="flakes-e2e-", dir="/tmp"))
    stage = Stage(parent)
    for path in (parent, stage.home, stage.scratch):
        os.chown(path, user.pw_uid, user.pw_gid)
    if not usable(stage, options):
        # The interpreter may lie in root's own home; the system's of the same version serves as well.
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        stage.command = (f"/usr/bin/{name}", *stage.command[1:])
        paths = [str(CHECKOUT / "src"), sysconfig.get_path("platlib")]
        stage.extra_env = {"PYTHONPATH": os.pathsep.join(paths)}
        if not usable(stage, options):
            shutil.rmtree(parent)
            pytest.skip("no interpreter and checkout that the user nobody can read")
    try:
        yield stage, options
    finally:
        stage.flakes("down", **options)
        left = [found.role for found in processes.of_session(stage.layout.root)]
        shutil.rmtree(parent, ignore_errors=True)
        assert left == []


def usable(stage: Stage, options: dict[str, Any]) -> bool:
    try:
        return stage.flakes("--version", **options).code == 0
    except OSError:
        return False


def test_an_ordinary_user_s_session(nobody: tuple[Stage, dict[str, Any]]) -> None:
    stage, options = nobody
    up = stage.flakes("up", timeout_s=120, **options)
    assert up.code == 0, up.err
    user = pwd.getpwnam("nobody").pw_uid
    found = processes.of_session(stage.layout.root)
    assert {one.role for one in found} >= {"supervisor", "server", "host", "postgresql"}
    for one in found:
        assert os.stat(f"/proc/{one.identity.pid}").st_uid == user, one
    ran = stage.flakes(
        "run", "id -un; touch $HOME/was-here", "--adapter", "command", "--key", "me", **options
    )
    assert ran.code == 0, ran.err
    assert "nobody" in ran.out
    assert (stage.home / "was-here").stat().st_uid == user
    # Private without exception: this user's database runs as the user itself.
    for path in (stage.data_dir, stage.layout.root, stage.layout.postgresql):
        assert path.stat().st_mode & 0o077 == 0, path
    doctor = stage.flakes("doctor", **options)
    assert "Traceback" not in doctor.out + doctor.err
    down = stage.flakes("down", **options)
    assert down.code == 0, down.err
    assert processes.of_session(stage.layout.root) == []


@pytest.fixture
def small_disk() -> Iterator[Stage]:
    """A session's place on a file system of its own that can be filled."""
    parent = Path(tempfile.mkdtemp(prefix="flakes-e2e-", dir="/tmp"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=320m,mode=0711", "flakes-e2e", str(parent)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        parent.rmdir()
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    stage = Stage(parent)
    try:
        yield stage
    finally:
        (parent / "filler").unlink(missing_ok=True)
        stage.flakes("down", timeout_s=120)
        left = stage.of_session()
        subprocess.run(["umount", "-l", str(parent)], check=True)
        parent.rmdir()
        assert left == []


def fill(path: Path) -> None:
    """Write until not a byte more fits."""
    with path.open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def test_a_full_disk_is_one_clear_error_and_costs_nothing(
    small_disk: Stage, tmp_path: Path
) -> None:
    stage = small_disk
    stage.up()
    stage.flakes("run", "echo kept", "--adapter", "command", "--key", "before").ok()
    # Big enough that no room inside of the database's own files can take it.
    body = "a line of a task that is too much for this disk\n" * 4_000
    tasks = "\n".join(f"## t{n}: Task {n}\nrun: true\n\n{body}\n" for n in range(60))
    big = tmp_path / "big.md"
    big.write_text(f'+++\nadapter = "command"\n+++\n# Big\n\n{tasks}')
    begun, go = tmp_path / "begun", tmp_path / "go"
    script = f"touch {begun}; until [ -e {go} ]; do sleep 0.05; done; echo done in the dark"
    during = stage.submit("during", [{"taskKey": "task", "input": {"shell": script}}])
    until(begun.exists, 30, "the task's start")
    filler = stage.data_dir.parent / "filler"
    fill(filler)
    go.touch()
    refused = stage.flakes("run", str(big), "--key", "too-much", "--detach", timeout_s=90)
    assert refused.code == 1, (refused.out, refused.err)
    assert "full" in refused.err, refused.err
    assert "fix" in refused.err.lower() or "space" in refused.err, refused.err
    assert "Traceback" not in refused.err
    assert len(refused.err.strip().splitlines()) <= 4, refused.err

    filler.unlink()
    again = until(
        lambda: ran if (ran := stage.flakes("runs", "list", "--json")).code == 0 else None, 60
    )
    assert [run["runKey"] for run in again.json["runs"]] == ["during", "before"]
    assert stage.wait(during.run_id, 60).state == "SUCCEEDED"
    assert "done in the dark" in stage.flakes("tasks", "result", "during/task").ok().out
    assert "kept" in stage.flakes("tasks", "result", "before/task").ok().out
    after = stage.flakes("run", str(big), "--key", "too-much", timeout_s=90)
    assert after.code == 0, after.err
