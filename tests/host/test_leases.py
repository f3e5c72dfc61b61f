"""Launch, stop, and what happens to instances when something dies. Real host, stand-in daemon."""

from __future__ import annotations

import os
import signal
import time

import pytest

from flakes import processes
from flakes.wire.host_stream import Heartbeat, Hello, InstanceExited, LeaseResult
from host.control_plane import ControlPlane, launch, sandbox_id, states, stop
from host.machine import Machine, wait


def test_a_launch_is_answered_as_soon_as_the_daemon_exists(
    control_plane: ControlPlane, machine: Machine
) -> None:
    """F21: pushed, not polled for."""
    machine.start()
    hello = control_plane.next(Hello)
    assert hello.instances == []
    started = time.monotonic()
    control_plane.send(launch())
    result = control_plane.next(LeaseResult)
    took_s = time.monotonic() - started
    assert result == LeaseResult(lease_id="lease_launch1", ok=True)
    assert took_s < 0.5
    pid = machine.daemon_pid()
    wait(lambda: (machine.instance() / "up").exists(), "the daemon")
    assert f"FLAKES_SANDBOX_ID={sandbox_id()}".encode() in processes.environment(pid)
    assert os.getsid(pid) == pid
    for private in ("sandbox.credential", "sandbox.toml", "record.json", "daemon.log"):
        assert (machine.instance() / private).stat().st_mode & 0o777 == 0o600, private
    assert control_plane.next(Heartbeat, lambda m: m.instances == 1)


