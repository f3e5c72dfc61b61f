"""The `flakes` command against a real session: what is typed, what is shown, and the exit code."""

from __future__ import annotations

import json
import re
import signal
import socket
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from e2e.stage import CHECKOUT, Stage, ended, until
from flakes.session import processes
from flakes.wire import config as configuration
from flakes.wire.config import HostConfig, SandboxConfig, ServerConfig

pytestmark = pytest.mark.timeout(90)

FAILING = """\
+++
adapter = "command"
+++
# A plan that fails

## first: First
run: echo one

## second: Second
depends_on: first
run: for i in 1 2 3; do echo "attempt at $i"; done; echo "the reactor is cold" >&2; exit 4

## third: Third
depends_on: second
run: echo never
"""

BAD = """\
+++
adapter = "command"
+++
# A bad plan

## one: One
depends_on: two, nobody
run: true

## two: Two
depends_on: one
frobnicate: 3
run: true
"""


def test_run_starts_the_session_and_the_example_succeeds(stage: Stage) -> None:
    assert stage.flakes("down").out == "the session default does not run\n"
    ran = stage.flakes(
        "run", str(CHECKOUT / "examples" / "repository-report.md"), "--key", "report", cwd=CHECKOUT
    )
    assert ran.code == 0, ran.err
    assert "starting the local session" in ran.err
    assert "SUCCEEDED" in ran.err
    assert "files are sound" in ran.out
    listed = stage.flakes("runs", "list", "--json").ok().json
    assert [(run["runKey"], run["state"]) for run in listed["runs"]] == [("report", "SUCCEEDED")]


def test_a_failing_workflow_exits_3_with_the_reason_and_the_log(session: Stage) -> None:
    plan = session.scratch / "failing.md"
    plan.write_text(FAILING)
    ran = session.flakes("run", str(plan), "--key", "failing")
    assert ran.code == 3
    assert "exit code 4" in ran.out
    assert "the reactor is cold" in ran.out
    assert "never" not in ran.out
    assert "flakes logs failing/second" in ran.err
    result = session.flakes("tasks", "result", "failing/second")
    assert result.code == 3
    retried = session.flakes("runs", "retry", "failing").ok()
    assert retried.code == 0
    assert session.flakes("runs", "wait", "failing").code == 3


def test_check_names_the_lines_and_submits_nothing(stage: Stage) -> None:
    good = stage.scratch / "good.md"
    good.write_text(FAILING)
    assert stage.flakes("run", "--check", str(good)).ok().out.startswith("ok  3 tasks, 2 edges")
    bad = stage.scratch / "bad.md"
    bad.write_text(BAD)
    ran = stage.flakes("run", "--check", str(bad))
    assert ran.code == 2
    assert ran.out == ""
    for line, word in ((7, "nobody"), (12, "frobnicate")):
        assert re.search(rf"bad\.md:{line}: .*{word}", ran.err), ran.err
    as_json = stage.flakes("run", "--check", "--json", str(bad))
    assert as_json.code == 2
    assert {problem["line"] for problem in json.loads(as_json.err)["problems"]} >= {7, 12}
    missing = stage.flakes("run", "--check", "nowhere.md")
    assert missing.code == 2
    assert "nowhere.md cannot be read" in missing.err


def test_a_timeout_exits_4_and_the_run_goes_on(session: Stage) -> None:
    ran = session.flakes(
        "run", "sleep 2; echo late", "--adapter", "command", "--key", "slow", "--timeout-ms", "400"
    )
    assert ran.code == 4
    assert "it goes on" in ran.err
    assert "flakes watch slow" in ran.err
    watched = session.flakes("watch", "slow")
    assert watched.code == 0
    assert "late" in watched.out


def test_ctrl_c_exits_130_and_the_run_goes_on(session: Stage) -> None:
    mark = session.scratch / "interrupted"
    process = session.start(
        "run", f"touch {mark}; sleep 1; echo finished", "--adapter", "command", "--key", "ctrl-c"
    )
    until(mark.exists, 30, "the task's start")
    process.send_signal(signal.SIGINT)
    ran = ended(process, 20)
    assert ran.code == 130
    assert "the run ctrl-c goes on" in ran.err
    assert "Traceback" not in ran.err
    assert session.flakes("runs", "wait", "ctrl-c", "--timeout-ms", "20000").code == 0


