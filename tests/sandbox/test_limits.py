"""Limits of a task: what is enforced is enforced, and what is not is said."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded_servers import wait_until
from flakes.core.task import Outcome
from flakes.sandbox.limits import PREFIX, Limiter
from flakes.wire.config import Isolation
from sandbox.bwrap import needs_bubblewrap
from sandbox.conftest import Start
from sandbox.controlplane import (
    SANDBOX_ID,
    ControlPlane,
    DaemonProcess,
    eventually,
    living,
    make,
    shell,
)

LIMITED = Isolation(memory_mb=96, cpus=0.5, processes=24)
DEGREE, REASON = Limiter(LIMITED, "probe").describe()
needs_groups = pytest.mark.skipif(DEGREE != "enforced", reason=f"no control groups: {REASON}")


def groups(sandbox_id: str = SANDBOX_ID) -> list[Path]:
    """Every control group of a daemon's tasks."""
    return [*Path("/sys/fs/cgroup").rglob(f"{PREFIX}{sandbox_id}-*")]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    plane = ControlPlane()
    plane.start()
    isolation = {"kind": "bubblewrap", "memoryMb": 96, "cpus": 0.5, "processes": 24}
    daemon = DaemonProcess(plane, tmp_path_factory.mktemp("sandbox"), isolation)
    daemon.start()
    yield plane
    assert daemon.terminate() == 0
    plane.stop()
    # Another worker's daemon of the same name may have groups of its own for a moment.
    wait_until(lambda: groups() == [], 30)


@needs_bubblewrap
@needs_groups
def test_memory_is_bounded_for_the_task_as_a_whole(plane: ControlPlane) -> None:
    """By processes that each stay below the limit too."""
    program = "import time; x = bytearray(60 << 20); time.sleep(60)"
    line = f"python3 -c '{program}' & python3 -c '{program}' & wait -n; echo over"
    assignment = make({"input": {"argv": ["bash", "-c", line]}})
    plane.offer(assignment)
    result = plane.result(assignment.assignment_id)
    assert "over" in result.text
    said = plane.text(assignment.assignment_id, "system")
    assert "the memory limit of 96 MiB was reached" in said[-1]
    alone = plane.run({"input": {"argv": ["python3", "-c", "x = bytearray(200 << 20)"]}})
    assert (alone.outcome, alone.error.code) == (Outcome.FAILED, "killed_by_signal")


@needs_bubblewrap
@needs_groups
def test_processes_are_bounded(plane: ControlPlane) -> None:
    result = plane.run(shell("for i in $(seq 60); do sleep 5 & done; echo all of them"))
    assert result.outcome is Outcome.FAILED
    assert "all of them" not in result.text


@needs_bubblewrap
@needs_groups
def test_processors_are_bounded(plane: ControlPlane) -> None:
    program = """
import os, time
children = []
for _ in range(2):
    if os.fork() == 0:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            pass
        os._exit(0)
for _ in range(2):
    os.wait()
times = os.times()
print(times.children_user + times.children_system)
"""
    spent_s = float(plane.run({"input": {"argv": ["python3", "-c", program]}}).text)
    assert spent_s < 0.9, "two loops of a second, on half a processor"


@needs_bubblewrap
@needs_groups
def test_the_sandbox_says_what_is_enforced(plane: ControlPlane) -> None:
    hello = plane.hellos[-1]
    assert hello.limits == "enforced"
    assert "memory by cgroup" in hello.limits_reason


@needs_bubblewrap
@needs_groups
def test_groups_of_a_killed_daemon_are_removed_by_its_successor(own: Start) -> None:
    plane, daemon = own(isolation={"kind": "bubblewrap", "memoryMb": 64}, sandboxId="sandbox_other")
    assignment = make(shell("sleep 3051"))
    plane.offer(assignment)
    eventually(lambda: living("3051"), "the task")
    before = set(groups("sandbox_other"))
    assert before
    daemon.kill()
    daemon.start()
    assert plane.result(assignment.assignment_id).outcome is Outcome.LOST
    assert not before & set(groups("sandbox_other"))
    assert daemon.terminate() == 0
    assert groups("sandbox_other") == []


@needs_bubblewrap
@needs_groups
def test_a_command_that_cannot_enter_its_groups_is_never_run(own: Start, tmp_path: Path) -> None:
    lost = f"sandbox_lost_{time.time_ns()}"
    plane, _ = own(isolation={"kind": "bubblewrap", "memoryMb": 64}, sandboxId=lost)
    assert plane.run(shell("echo fine")).text == "fine"
    eventually(lambda: len(groups(lost)) == 1, "the spare ones alone")
    groups(lost)[0].rmdir()
    result = plane.run(shell("echo ran > ran; sleep 1"))
    assert (result.outcome, result.error.code) == (Outcome.LOST, "isolation_failed")
    # Walked, because a directory of an attempt may be removed while it is looked into.
    assert not any("ran" in names for _, _, names in os.walk(tmp_path))
    assert plane.run(shell("echo again")).text == "again"


