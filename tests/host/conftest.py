from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.control_plane import ControlPlane
from host.machine import Machine


@pytest.fixture
def control_plane() -> Iterator[ControlPlane]:
    plane = ControlPlane()
    plane.start()
    try:
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def machine(tmp_path: Path, control_plane: ControlPlane) -> Iterator[Machine]:
    machine = Machine(tmp_path, control_plane.url)
    machine.configure()
    try:
        yield machine
    finally:
        machine.clean()
        if machine.log.exists():  # shown by pytest when the test failed
            sys.stdout.write(machine.log.read_text())
