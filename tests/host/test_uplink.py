"""The line to the control plane: what goes over it, and what cannot end the host. Real host."""

from __future__ import annotations

import time

import pytest

from flakes import __version__
from flakes.host.uplink import stream_urls
from flakes.wire.codec import encode
from flakes.wire.config import HostConfig
from flakes.wire.errors import ApiError
from flakes.wire.host_stream import Hello, InstanceExited, LeaseResult
from host.control_plane import HOST_ID, TOKEN, ControlPlane, launch, states, stop
from host.machine import Machine, wait, write_private


def test_only_the_sanitized_advertisement_leaves_the_machine(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.configure(pool_more="resourceBounds = { memoryMb = 8192, cpus = 4 }")
    machine.start()
    hello = control_plane.next(Hello)
    assert (hello.host_id, hello.version, hello.protocol) == (HOST_ID, __version__, 1)
    assert encode(hello.pools) == (
        b'[{"poolKey":"here","provider":"process","adapter":"command","maxInstances":3,'
        b'"maxConcurrency":2,"capabilities":["linux","fast"],'
        b'"resourceBounds":{"memoryMb":8192,"cpus":4}}]'
    )
    control_plane.send(launch())
    control_plane.next(LeaseResult)
    control_plane.hang_up()
    control_plane.next(Hello)
    control_plane.send(stop())
    control_plane.next(InstanceExited)
    sent = b"\n".join(control_plane.raw)
    local = [b"SECRET", b"do-not-send-me", str(machine.directory).encode(), TOKEN.encode()]
    assert [word for word in [*local, b"sandbox-token"] if word in sent] == []


def test_frames_that_make_no_sense_are_ignored(
    control_plane: ControlPlane, machine: Machine
) -> None:
    """F23."""
    machine.start()
    control_plane.next(Hello)
    for frame in (
        "not json",
        "[]",
        "null",
        '"launch"',
        "{}",
        '{"type":"from_the_future","x":1}',
        '{"type":"launch"}',
        '{"type":"stop","leaseId":7}',
        '{"type":"welcome","protocol":"one"}',
        b"\xff\xfe\x00",
        "x" * 2_000_000,
        '{"type":"launch","leaseId":"l","instanceId":"","sandboxId":"","poolKey":"here","sandboxToken":""}',
    ):
        control_plane.send_raw(frame)
    assert not control_plane.next(LeaseResult).ok
    control_plane.send(launch())
    assert control_plane.next(LeaseResult).ok
    assert sum(isinstance(m, Hello) for m in control_plane.messages) == 1
    assert machine.is_up()


def test_the_inventory_is_whole_after_an_outage(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.configure(mode="retire")
    machine.start()
    for number in (1, 2):
        control_plane.send(launch(number))
        assert control_plane.next(LeaseResult).ok
    boot = control_plane.messages[0].boot
    control_plane.stop()
    # An end that happens meanwhile is told when there is somebody to tell.
    (machine.instance(2) / "retire").touch()
    wait(lambda: not machine.instance(2).exists(), "the end of the second")
    control_plane.start()
    hello = control_plane.next(Hello)
    assert hello.boot == boot
    assert states(hello) == {"instance_1": "running", "instance_2": "exited"}
    ended = next(i for i in hello.instances if i.state == "exited")
    assert "retired" in ended.reason
    control_plane.send(launch(3))
    assert control_plane.next(LeaseResult).ok
    # Once welcomed, it is not told again.
    control_plane.hang_up()
    assert states(control_plane.next(Hello)) == {"instance_1": "running", "instance_3": "running"}


def test_refusals_and_silence_do_not_end_the_host(
    control_plane: ControlPlane, machine: Machine
) -> None:
    """F23: also a clock that is years off."""
    control_plane.server_time_ms = 1
    control_plane.answer_status = 503
    machine.start()
    control_plane.until(lambda: len(control_plane.refused) >= 2, "two tries")
    control_plane.answer_status = 401
    control_plane.until(lambda: control_plane.refused[-1:] == [401], "a refusal")
    control_plane.answer_status = 0
    control_plane.next(Hello)
    control_plane.send(launch())
    assert control_plane.next(LeaseResult).ok
    assert machine.is_up()
    assert "clock_differs" in machine.log.read_text()


def test_a_rotated_credential_is_picked_up_without_a_restart(
    control_plane: ControlPlane, machine: Machine
) -> None:
    write_private(machine.credential, "old")
    machine.start()
    control_plane.until(lambda: 401 in control_plane.refused, "a refusal")
    write_private(machine.credential, TOKEN)
    control_plane.next(Hello)


def test_reconnecting_is_quick_at_first_and_slower_later(
    control_plane: ControlPlane, machine: Machine
) -> None:
    control_plane.answer_status = 503
    machine.start()
    control_plane.until(lambda: bool(control_plane.refused), "the first try")
    began = time.monotonic()
    control_plane.until(lambda: len(control_plane.refused) >= 4, "four tries")
    assert time.monotonic() - began < 0.1 + 0.2 + 0.4 + 1.0


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://127.0.0.1:7733", "ws://127.0.0.1:7733/v1/hosts/h%2F1/stream"),
        ("https://flakes.example/base/", "wss://flakes.example/base/v1/hosts/h%2F1/stream"),
    ],
)
def test_stream_url(address: str, expected: str) -> None:
    assert stream_urls(_config(address)) == [expected]


@pytest.mark.parametrize("address", ["", "flakes.example", "ftp://flakes.example", "http://"])
def test_stream_url_refuses_what_is_no_address(address: str) -> None:
    with pytest.raises(ApiError) as refusal:
        stream_urls(_config(address))
    assert refusal.value.code == "config_invalid"
    assert refusal.value.fix


def _config(address: str) -> HostConfig:
    return HostConfig(control_plane_url=address, host_id="h/1", credential_file="/c")