# ---- hierarchies that this machine does not have, as files


def fake_proc(tmp_path: Path, cgroup: str, mounts: list[str]) -> Path:
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(cgroup)
    lines = [f"30 20 0:26 {root_and_point} rw - {kind} none {options}\n" for root_and_point, kind, options in (m.split("|") for m in mounts)]
    (proc / "mountinfo").write_text("".join(lines))
    return proc


def version_2(tmp_path: Path, controllers: str) -> tuple[Path, Path]:
    """The files of `/sys/fs/cgroup` and the group of the daemon in it."""
    own = tmp_path / "cgroup" / "user.slice" / "daemon"
    own.mkdir(parents=True)
    (own / "cgroup.controllers").write_text(controllers)
    (own / "cgroup.subtree_control").write_text("")
    proc = fake_proc(tmp_path, "0::/user.slice/daemon\n", [f"/ {tmp_path}/cgroup|cgroup2|rw"])
    return proc, own


def test_version_2_is_used_with_its_files(tmp_path: Path) -> None:
    proc, own = version_2(tmp_path, "cpuset cpu io memory pids")
    limiter = Limiter(LIMITED, "sandbox_1", proc=proc)
    assert limiter.describe() == (
        "enforced",
        "memory by cgroup v2; processors by cgroup v2; processes by cgroup v2",
    )
    assert (limiter.processes(), limiter.data_bytes()) == (0, 0)
    group = limiter.take()
    (procs,) = group.procs()
    directory = Path(procs).parent
    assert (directory.parent, procs) == (own, str(directory / "cgroup.procs"))
    assert directory.name.startswith("flakes-sandbox_1-")
    values = {path.name: path.read_text() for path in directory.iterdir()}
    assert values == {"memory.max": str(96 << 20), "cpu.max": "50000 100000", "pids.max": "24"}
    (directory / "memory.events").write_text("low 0\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert group.out_of_memory()


def test_what_version_2_does_not_delegate_is_said(tmp_path: Path) -> None:
    proc, _ = version_2(tmp_path, "memory pids")
    degree, reason = Limiter(LIMITED, "sandbox_1", proc=proc).describe()
    assert degree == "partly"
    assert reason.startswith("memory by cgroup v2; processors not at all; processes by cgroup v2 (")


def test_a_hierarchy_that_may_not_be_written_leaves_resource_limits(tmp_path: Path) -> None:
    proc, own = version_2(tmp_path, "cpu memory pids")
    (own / "cgroup.subtree_control").unlink()
    (own / "cgroup.subtree_control").mkdir()  # cannot be written, also not by root
    limiter = Limiter(LIMITED, "sandbox_1", proc=proc)
    degree, reason = limiter.describe()
    assert degree == "partly"
    assert "memory by resource limit of each process; processors not at all" in reason
    assert limiter.data_bytes() == 96 << 20
    assert limiter.processes() == 24
    by_user = "processes by resource limit" if os.getuid() else "processes not at all"
    assert by_user in reason


def test_without_groups_and_for_processors_alone_nothing_is_enforced(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, "", [])
    assert Limiter(Isolation(cpus=2.0), "s", proc=proc).describe() == (
        "none",
        "processors not at all (there are no control groups here)",
    )
    assert Limiter(Isolation(), "s", proc=proc).describe() == ("none", "no limits are configured")


def test_a_mount_that_shows_a_part_is_followed(tmp_path: Path) -> None:
    """In a container, the root of the mount is the container's own group."""
    point = tmp_path / "cgroup"
    (point / "inner").mkdir(parents=True)
    cgroup = "4:memory:/docker/abc/inner\n3:pids:/docker/abc/inner\n2:cpu,cpuacct:/docker/abc/inner\n"
    mounts = [f"/docker/abc {point}|cgroup|rw,{name}" for name in ("memory", "pids", "cpu,cpuacct")]
    limiter = Limiter(LIMITED, "s", proc=fake_proc(tmp_path, cgroup, mounts))
    assert limiter.describe()[0] == "enforced"
    (procs,) = limiter.take().procs()
    directory = Path(procs).parent
    assert directory.parent == point / "inner"
    assert (directory / "memory.limit_in_bytes").read_text() == str(96 << 20)