def test_up_twice_and_two_at_once_are_one_session(session: Stage) -> None:
    pid = session.record().pid
    assert "running" in session.flakes("up").ok().out
    session.down()
    both = [session.start("up", "--json") for _ in range(2)]
    answers = [ended(process).ok().json for process in both]
    assert sorted(answer["outcome"] for answer in answers) == ["running", "started"]
    assert answers[0]["pid"] == answers[1]["pid"] != pid
    roles = [found.role for found in processes.of_session(session.layout.root)]
    assert sorted(set(roles)) == sorted(roles)
    session.down()
    nothing = session.flakes("down", "--json").ok().json
    assert nothing["stopped"] is False
    assert nothing["processes"] == []


def test_logs_follow_ends_by_itself(session: Stage) -> None:
    script = "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.2; done"
    session.submit("talk", [{"taskKey": "talker", "input": {"shell": script}}])
    followed = session.flakes("logs", "talk/talker", "--follow", timeout_s=20).ok()
    assert followed.out == "".join(f"line {n}\n" for n in range(1, 7))
    assert session.flakes("logs", "talk/talker").ok().out == followed.out
    assert session.flakes("logs", "talk/talker", "--tail", "2").ok().out == "line 5\nline 6\n"


def test_inspect_explains_why_a_task_waits(session: Stage) -> None:
    """F10: the explanation is made of facts, and names what is missing."""
    session.submit("waits", [
        {"taskKey": "picky", "requiredCapabilities": ["gpu-of-the-moon"], "input": {"shell": "true"}},
        {"taskKey": "after", "dependsOn": ["picky"], "input": {"shell": "true"}},
    ])  # fmt: skip

    def explained() -> str | None:
        out = session.flakes("inspect", "waits/picky", "--explain").ok().out
        return out if "gpu-of-the-moon" in out else None

    until(explained, 20, "an explanation that names the capability")
    detail = session.flakes("inspect", "waits/after", "--explain", "--json").ok().json
    assert detail["task"]["status"] == "BLOCKED"
    assert "picky" in json.dumps(detail["task"]["explanation"])
    not_ready = session.flakes("tasks", "result", "waits/picky")
    assert not_ready.code == 2
    assert "the task is QUEUED" in not_ready.err
    session.flakes("runs", "cancel", "waits").ok()
    assert session.flakes("runs", "wait", "waits", "--timeout-ms", "10000").code == 3


def test_results_and_outputs_can_be_read(session: Stage) -> None:
    value = '{"answer": 42}'
    session.submit("output", [{
        "taskKey": "maker", "declaredOutputs": {"facts": {"kind": "json"}},
        "input": {"shell": f"echo '{value}' > $FLAKES_OUTPUTS/facts; echo made"},
    }])  # fmt: skip
    session.wait("output")
    assert session.flakes("tasks", "result", "output/maker").ok().out.startswith("made")
    bytes_ = session.flakes("tasks", "result", "output/maker", "--output", "facts").ok().out
    assert json.loads(bytes_) == {"answer": 42}
    missing = session.flakes("tasks", "result", "output/nobody")
    assert missing.code == 2


def test_the_token_opens_the_api(session: Stage) -> None:
    token = session.flakes("auth", "token").ok().out.strip()
    server = session.record().server
    assert get(f"{server}/v1/me", token)["tokenFamily"] == "user"
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(f"{server}/v1/me", token + "x")
    assert refused.value.code == 401
    refused.value.close()
    wrong = session.flakes("runs", "list", "--server", server, "--token", token + "x")
    assert wrong.code == 5


def get(url: str, token: str) -> Any:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def test_printed_configurations_can_be_loaded(stage: Stage) -> None:
    for name, kind in (("server", ServerConfig), ("sandbox", SandboxConfig), ("host", HostConfig)):
        path = stage.scratch / f"{name}.toml"
        path.write_text(stage.flakes("config", "schema", name).ok().out)
        assert isinstance(configuration.load(path, kind), kind)


def test_no_session_no_server_is_said_with_a_fix(stage: Stage) -> None:
    stage.down()
    ran = stage.flakes("runs", "list")
    assert ran.code == 2
    assert "flakes up" in ran.err
    elsewhere = stage.flakes("runs", "list", "--server", "http://127.0.0.1:9", "--token", "x")
    assert elsewhere.code == 1
    assert "no answer from http://127.0.0.1:9" in elsewhere.err


