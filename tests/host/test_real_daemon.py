"""The real host with the real sandbox daemon, against a control plane that gives it no work."""

from __future__ import annotations

import os
import signal
import time

import msgspec
import pytest

from flakes import processes
from flakes.wire.host_stream import Hello, InstanceExited, LeaseResult
from host.control_plane import ControlPlane, launch, sandbox_id, states, stop
from host.machine import Machine, wait


@pytest.fixture
def started(control_plane: ControlPlane, machine: Machine) -> Machine:
    """A host with one connected daemon."""
    machine.start(real=True)
    control_plane.next(Hello)
    control_plane.send(launch())
    assert control_plane.next(LeaseResult) == LeaseResult(lease_id="lease_launch1", ok=True)
    control_plane.daemon(1)
    return machine


def test_a_lease_becomes_a_connected_daemon(control_plane: ControlPlane, machine: Machine) -> None:
    """F21: the host's share, and the daemon's way to its first frame."""
    machine.start(real=True)
    control_plane.next(Hello)
    began = time.monotonic()
    control_plane.send(launch())
    hello = control_plane.daemon(1)
    assert time.monotonic() - began < 2.0
    assert hello.sandbox_id == sandbox_id()
    assert (hello.adapters, hello.capabilities) == (["command"], ["linux", "fast"])
    assert hello.max_concurrency == 2
    assert control_plane.daemon_tokens == ["sandbox-token-1"]


def test_a_killed_daemon_comes_back_as_the_same_sandbox(
    control_plane: ControlPlane, started: Machine
) -> None:
    """F28."""
    old = started.daemon_pid()
    began = time.monotonic()
    os.kill(old, signal.SIGKILL)
    started.new_daemon(old)
    assert time.monotonic() - began < 1.0
    first, second = control_plane.daemon(1), control_plane.daemon(2)
    assert first.boot != second.boot
    assert second.sandbox_id == sandbox_id()
    assert control_plane.daemon_tokens[1] == "sandbox-token-1"
    assert not any(isinstance(m, InstanceExited) for m in control_plane.messages)


def test_a_killed_host_leaves_the_daemon_connected(
    control_plane: ControlPlane, started: Machine
) -> None:
    pid = started.daemon_pid()
    started.kill()
    started.start(real=True)
    assert states(control_plane.next(Hello)) == {"instance_1": "running"}
    assert started.daemon_pid() == pid
    assert len(control_plane.daemons) == 1
    control_plane.send(stop())
    assert control_plane.next(LeaseResult).ok
    assert control_plane.next(InstanceExited)
    assert started.leftovers() == []
    assert not started.instance().exists()


def test_a_drained_daemon_is_reported_and_not_started_again(
    control_plane: ControlPlane, started: Machine
) -> None:
    control_plane.drain_daemon(sandbox_id())
    assert "retired" in control_plane.next(InstanceExited).reason
    assert len(control_plane.daemons) == 1
    assert not started.instance().exists()
    assert started.leftovers() == []


@pytest.mark.slow
def test_a_daemon_that_cannot_work_is_given_up_with_its_reason(
    control_plane: ControlPlane, started: Machine
) -> None:
    config = started.instance() / "sandbox.toml"
    config.write_text(config.read_text() + "\n[broken]\n")
    os.kill(started.daemon_pid(), signal.SIGKILL)
    reason = control_plane.next(InstanceExited, within_s=20).reason
    assert "exit code 2" in reason
    assert "unknown field `broken`" in reason
    assert started.leftovers() == []


def test_a_repeated_launch_renews_the_token(control_plane: ControlPlane, started: Machine) -> None:
    again = msgspec.structs.replace(launch(lease="lease_again"), sandbox_token="newer")
    control_plane.send(again)
    assert control_plane.next(LeaseResult) == LeaseResult(lease_id="lease_again", ok=True)
    control_plane.hang_up()
    control_plane.daemon(2)
    assert control_plane.daemon_tokens == ["sandbox-token-1", "newer"]


def test_a_shutdown_stops_the_daemon_and_all_it_started(
    control_plane: ControlPlane, started: Machine
) -> None:
    pid = started.daemon_pid()
    rows = processes.table()
    family = {(p, rows[p].start) for p in processes.descendants(rows, [pid])}
    began = time.monotonic()
    assert started.terminate() == 0
    assert time.monotonic() - began < 10
    assert control_plane.next(InstanceExited).reason == "the host was shut down"
    wait(lambda: not any(processes.is_alive(*member) for member in family), "the family to go")
    assert started.leftovers() == []
