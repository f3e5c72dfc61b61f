"""`flakes run` against a real local session, which it starts by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flakes.session import record
from flakes.session.layout import Layout

pytestmark = pytest.mark.timeout(180)

PLAN = """\
+++
adapter = "command"
+++
# Plan

## first: First
run: echo one

## second: Second
depends_on: first
run: echo two; exit 4

## third: Third
depends_on: second
run: echo never
"""


def flakes(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from flakes.cli.main import main; main()", *argv],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_run_starts_the_session_and_prints_the_result(session: Layout) -> None:
    process = flakes("run", "echo hello", "--adapter", "command")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "  hello\n" in out
    assert "starting the local session" in err
    assert record.running(session) is not None


def test_a_failing_plan_exits_3_and_names_the_cause(session: Layout, tmp_path: Path) -> None:
    plan = tmp_path / "plan.md"
    plan.write_text(PLAN)
    process = flakes("run", str(plan), "--json", "--key", "failing")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    answer = json.loads(out)
    states = {task["taskKey"]: task["status"] for task in answer["tasks"]}
    assert states == {"first": "SUCCEEDED", "second": "FAILED", "third": "FAILED"}
    out, _ = flakes("watch", "failing").communicate(timeout=60)
    assert "exit code 4" in out
    assert "│ two" in out


def test_following_survives_a_killed_server(session: Layout) -> None:
    """F02: kill -9 of the control plane in the middle of a run; whoever follows sees the end."""
    process = flakes(
        "run", "echo begun; sleep 3; echo done", "--adapter", "command", "--key", "survivor"
    )
    assert process.stderr is not None
    while "task running" not in process.stderr.readline():
        assert process.poll() is None
    running = record.running(session)
    assert running is not None
    os.kill(running.processes["server"].pid, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "done" in out
    assert err.count("succeeded") == 2  # the task and the run, each once


def test_interrupting_leaves_the_run_going(session: Layout) -> None:
    process = flakes("run", "sleep 30", "--adapter", "command", "--key", "endless")
    assert process.stderr is not None
    while "task running" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    cancelled = flakes("runs", "cancel", "endless")
    cancelled.communicate(timeout=30)
    began = time.monotonic()
    waited = flakes("runs", "wait", "endless", "--timeout-ms", "20000")
    out, err = waited.communicate(timeout=60)
    assert waited.returncode == 3, err
    assert "CANCELLED" in out
    assert time.monotonic() - began < 20
