from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.controlplane import ControlPlane, DaemonProcess


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ControlPlane, DaemonProcess]]:
    """One control plane and one daemon for tests that leave both as they were."""
    plane = ControlPlane()
    plane.start()
    daemon = DaemonProcess(plane, tmp_path_factory.mktemp("sandbox"))
    daemon.start()
    yield plane, daemon
    daemon.stop()
    plane.stop()


@pytest.fixture
def plane(shared: tuple[ControlPlane, DaemonProcess]) -> ControlPlane:
    return shared[0]


@pytest.fixture
def daemon(shared: tuple[ControlPlane, DaemonProcess]) -> DaemonProcess:
    return shared[1]


Start = Callable[..., tuple[ControlPlane, DaemonProcess]]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Start]:
    """A control plane and a daemon of the test's own, to be broken."""
    planes: list[ControlPlane] = []
    daemons: list[DaemonProcess] = []

    def start(prepare: Callable[[ControlPlane], None] | None = None, **config: Any) -> Any:
        plane = ControlPlane()
        if prepare:
            prepare(plane)
        plane.start()
        planes.append(plane)
        daemon = DaemonProcess(plane, tmp_path, **config)
        daemons.append(daemon)
        daemon.start()
        return plane, daemon

    yield start
    for daemon in daemons:
        daemon.stop()
    for plane in planes:
        plane.stop()