# ---- the long-lived processes in the foreground


@pytest.fixture
def server_toml(stage: Stage) -> Path:
    path = stage.scratch / "own.toml"
    path.write_text(f"""\
[listen]
port = 0

[database]
dataDir = "{stage.scratch}/own-postgresql"
""")
    return path


def test_a_port_in_use_is_refused_with_a_fix(stage: Stage, server_toml: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = stage.flakes("server", "-c", str(server_toml), "--port", str(port))
    assert ran.code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ran.err
    assert "--port" in ran.err
    assert not (stage.scratch / "own-postgresql").exists()


def test_an_unknown_key_is_refused_with_its_line(stage: Stage, server_toml: Path) -> None:
    server_toml.write_text(server_toml.read_text() + '\n[auth]\nlocalCredentailFile = "x"\n')
    ran = stage.flakes("server", "-c", str(server_toml))
    assert ran.code == 2
    assert "own.toml:8" in ran.err, ran.err
    assert "localCredentialFile" in ran.err, ran.err
    missing = stage.flakes("server", "-c", str(stage.scratch / "nowhere.toml"))
    assert missing.code == 2


def test_a_dry_run_starts_nothing_and_shows_no_secret(session: Stage, server_toml: Path) -> None:
    summary = session.flakes("server", "-c", str(server_toml), "--dry-run").ok().json
    assert summary["database"]["dataDir"].endswith("own-postgresql")
    assert not (session.scratch / "own-postgresql").exists()
    server_toml.write_text('[database]\nurl = "postgresql://me:hunter2@db.example/x"\n')
    ran = session.flakes("server", "-c", str(server_toml), "--dry-run").ok()
    assert "hunter2" not in ran.out + ran.err
    assert "db.example" in ran.out

    credential = session.scratch / "sandbox.credential"
    credential.write_text("very-secret\n")
    path = session.scratch / "sandbox.toml"
    path.write_text(f"""\
controlPlaneUrl = "{session.record().server}"
sandboxId = "sandbox_1"
credentialFile = "{credential}"
stateDir = "{session.scratch}/sandbox-state"
adapters = ["command"]
""")
    ran = session.flakes("sandbox", "-c", str(path), "--dry-run").ok()
    assert ran.json["sandboxId"] == "sandbox_1"
    assert "very-secret" not in ran.out + ran.err
    assert not (session.scratch / "sandbox-state").exists()


def test_the_data_of_another_postgresql_is_refused(stage: Stage) -> None:
    stage.up()
    stage.down()
    version = stage.layout.postgresql / "data" / "PG_VERSION"
    right = version.read_text()
    version.write_text("12\n")
    try:
        ran = stage.flakes("server", "-c", str(stage.layout.server_config))
        up = stage.flakes("up")
    finally:
        version.write_text(right)
    assert ran.code == 2, ran.err
    assert "12" in ran.err
    assert right.strip() in ran.err
    assert up.code == 1
    assert "12" in up.err
    assert str(stage.layout.log("server")) in up.err
    assert stage.of_session() == []
    stage.up()
    assert "report" in stage.flakes("runs", "list").ok().out


def test_a_server_in_the_foreground_ends_in_order(stage: Stage) -> None:
    """SIGTERM: exit 0, its database with it."""
    home = Path(tempfile.mkdtemp(prefix="own-", dir=stage.data_dir.parent))
    home.chmod(0o711)
    path = stage.scratch / "foreground.toml"
    path.write_text(f'[listen]\nport = 0\n[database]\ndataDir = "{home}/postgresql"\n')
    ready = stage.scratch / "foreground.ready"
    process = stage.start(
        "server", "-c", str(path), env=stage.env | {"FLAKES_READY_FILE": str(ready)}
    )
    until(ready.exists, 60, "readiness")
    server = json.loads(ready.read_text())["server"]
    with urllib.request.urlopen(f"{server}/readyz", timeout=10) as response:
        assert response.status == 200
    began_s = time.monotonic()
    process.terminate()
    ran = ended(process, 30)
    assert ran.code == 0, ran.err
    assert f"listening on {server}" in ran.err
    assert time.monotonic() - began_s < 10
    assert [found.role for found in processes.of_session(home)] == []
