"""The host dies, is shut down, or finds what an earlier one left. Real host, stand-in daemon."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from flakes import processes
from flakes.wire.host_stream import Hello, InstanceExited, LeaseResult
from host.control_plane import ControlPlane, launch, states, stop
from host.machine import Machine, wait

KERNEL = (
    tuple(int(part) for part in platform.release().split(".")[:2])
    if sys.platform == "linux"
    else (0, 0)
)


def up(control_plane: ControlPlane, machine: Machine, number: int = 1) -> int:
    """Launch an instance and answer its daemon's pid."""
    control_plane.send(launch(number))
    assert control_plane.next(LeaseResult).ok
    wait(lambda: (machine.instance(number) / "up").exists(), "the daemon")
    return machine.daemon_pid(number)


def test_daemons_outlive_a_killed_host_and_are_found_again(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.start()
    first, second = up(control_plane, machine, 1), up(control_plane, machine, 2)
    boot = control_plane.messages[0].boot
    machine.kill()
    assert processes.read(first) is not None
    machine.start()
    hello = control_plane.next(Hello)
    assert hello.boot != boot
    assert states(hello) == {"instance_1": "running", "instance_2": "running"}
    assert (machine.daemon_pid(1), machine.daemon_pid(2)) == (first, second)
    # They are watched, although they are not this host's children ...
    os.kill(first, signal.SIGKILL)
    again = machine.new_daemon(first)
    # ... and can be stopped.
    for number, pid in ((1, again), (2, second)):
        control_plane.send(stop(number))
        assert control_plane.next(LeaseResult).ok
        assert control_plane.next(InstanceExited).instance_id == f"instance_{number}"
        assert processes.read(pid) is None or processes.read(pid).zombie
    assert machine.leftovers() == []


def test_an_adopted_daemon_may_retire(control_plane: ControlPlane, machine: Machine) -> None:
    machine.configure(mode="retire")
    machine.start()
    pid = up(control_plane, machine)
    machine.kill()
    machine.start()
    control_plane.next(Hello)
    (machine.instance() / "retire").touch()
    assert "retired" in control_plane.next(InstanceExited).reason
    if KERNEL >= (6, 15):
        # It was not started again to find out, although it was no child of this host.
        log = machine.log.read_text()
        assert log.count("daemon_started") == 1
        assert "daemon_died" not in log
    assert processes.read(pid) is None or processes.read(pid).zombie


def test_a_daemon_that_died_without_a_host_is_started_again(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.start()
    pid = up(control_plane, machine)
    machine.kill()
    os.kill(pid, signal.SIGKILL)
    machine.start()
    hello = control_plane.next(Hello)
    assert list(states(hello)) == ["instance_1"]
    assert machine.new_daemon(pid) != pid


def test_a_daemon_that_the_host_had_no_time_to_write_down_is_found(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.start()
    pid = up(control_plane, machine)
    machine.kill()
    path = machine.instance() / "record.json"
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps(record | {"pid": 0, "start": ""}))
    machine.start()
    assert states(control_plane.next(Hello)) == {"instance_1": "running"}
    assert machine.daemon_pid() == pid


def test_another_process_with_the_same_pid_is_left_alone(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.start()
    pid = up(control_plane, machine)
    machine.kill()
    os.kill(pid, signal.SIGKILL)
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
    )
    try:
        path = machine.instance() / "record.json"
        record = json.loads(path.read_bytes())
        path.write_text(json.dumps(record | {"pid": sleeper.pid}))
        machine.start()
        control_plane.next(Hello)
        machine.new_daemon(sleeper.pid)
        control_plane.send(stop())
        assert control_plane.next(InstanceExited)
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_stop_that_a_dying_host_had_begun_is_finished(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.configure(mode="stubborn")
    machine.start()
    pid = up(control_plane, machine)
    control_plane.send(stop())
    path = machine.instance() / "record.json"
    wait(lambda: json.loads(path.read_bytes())["stopping"], "the stop to begin")
    machine.kill()
    os.kill(pid, signal.SIGKILL)
    machine.start()
    # It may be over before the line is up, or after.
    hello = control_plane.next(Hello)
    if states(hello) != {"instance_1": "exited"}:
        assert control_plane.next(InstanceExited).instance_id == "instance_1"
    assert machine.leftovers() == []
    assert not machine.instance().exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_shutdown_stops_everything_and_says_so(
    control_plane: ControlPlane, machine: Machine, number: signal.Signals
) -> None:
    machine.start()
    for instance in (1, 2, 3):
        up(control_plane, machine, instance)
    started = time.monotonic()
    assert machine.terminate(number) == 0
    assert time.monotonic() - started < 5
    gone = {control_plane.next(InstanceExited).instance_id for _ in range(3)}
    assert gone == {"instance_1", "instance_2", "instance_3"}
    assert machine.leftovers() == []
    assert list((machine.state / "instances").iterdir()) == []


def test_a_shutdown_that_nobody_hears_keeps_the_journals(
    control_plane: ControlPlane, machine: Machine
) -> None:
    """F28 over a restart of the whole machine: unsent results come back with the next start."""
    machine.start()
    pid = up(control_plane, machine)
    control_plane.stop()
    assert machine.terminate() == 0
    assert machine.leftovers() == []
    starts = machine.instance() / "state" / "starts"
    assert starts.read_text().split() == [str(pid)]
    control_plane.start()
    machine.start()
    assert list(states(control_plane.next(Hello))) == ["instance_1"]
    wait(lambda: len(starts.read_text().split()) == 2, "the daemon")


def test_a_moved_control_plane_reaches_the_daemons(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.start()
    pid = up(control_plane, machine)
    machine.kill()
    control_plane.stop()
    control_plane.port = 0
    control_plane.start()
    assert machine.url != control_plane.url
    old_url, machine.url = machine.url, control_plane.url
    machine.configure()
    machine.start()
    assert list(states(control_plane.next(Hello))) == ["instance_1"]
    machine.new_daemon(pid)
    config = (machine.instance() / "sandbox.toml").read_text()
    assert control_plane.url in config
    assert old_url not in config


def test_leftovers_of_interrupted_work_are_cleared(
    control_plane: ControlPlane, machine: Machine
) -> None:
    leftover = machine.instance(9)
    leftover.mkdir(parents=True)
    (leftover / "sandbox.toml").write_text("half")
    machine.start()
    assert states(control_plane.next(Hello)) == {}
    wait(lambda: not leftover.exists(), "the leftover to go")


def test_a_second_host_over_the_same_state_is_refused(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.start()
    control_plane.next(Hello)
    second = subprocess.run(
        [sys.executable, "-m", "flakes.host", "run", "--config", str(machine.config)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert second.returncode == 2
    assert "another host process works in" in second.stderr
    assert "fix: " in second.stderr
