"""Processes are told apart by identity and by what they are, whatever else the machine runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flakes import processes as table
from flakes.session.layout import Layout, data_dir, layout
from flakes.session.processes import (
    STOP_GRACE_S,
    Identity,
    alive,
    identity_of,
    of_session,
    stop,
    wait_gone,
)
from flakes.wire.errors import ApiError

# Without spaces: `ps` shows a command line as one text.
SLEEPER = "print('ready',flush=True);__import__('signal').pause()"
STUBBORN = (
    "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
)


def start(program: str, *argv: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", program, *argv], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@pytest.mark.parametrize("source", ["/proc", "ps"])
def test_an_identity_is_a_pid_and_a_start(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    if source == "ps":
        monkeypatch.setattr(table, "_has_proc", lambda: False)
    me = identity_of(os.getpid())
    assert me is not None
    assert alive(me)
    assert not alive(Identity(me.pid, "another time"))
    process = start(SLEEPER)
    other = identity_of(process.pid)
    assert other is not None
    process.kill()
    # Not yet waited for: a zombie, which runs nothing any more.
    assert wait_gone([other], 5) == []
    end(process)
    assert identity_of(process.pid) is None


@pytest.mark.parametrize("source", ["/proc", "ps"])
def test_only_programs_of_ours_belong_to_a_session(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    if source == "ps":
        monkeypatch.setattr(table, "_has_proc", lambda: False)
    config = f"{tmp_path}/server.toml"
    ours = start(SLEEPER, "-m", "flakes.server", "--config", config)
    editor = subprocess.Popen(["sleep", "60", config], stderr=subprocess.DEVNULL)
    neighbour = start(SLEEPER, "-m", "flakes.server", "--config", f"{tmp_path}-2/server.toml")
    try:
        assert [(one.role, one.identity.pid) for one in of_session(tmp_path)] == [
            ("server", ours.pid)
        ]
        assert of_session(tmp_path, exclude=[ours.pid]) == []
    finally:
        for process in (ours, editor, neighbour):
            end(process)


def test_what_ignores_a_polite_end_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(STOP_GRACE_S, "host", 0.2)
    process = start(STUBBORN, "-m", "flakes.host", "run", "--config", f"{tmp_path}/host.toml")
    try:
        found = of_session(tmp_path)
        assert [one.role for one in found] == ["host"]
        assert stop(found) == []
        assert process.wait(5) == -9
    finally:
        end(process)


def test_the_data_directory_follows_the_environment() -> None:
    assert data_dir({"FLAKES_DATA_DIR": "/x/y"}) == Path("/x/y")
    if os.geteuid() == 0:
        assert data_dir({}) == Path("/var/lib/flakes")
    chosen = layout(None, {"FLAKES_DATA_DIR": "/x", "FLAKES_SESSION": "other"})
    assert chosen == Layout(Path("/x"), "other")
    assert layout("named", {"FLAKES_DATA_DIR": "/x", "FLAKES_SESSION": "other"}).name == "named"


@pytest.mark.parametrize("name", ["../etc", "A", "a b", "a/b", "x" * 65])
def test_a_session_name_is_a_key(name: str) -> None:
    with pytest.raises(ApiError) as refused:
        layout(name, {"FLAKES_DATA_DIR": "/x"})
    assert refused.value.exit_code == 2
