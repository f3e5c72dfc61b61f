"""`tools/demo.sh`, to its end and interrupted: neither process nor file of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

import psutil
import pytest

from e2e.stage import CHECKOUT, Stage, ended, running_with, until
from flakes.session import processes

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def demo(stage: Stage) -> Iterator[subprocess.Popen[str]]:
    """The demonstration, running in a group of its own; its data directory is in the stage's scratch."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        ["sh", str(CHECKOUT / "tools" / "demo.sh")], env=stage.env | {"TMPDIR": str(stage.scratch)},
        cwd="/", stdout=pipe, stderr=pipe, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        for left in running_with(str(stage.scratch)):
            with contextlib.suppress(psutil.Error):
                left.kill()


def test_the_demo_succeeds_and_leaves_nothing_behind(
    stage: Stage, demo: subprocess.Popen[str]
) -> None:
    ran = ended(demo, 90)
    assert ran.code == 0, f"{ran.out}\n{ran.err}"
    assert "files are sound" in ran.out
    assert "SUCCEEDED" in ran.err
    assert running_with(str(stage.scratch)) == []
    assert list(stage.scratch.iterdir()) == []


def test_an_interrupted_demo_leaves_nothing_behind(
    stage: Stage, demo: subprocess.Popen[str]
) -> None:
    def works() -> bool:
        roots = stage.scratch.glob("flakes-demo.*/sessions/demo")
        return any(one.role == "sandbox" for root in roots for one in processes.of_session(root))

    until(works, 60, "the workflow")
    os.killpg(demo.pid, signal.SIGINT)
    ran = ended(demo, 60)
    assert ran.code == 130, (ran.out, ran.err)
    assert running_with(str(stage.scratch)) == []
    assert list(stage.scratch.iterdir()) == []