def test_repeated_orders_change_nothing_and_are_answered(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.start()
    control_plane.send(launch())
    assert control_plane.next(LeaseResult).ok
    pid = machine.daemon_pid()
    control_plane.send(launch())
    assert control_plane.next(LeaseResult).ok
    control_plane.send(launch(lease="lease_other"))
    assert control_plane.next(LeaseResult) == LeaseResult(lease_id="lease_other", ok=True)
    assert machine.daemon_pid() == pid

    for _ in range(2):
        control_plane.send(stop())
        assert control_plane.next(LeaseResult) == LeaseResult(lease_id="lease_stop1", ok=True)
        assert control_plane.next(InstanceExited).instance_id == "instance_1"
    control_plane.send(launch(lease="lease_third"))
    late = control_plane.next(LeaseResult)
    assert (late.ok, late.lease_id) == (False, "lease_third")
    assert "ended" in late.reason


def test_a_stop_leaves_no_process_and_no_file(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.start()
    control_plane.send(launch())
    assert control_plane.next(LeaseResult).ok
    wait(lambda: (machine.instance() / "up").exists(), "the daemon")
    # What careless tools leave behind: a read-only tree.
    deep = machine.instance() / "state" / "module" / "cache"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    deep.chmod(0o500)
    control_plane.send(stop())
    assert control_plane.next(LeaseResult) == LeaseResult(lease_id="lease_stop1", ok=True)
    exited = control_plane.next(InstanceExited)
    assert (exited.instance_id, exited.reason) == ("instance_1", "no longer needed")
    assert machine.leftovers() == []
    assert not machine.instance().exists()


def test_a_stop_of_an_unknown_instance_succeeds(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.start()
    control_plane.send(stop(7))
    assert control_plane.next(LeaseResult).ok
    assert "no such instance" in control_plane.next(InstanceExited).reason


def test_a_stop_right_behind_its_launch_wins(control_plane: ControlPlane, machine: Machine) -> None:
    machine.start()
    control_plane.next(Hello)
    control_plane.send(launch())
    control_plane.send(stop())
    assert control_plane.next(LeaseResult).lease_id == "lease_launch1"
    assert control_plane.next(LeaseResult).lease_id == "lease_stop1"
    assert control_plane.next(InstanceExited).instance_id == "instance_1"
    assert machine.leftovers() == []


def test_a_drain_waits_for_the_daemon_to_retire(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.configure(mode="retire")
    machine.start()
    control_plane.send(launch())
    assert control_plane.next(LeaseResult).ok
    pid = machine.daemon_pid()
    control_plane.send(stop(drain=True))
    control_plane.send(launch(2))
    assert control_plane.next(LeaseResult).lease_id == "lease_launch2"
    assert processes.read(pid) is not None
    (machine.instance() / "retire").touch()
    assert control_plane.next(LeaseResult).lease_id == "lease_stop1"
    assert "retired" in control_plane.next(InstanceExited).reason
    assert not machine.instance().exists()


def test_launches_that_cannot_be_say_why(control_plane: ControlPlane, machine: Machine) -> None:
    """F20, F23: nothing waits for a timeout."""
    machine.start()
    control_plane.send(launch(1, pool="elsewhere"))
    answer = control_plane.next(LeaseResult)
    assert not answer.ok
    assert "no pool `elsewhere`" in answer.reason
    evil = launch(2)
    evil = type(evil)(
        lease_id="lease_evil",
        instance_id="../../evil",
        sandbox_id="sandbox_2",
        pool_key="here",
        sandbox_token="t",
    )
    control_plane.send(evil)
    answer = control_plane.next(LeaseResult)
    assert not answer.ok
    assert "not an id" in answer.reason
    for number in (3, 4, 5):
        control_plane.send(launch(number))
        assert control_plane.next(LeaseResult).ok
    control_plane.send(launch(6))
    answer = control_plane.next(LeaseResult)
    assert not answer.ok
    assert "maximum of 3" in answer.reason
    # What could not be started is told again to a control plane that may have missed it.
    control_plane.hang_up()
    told = {i.instance_id: i.reason for i in control_plane.next(Hello).instances}
    assert "not an id" in told["../../evil"]


def test_a_killed_daemon_is_started_again_on_the_same_state(
    control_plane: ControlPlane, machine: Machine
) -> None:
    """F28: its journal is what brings unsent results back."""
    machine.start()
    control_plane.send(launch())
    assert control_plane.next(LeaseResult).ok
    starts = machine.instance() / "state" / "starts"
    wait(lambda: starts.exists() and starts.read_text().strip(), "the daemon")
    config = (machine.instance() / "sandbox.toml").read_bytes()
    old = machine.daemon_pid()
    killed = time.monotonic()
    os.kill(old, signal.SIGKILL)
    new = machine.new_daemon(old)
    assert time.monotonic() - killed < 1.0
    wait(lambda: len(starts.read_text().split()) == 2, "its start")
    assert starts.read_text().split() == [str(old), str(new)]
    assert (machine.instance() / "sandbox.toml").read_bytes() == config
    assert f"FLAKES_SANDBOX_ID={sandbox_id()}".encode() in processes.environment(new)
    control_plane.hang_up()
    assert states(control_plane.next(Hello, lambda h: bool(h.instances))) == {
        "instance_1": "running"
    }


def test_a_daemon_that_keeps_dying_is_given_up_with_its_last_words(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.configure(mode="crash")
    machine.start()
    control_plane.send(launch())
    assert control_plane.next(LeaseResult).ok
    reason = control_plane.next(InstanceExited).reason
    assert "died 5 times within 60 s" in reason
    assert "exit code 3" in reason
    assert reason.endswith("no luck with [redacted] today")
    assert not machine.instance().exists()
    assert machine.is_up()


@pytest.mark.slow
def test_a_daemon_that_ignores_the_request_is_killed_in_bounded_time(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.configure(mode="stubborn")
    machine.start()
    for number in (1, 2, 3):
        control_plane.send(launch(number))
        assert control_plane.next(LeaseResult).ok
        wait((machine.instance(number) / "up").exists, "the daemon")
    started = time.monotonic()
    assert machine.terminate() == 0
    assert 8 < time.monotonic() - started < 14
    assert control_plane.next(InstanceExited).reason == "the host was shut down"
    assert machine.leftovers() == []
