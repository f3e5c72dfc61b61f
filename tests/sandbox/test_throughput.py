"""How much the daemon bears, and how small it stays."""

from __future__ import annotations

import time

from flakes.core.task import Outcome
from sandbox.conftest import Start
from sandbox.controlplane import make, memory_mib, shell, show

COUNT = 2_000
AT_ONCE = 500


def test_thousands_of_assignments_pass_through(own: Start) -> None:
    plane, daemon = own(maxConcurrency=1024)
    assignments = [make({"adapter": "noop"}) for _ in range(COUNT)]
    plane.wait(lambda: plane.hellos, "the daemon")
    began_s = time.monotonic()
    for start in range(0, COUNT, AT_ONCE):
        plane.wait(lambda start=start: len(plane.results) >= start - AT_ONCE, "room")
        plane.offer(*assignments[start : start + AT_ONCE])
    plane.wait(lambda: len(plane.results) == COUNT, "all results")
    took_s = time.monotonic() - began_s
    show(f"{COUNT / took_s:.0f} noop assignments/s in {len(plane.frame_sizes)} frames")
    assert plane.declined == {}
    assert all(result.outcome is Outcome.SUCCEEDED for result in plane.results.values())
    assert plane.flying_max <= plane.window
    assert plane.hellos[0].max_concurrency == 1024
    assert memory_mib(daemon.pid) < 80
    show(f"{memory_mib(daemon.pid):.0f} MiB resident")


def test_a_torrent_of_log_lines_is_complete(own: Start) -> None:
    plane, daemon = own()
    assignment = make(shell("seq 1 300000"))
    began_s = time.monotonic()
    plane.offer(assignment)
    plane.result(assignment.assignment_id, 30)
    took_s = time.monotonic() - began_s
    show(f"{300_000 / took_s:.0f} lines/s, {memory_mib(daemon.pid):.0f} MiB resident")
    lines = plane.lines[assignment.assignment_id]
    assert len(lines) == 300_000
    assert lines[299_999].text == "300000"
    assert memory_mib(daemon.pid) < 80


def test_many_commands_at_once(own: Start) -> None:
    plane, _ = own(maxConcurrency=32)
    assignments = [make(shell("echo $FLAKES_TASK_KEY")) for _ in range(32)]
    plane.wait(lambda: plane.hellos, "the daemon")
    began_s = time.monotonic()
    plane.offer(*assignments)
    for assignment in assignments:
        assert plane.result(assignment.assignment_id).text == assignment.task_key
    show(f"32 commands at once in {time.monotonic() - began_s:.2f} s")
