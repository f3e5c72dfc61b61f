"""Who may run what, and what is left of it when daemon, link or machine fail in the middle."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flakes.core.task import Outcome
from flakes.wire.sandbox_stream import Accepted, Drain, Result
from sandbox.conftest import Start
from sandbox.controlplane import eventually, living, make, shell


def test_nothing_starts_before_the_acceptance_is_acknowledged(own: Start, tmp_path: Path) -> None:
    plane, _ = own(lambda plane: setattr(plane, "withhold", (Accepted,)))
    assignment = make(shell(f"touch {tmp_path}/started"))
    plane.offer(assignment)
    plane.wait(lambda: plane.accepted, "the acceptance")
    beats = plane.heartbeats
    plane.wait(lambda: plane.heartbeats >= beats + 3, "three heartbeats")
    assert not (tmp_path / "started").exists()
    plane.release()
    assert plane.result(assignment.assignment_id).outcome is Outcome.SUCCEEDED
    assert (tmp_path / "started").exists()


def test_a_stale_acceptance_starts_nothing(own: Start, tmp_path: Path) -> None:
    """F03."""
    plane, _ = own(maxConcurrency=1)
    assignment = make(shell(f"touch {tmp_path}/started"))
    plane.stale.add(assignment.assignment_id)
    plane.offer(assignment)
    plane.wait(lambda: plane.seqs, "the acceptance")
    # The only slot is free again: a second one is accepted and runs to its end.
    assert plane.run(shell("true")).outcome is Outcome.SUCCEEDED
    assert not (tmp_path / "started").exists()
    assert assignment.assignment_id not in plane.results


def test_what_became_stale_while_it_ran_is_killed_without_a_word(own: Start) -> None:
    plane, daemon = own()
    assignment = make(shell("setsid -f sleep 3021; while :; do echo x; sleep 0.05; done"))
    plane.offer(assignment)
    plane.wait(lambda: plane.lines.get(assignment.assignment_id), "the command")
    plane.stale.add(assignment.assignment_id)
    eventually(lambda: not living("3021"), "the command to be gone")
    directory = daemon.state_dir / "assignments" / assignment.assignment_id
    eventually(lambda: not directory.exists(), "its directory to be gone")
    assert assignment.assignment_id not in plane.results


def test_a_duplicate_offer_runs_once(own: Start, tmp_path: Path) -> None:
    plane, _ = own()
    assignment = make(shell(f"echo run >> {tmp_path}/runs; sleep 0.2"))
    plane.offer(assignment, assignment)
    plane.wait(lambda: plane.accepted, "the acceptance")
    plane.offer(assignment)
    plane.result(assignment.assignment_id)
    assert plane.accepted == [assignment.assignment_id]
    assert (tmp_path / "runs").read_text() == "run\n"


def test_offers_that_cannot_be_taken_are_declined(own: Start) -> None:
    plane, _ = own(maxConcurrency=1, adapters=["command", "from-the-future"])
    running, other, unknown = (
        make(shell("sleep 3022")),
        make(shell("true")),
        make({"adapter": "pi"}),
    )
    plane.offer(unknown)
    plane.wait(lambda: unknown.assignment_id in plane.declined, "the first refusal")
    assert "`pi`" in plane.declined[unknown.assignment_id]
    plane.offer(running, other)
    plane.wait(lambda: other.assignment_id in plane.declined, "the second refusal")
    assert "full" in plane.declined[other.assignment_id]
    assert plane.hellos[0].adapters == ["command"]
    plane.cancel(running.assignment_id)
    assert plane.result(running.assignment_id).outcome is Outcome.CANCELLED


def test_cancel_before_the_acknowledgement_and_of_the_unknown(own: Start, tmp_path: Path) -> None:
    plane, _ = own(lambda plane: setattr(plane, "withhold", (Accepted,)))
    assignment = make(shell(f"touch {tmp_path}/started"))
    plane.offer(assignment)
    plane.wait(lambda: plane.accepted, "the acceptance")
    plane.cancel(assignment.assignment_id, "assignment_never_seen")
    assert plane.result(assignment.assignment_id).outcome is Outcome.CANCELLED
    assert plane.result("assignment_never_seen").outcome is Outcome.CANCELLED
    plane.release()
    assert plane.run(shell("true")).outcome is Outcome.SUCCEEDED
    assert not (tmp_path / "started").exists()


def test_a_partition_does_not_disturb_the_work(own: Start) -> None:
    """F19."""
    plane, _ = own()
    line = 'for i in $(seq 60); do echo $i; sleep 0.01; done; echo out > "$FLAKES_OUTPUTS/out"'
    assignment = make(shell(line, declaredOutputs={"out": {}}))
    plane.offer(assignment)
    plane.wait(lambda: plane.lines.get(assignment.assignment_id), "the command")
    plane.stop()
    eventually(lambda: not _sleeping_loop(assignment.assignment_id), "the command to end")
    plane.start()
    result = plane.result(assignment.assignment_id)
    assert result.outcome is Outcome.SUCCEEDED
    assert result.outputs["out"].text == "out\n"
    assert plane.text(assignment.assignment_id) == [str(n) for n in range(1, 61)]
    assert len(plane.hellos) == 2
    assert plane.hellos[0].boot == plane.hellos[1].boot
    assert [item.state for item in plane.hellos[1].assignments] in (["ended"], ["running"])


def test_what_a_welcome_drops_is_killed(own: Start) -> None:
    plane, _ = own()
    assignment = make(shell("setsid -f sleep 3023; echo up; sleep 3023"))
    plane.offer(assignment)
    plane.wait(lambda: plane.lines.get(assignment.assignment_id), "the command")
    plane.stop()
    plane.drop = [assignment.assignment_id]
    plane.start()
    eventually(lambda: not living("3023"), "the command to be gone")
    assert plane.run(shell("true")).outcome is Outcome.SUCCEEDED
    assert assignment.assignment_id not in plane.results


def test_a_killed_daemon_takes_its_commands_along_and_reports_them_lost(own: Start) -> None:
    """F01."""
    plane, daemon = own()
    line = "setsid -f sleep 3024; env -i setsid -f sleep 3024; echo up; sleep 3024"
    assignment = make(shell(line))
    plane.offer(assignment)
    plane.wait(lambda: plane.lines.get(assignment.assignment_id), "the command")
    daemon.kill()
    eventually(lambda: not living("3024"), "the commands to be gone")
    daemon.start()
    result = plane.result(assignment.assignment_id)
    assert (result.outcome, result.error.code) == (Outcome.LOST, "sandbox_restarted")
    assert [item.state for item in plane.hellos[-1].assignments] == ["ended"]
    assert plane.hellos[0].boot != plane.hellos[-1].boot
    directory = daemon.state_dir / "assignments" / assignment.assignment_id
    eventually(lambda: not directory.exists(), "its directory to be gone")
    assert sorted(set(plane.seqs)) == list(range(1, max(plane.seqs) + 1)), "numbers never restart"


def test_daemon_and_supervisor_killed_together_leave_nothing_either(own: Start) -> None:
    plane, daemon = own()
    assignment = make(shell("setsid -f sleep 3025; echo $PPID; sleep 3025"))
    plane.offer(assignment)
    lines = plane.wait(lambda: plane.lines.get(assignment.assignment_id), "the command")
    os.kill(daemon.pid, 19)  # SIGSTOP: the daemon must not see its supervisor die
    os.kill(int(lines[0].text), 9)
    daemon.kill()
    assert living("3025"), "the grandchild lives on: nobody was left to kill it"
    daemon.start()
    assert plane.result(assignment.assignment_id).outcome is Outcome.LOST
    assert living("3025") == []


def test_a_result_that_was_not_acknowledged_is_replayed(own: Start, tmp_path: Path) -> None:
    """F28."""
    plane, daemon = own(lambda plane: setattr(plane, "withhold", (Result,)))
    assignment = make(shell(f"echo run >> {tmp_path}/runs; echo words"))
    plane.offer(assignment)
    first = plane.result(assignment.assignment_id)
    daemon.kill()
    plane.results.clear()
    plane.withhold = ()
    daemon.start()
    assert plane.result(assignment.assignment_id) == first
    assert (tmp_path / "runs").read_text() == "run\n"
    assert [item.state for item in plane.hellos[-1].assignments] == ["ended"]


def test_an_unacknowledged_acceptance_survives_and_then_runs(own: Start, tmp_path: Path) -> None:
    plane, daemon = own(lambda plane: setattr(plane, "withhold", (Accepted,)))
    assignment = make(shell(f"echo run >> {tmp_path}/runs"))
    plane.offer(assignment)
    plane.wait(lambda: plane.accepted, "the acceptance")
    daemon.kill()
    plane.withhold = ()
    daemon.start()
    assert plane.result(assignment.assignment_id).outcome is Outcome.SUCCEEDED
    assert (tmp_path / "runs").read_text() == "run\n"
    assert plane.hellos[-1].assignments[0].state == "pending"


def test_a_polite_end_kills_reports_and_exits_0(own: Start, tmp_path: Path) -> None:
    plane, daemon = own()
    assignment = make(shell("setsid -f sleep 3026; echo up; sleep 3026"))
    plane.offer(assignment)
    plane.wait(lambda: plane.lines.get(assignment.assignment_id), "the command")
    assert daemon.terminate() == 0
    assert living("3026") == []
    result = plane.results[assignment.assignment_id]
    assert (result.outcome, result.error.code) == (Outcome.LOST, "sandbox_stopping")
    assert (tmp_path / "stdout").read_bytes() == b""


def test_a_drained_daemon_finishes_and_exits_0(own: Start, tmp_path: Path) -> None:
    plane, daemon = own()
    late = make(shell("true"))
    line = f"mkfifo {tmp_path}/fifo; echo up; read x < {tmp_path}/fifo"
    assignment = make(shell(line))
    plane.offer(assignment)
    plane.wait(lambda: plane.lines.get(assignment.assignment_id), "the command")
    plane.send(Drain(reason="idle"))
    plane.offer(late)
    plane.wait(lambda: late.assignment_id in plane.declined, "the refusal")
    (tmp_path / "fifo").write_text("go\n")
    assert plane.result(assignment.assignment_id).outcome is Outcome.SUCCEEDED
    assert daemon.exit_code() == 0


def test_an_idle_daemon_drains_at_once(own: Start) -> None:
    plane, daemon = own()
    plane.send(Drain(reason="idle"))
    assert daemon.exit_code() == 0


def test_surprises_on_the_stream_are_skipped(own: Start) -> None:
    """F23."""
    plane, _ = own()
    for frame in (b'{"type":"from-the-future"}', b"not json", b'{"type":"ack","seq":"x"}', b"[]"):
        plane.send(frame)
    plane.send(b'{"type":"ack","seq":999999,"stale":["assignment_unknown"]}')
    assert plane.run(shell("echo on")).text == "on"
    assert plane.connections == 1


def test_a_damaged_journal_is_set_aside(own: Start) -> None:
    plane, daemon = own()
    plane.wait(lambda: plane.hellos, "the daemon")
    daemon.kill()
    for path in daemon.state_dir.glob("journal.sqlite*"):
        path.unlink()
    (daemon.state_dir / "journal.sqlite").write_bytes(b"this is not a database" * 1000)
    daemon.start()
    plane.wait(lambda: len(plane.hellos) == 2, "the daemon again")
    assert plane.run(shell("echo on")).text == "on"
    assert len(list(daemon.state_dir.glob("journal.damaged-*.sqlite"))) == 1


def test_a_second_daemon_waits_for_the_state_directory(own: Start) -> None:
    plane, daemon = own()
    plane.wait(lambda: plane.hellos, "the daemon")
    first = daemon.process
    daemon.start()
    first.kill()
    first.wait()
    plane.wait(lambda: len(plane.hellos) == 2, "the second daemon")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "flakes-test", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield path
    # Lazily: the daemon of the test ends only after this.
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_fails_the_task_and_not_the_daemon(own: Start, small_disk: Path) -> None:
    plane, daemon = own(stateDir=str(small_disk / "state"))
    result = plane.run(
        shell("head -c 10000000 /dev/zero > large; for i in $(seq 50); do echo $i; done; exit 1")
    )
    assert (result.outcome, result.error.code) == (Outcome.FAILED, "disk_full")
    assert str(small_disk) in result.error.message
    # Filled by somebody else before the task even has a directory.
    filler = small_disk / "filler"
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={filler}", "bs=1k"], check=False, capture_output=True
    )
    waiting = make(shell("true"))
    plane.offer(waiting)
    eventually(lambda: "journal cannot be written" in daemon.log, "the daemon to notice")
    filler.unlink()
    assert plane.result(waiting.assignment_id).outcome is Outcome.SUCCEEDED


def _sleeping_loop(assignment_id: str) -> bool:
    mark = f"FLAKES_ASSIGNMENT_ID={assignment_id}".encode()
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    return True
            except OSError:
                continue
    return False
