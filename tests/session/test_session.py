"""The local session with real processes: server, database and host, started, killed and stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from flakes.session import processes, record
from flakes.session.down import down
from flakes.session.layout import Layout
from flakes.session.processes import of_session
from flakes.session.record import Record
from flakes.session.up import up
from flakes.wire.errors import ApiError

pytestmark = pytest.mark.timeout(180)


def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("the condition did not come true in time")


def roles(session: Layout) -> list[str]:
    return [found.role for found in of_session(session.root)]


def answers(server: str) -> bool:
    try:
        with urllib.request.urlopen(f"{server}/readyz", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def link_opens(address: str) -> str:
    """Use a one-time link as the console's page does; the name of who is signed in by it."""
    console, _, code = address.partition("#link=")
    assert console.endswith("/console/")
    body = json.dumps({"code": code}).encode()
    url = f"{console.removesuffix('/console/')}/v1/auth/browser-link"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=5) as response:
        assert f"flakes_session_{urlsplit(url).port}=" in str(response.headers["set-cookie"])
        return json.load(response)["name"]


def read(session: Layout) -> Record:
    found = record.read(session)
    assert found is not None
    return found


def command(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from flakes.cli.main import main; main()", *argv],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_up_starts_everything_and_down_leaves_nothing(session: Layout) -> None:
    sentences: list[str] = []
    first = up(session, sentences.append)
    assert first.outcome == "started"
    assert sentences
    assert answers(first.record.server)
    assert roles(session) == ["supervisor", "host", "server", "postgresql"]
    pids = [found.identity for found in of_session(session.root)]

    again = up(session)
    assert (again.outcome, again.record) == ("running", first.record)

    preview = down(session, dry_run=True)
    assert [found.identity for found in preview.found] == pids
    assert all(processes.alive(identity) for identity in pids)

    stopped = down(session)
    assert [found.identity for found in stopped.found] == pids
    assert not any(processes.alive(identity) for identity in pids)
    assert not session.record.exists()
    assert not answers(first.record.server)
    assert down(session).found == ()


def test_an_initialised_session_is_up_in_three_seconds_at_the_same_address(session: Layout) -> None:
    before = up(session).record
    down(session)
    after = up(session)
    assert after.took_s < 3.0
    assert after.record.server == before.server


def test_secrets_are_private_and_the_database_can_be_reached(session: Layout) -> None:
    up(session)
    for path in (
        session.owner_credential,
        session.host_credential,
        session.record,
        session.host_config,
    ):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    passable = 0o711 if os.geteuid() == 0 else 0o700
    for path in (session.data_dir, session.root.parent, session.root):
        assert stat.S_IMODE(path.stat().st_mode) == passable, path
    for path in (session.host_state, session.root / "logs"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


def test_two_ups_at_once_start_one_session(session: Layout) -> None:
    both = [command("up", "--json") for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    answered = [json.loads(out) for out, _ in outputs]
    assert sorted(each["outcome"] for each in answered) == ["running", "started"]
    assert answered[0]["pid"] == answered[1]["pid"]
    assert roles(session) == ["supervisor", "host", "server", "postgresql"]


def test_a_killed_server_comes_back(session: Layout) -> None:
    before = up(session).record
    os.kill(before.processes["server"].pid, signal.SIGKILL)
    until(
        lambda: (
            read(session).processes.get("server", before).pid
            not in (before.pid, before.processes["server"].pid)
        )
    )
    until(lambda: answers(read(session).server))
    assert read(session).pid == before.pid


def test_a_killed_host_comes_back(session: Layout) -> None:
    before = up(session).record
    os.kill(before.processes["host"].pid, signal.SIGKILL)
    until(
        lambda: (
            "host" in read(session).processes
            and read(session).processes["host"] != before.processes["host"]
        )
    )


def test_children_of_a_killed_supervisor_are_adopted(session: Layout) -> None:
    before = up(session).record
    os.kill(before.pid, signal.SIGKILL)
    processes.wait_gone([before.identity], 5)
    assert record.running(session) is None  # the file is there, and nobody believes it
    after = up(session)
    assert after.outcome == "started"
    assert after.record.processes == before.processes
    assert after.record.pid != before.pid
    # Adopted ones are kept alive too.
    os.kill(before.processes["host"].pid, signal.SIGKILL)
    until(
        lambda: (
            "host" in read(session).processes
            and read(session).processes["host"] != before.processes["host"]
        )
    )
    down(session)
    assert roles(session) == []


def test_down_ends_what_a_killed_supervisor_left(session: Layout) -> None:
    before = up(session).record
    os.kill(before.pid, signal.SIGKILL)
    processes.wait_gone([before.identity], 5)
    assert roles(session) == ["host", "server", "postgresql"]
    assert len(down(session).found) == 3
    assert roles(session) == []


def test_down_ends_the_database_that_a_killed_server_left(session: Layout) -> None:
    before = up(session).record
    for pid in (before.pid, before.processes["host"].pid, before.processes["server"].pid):
        os.kill(pid, signal.SIGKILL)
    processes.wait_gone([p.identity for p in before.processes.values()], 5)
    assert roles(session) == ["postgresql"]
    down(session)
    assert roles(session) == []
    assert answers(up(session).record.server)


def test_a_taken_port_makes_the_session_move(session: Layout) -> None:
    before = up(session).record
    down(session)
    port = int(before.server.rpartition(":")[2])
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        after = up(session).record
        assert after.server != before.server
        assert answers(after.server)
        assert after.server in session.host_config.read_text()


def test_a_record_of_another_process_is_stale(session: Layout) -> None:
    up(session)
    genuine = session.record.read_bytes()
    down(session)
    other = json.loads(genuine) | {"pid": os.getpid()}
    session.record.write_text(json.dumps(other))
    assert record.running(session) is None
    assert up(session).outcome == "started"


def test_a_failed_start_shows_the_responsible_log_and_leaves_nothing(session: Layout) -> None:
    up(session)
    down(session)
    good = session.server_config.read_text()
    session.server_config.write_text(good + "\n[listn]\nport = 1\n")
    try:
        with pytest.raises(ApiError) as refused:
            up(session)
    finally:
        session.server_config.write_text(good)
    assert refused.value.code == "session_failed"
    assert str(session.log("server")) in refused.value.message
    assert "listn" in refused.value.message
    assert roles(session) == []
    assert up(session).outcome == "started"


def test_a_user_s_edits_survive(session: Layout) -> None:
    up(session)
    down(session)
    text = session.host_config.read_text()
    session.host_config.write_text(
        "# mine\n" + re.sub(r"maxConcurrency = \d+", "maxConcurrency = 7", text)
    )
    up(session)
    assert session.host_config.read_text().startswith("# mine\n")
    assert "maxConcurrency = 7" in session.host_config.read_text()


def test_an_interrupted_up_leaves_nothing(session: Layout) -> None:
    process = command("up")
    until(lambda: "supervisor" in roles(session))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    if process.returncode == 130:
        assert roles(session) == []


def test_the_commands_tell_what_they_did(session: Layout, tmp_path: Path) -> None:
    out, err = command("up", "--json").communicate(timeout=120)
    started = json.loads(out)
    assert started["outcome"] == "started", err
    assert started["server"].startswith("http://127.0.0.1:")
    signed_in = {link_opens(started["consoleUrl"])}
    out, _ = command("console").communicate(timeout=60)
    signed_in.add(link_opens(out.strip()))
    out, _ = command("up", "--json").communicate(timeout=60)
    signed_in.add(link_opens(json.loads(out)["consoleUrl"]))
    assert signed_in == {"owner"}
    out, _ = command("auth", "status", "--json").communicate(timeout=60)
    assert json.loads(out)["tokenSource"] == "local session"
    out, _ = command("down", "--dry-run", "--json").communicate(timeout=60)
    assert [each["role"] for each in json.loads(out)["processes"]] == [
        "supervisor", "host", "server", "postgresql",
    ]  # fmt: skip
    out, _ = command("down").communicate(timeout=60)
    assert out.startswith("stopped\n")
    process = command("down")
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "the session default does not run\n")
