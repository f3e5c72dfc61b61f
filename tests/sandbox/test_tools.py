"""What a task finds to ask the control plane with: its socket, its token, and its `flakes` command."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flakes.core.limits import OPERATION_SIZE_BYTES_MAX
from flakes.core.task import Outcome
from flakes.sandbox.tools import place
from flakes.sandbox.tools.shim.commands import COMMANDS
from flakes.wire.operations import LOCAL, OPERATIONS
from sandbox.conftest import Start
from sandbox.controlplane import ControlPlane, DaemonProcess, eventually, living, make, shell

START_CPU_MS_MAX = 60.0
HELD = {"reservations": [{"path": "src/a", "kind": "exact", "taskKey": "t", "createdAt": "2026-01-01T00:00:00Z"}]}


@pytest.fixture
def asked(plane: ControlPlane) -> ControlPlane:
    """The shared control plane, having been asked nothing yet."""
    plane.asked.clear()
    plane.answers.clear()
    return plane


def exits(line: str) -> str:
    """A shell line that ends well and prints the exit code of `line` last."""
    return f"{line}; echo exit $?"


def test_the_commands_are_those_of_the_operations_with_words() -> None:
    table = OPERATIONS | LOCAL
    words = {operation.words: name for name, operation in table.items() if operation.words}
    assert {each: command.operation for each, command in COMMANDS.items()} == words


def test_a_command_asks_for_the_assignment_of_its_task(asked: ControlPlane) -> None:
    asked.answers["files.reserve"] = (200, HELD)
    line = "flakes tasks files reserve src/a --prefix b --reason 'for now'"
    assignment = make(shell(exits(line)))
    asked.offer(assignment)
    result = asked.result(assignment.assignment_id)
    assert result.text == "exact\tsrc/a\nexit 0"
    selectors = [{"path": path, "kind": "prefix"} for path in ("src/a", "b")]
    body = {"selectors": selectors, "reason": "for now"}
    assert asked.asked == [(assignment.assignment_id, "files.reserve", body)]


def test_an_announcement_keeps_its_key_until_it_has_its_answer(asked: ControlPlane) -> None:
    """And its content goes on from where the control plane says it has got to."""
    asked.keys.clear()
    asked.refuse_operations = 2
    asked.answers["artifact.create"] = (200, {"artifactId": "artifact_1", "state": "pending"})
    ready = {"artifactId": "artifact_1", "state": "ready", "offset": 3, "digest": "d", "sizeBytes": 3}
    asked.answers["artifact.append"] = (200, ready)
    result = asked.run(shell("printf abc > f; flakes artifacts create f --kind model --json"))
    assert result.outcome is Outcome.SUCCEEDED, result.error
    assert json.loads(result.text) == {k: ready[k] for k in ("artifactId", "state", "digest", "sizeBytes")}
    *announced, piece = asked.asked
    assert [name for _, name, _ in asked.asked] == ["artifact.create"] * 3 + ["artifact.append"]
    assert len(set(asked.keys[:3])) == 1
    assert asked.keys[0]
    assert asked.keys[3] is None, "a piece is known by its offset"
    body = {"kind": "model", "name": "f", "digest": f"sha256:{hashlib.sha256(b'abc').hexdigest()}", "sizeBytes": 3}
    assert {json.dumps(each, sort_keys=True) for _, _, each in announced} == {json.dumps(body, sort_keys=True)}
    assert piece[2] == {"artifactId": "artifact_1", "offset": 0, "bytesBase64": "YWJj"}
    # A file that is not what its digest says is not left behind.
    found = {"artifactId": "artifact_1", "digest": "sha256:0", "sizeBytes": 3, "offset": 0, "bytesBase64": "YWJj"}
    asked.answers["artifact.read"] = (200, found)
    result = asked.run(shell("flakes artifacts fetch artifact_1 -o f; echo $?; ls"))
    assert result.text == "1"


def test_with_json_the_answer_is_on_stdout_and_a_refusal_on_stderr(asked: ControlPlane) -> None:
    asked.answers["files.list"] = (200, HELD)
    refusal = {"error": "file_reservation_conflict", "message": "taken", "fix": "wait", "conflicts": []}
    asked.answers["files.reserve"] = (409, refusal)
    line = "flakes tasks files list --json; " + exits("flakes tasks files reserve a --json")
    assignment = make(shell(line))
    asked.offer(assignment)
    first, last = asked.result(assignment.assignment_id).text.split("\n")
    assert (json.loads(first), last) == (HELD, "exit 2")
    (err,) = asked.text(assignment.assignment_id, "stderr")
    assert json.loads(err) == refusal


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("flakes tasks files reserve", 2, "name paths"),
        ("flakes tasks files reserve a --reason", 2, "--reason needs a value"),
        ("flakes tasks files release", 2, "use --all"),
        ("flakes tasks files release a --all", 2, "use --all"),
        ("flakes tasks files list a", 2, "unexpected argument: a"),
        ("flakes tasks files check a --frob", 2, "no such option: --frob"),
        ("flakes tasks workpad push", 2, "there is no"),
        ("printf '\\377' > $FLAKES_STATE_DIR/workpad.md; flakes tasks workpad push", 2, "not UTF-8"),
        ("flakes tasks workpad push --base-version x", 2, "there is no"),
        ("flakes runs list", 2, "no `flakes runs list` inside a task"),
        ("FLAKES_TOOL_SOCKET= flakes tasks files list", 2, "inside a running task only"),
        ("FLAKES_TOOL_SOCKET=/nowhere flakes tasks files list", 1, "socket does not answer"),
        ("FLAKES_TOOL_TOKEN_FILE=/dev/null flakes tasks files list", 2, "token is not the one"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_the_exit_code(
    asked: ControlPlane, line: str, code: int, says: str
) -> None:
    assignment = make(shell(exits(line)))
    asked.offer(assignment)
    assert asked.result(assignment.assignment_id).text == f"exit {code}"
    assert says in "\n".join(asked.text(assignment.assignment_id, "stderr"))
    assert asked.asked == [], "nothing reached the control plane"


def test_an_internal_error_of_the_control_plane_is_exit_1(asked: ControlPlane) -> None:
    asked.answers["files.list"] = (500, {"error": "internal_error", "message": "oh", "fix": "log"})
    assert asked.run(shell(exits("flakes tasks files list"))).text == "exit 1"


def test_check_exits_2_when_something_is_in_the_way(asked: ControlPlane) -> None:
    asked.answers["files.check"] = (200, {"free": True, "conflicts": []})
    assert asked.run(shell(exits("flakes tasks files check a"))).text == "free\nexit 0"
    conflict = {"path": "a", "kind": "prefix", "taskKey": "other", "selector": "a", "reason": "mine"}
    asked.answers["files.check"] = (200, {"free": False, "conflicts": [conflict]})
    text = asked.run(shell(exits("flakes tasks files check a"))).text
    assert text == "prefix\ta\theld by other: mine\nexit 2"


def test_help_names_every_command(asked: ControlPlane) -> None:
    text = asked.run(shell(exits("flakes --help"))).text
    for words in COMMANDS:
        assert f"flakes {' '.join(words)}" in text
    assert text.endswith("exit 0")


def test_the_workpad_is_a_file_that_is_pulled_and_pushed(asked: ControlPlane) -> None:
    pad = {"taskId": "t", "version": 3, "bodyMarkdown": "# Plan\r\n\u00fc"}
    asked.answers["workpad.read"] = (200, pad)
    asked.answers["workpad.save"] = (200, pad | {"version": 4})
    line = (
        'cd "$FLAKES_STATE_DIR" && flakes tasks workpad pull && cat workpad.version && '
        "printf 'more' >> workpad.md && flakes tasks workpad push --json && cat workpad.version"
    )
    assignment = make(shell(line))
    asked.offer(assignment)
    pulled, three, pushed, four = asked.result(assignment.assignment_id).text.split("\n")
    assert (pulled.endswith("/state/workpad.md (version 3)"), three, four) == (True, "3", "4")
    assert json.loads(pushed)["version"] == 4
    saved = {"bodyMarkdown": "# Plan\r\n\u00fcmore", "baseVersion": 3}
    assert asked.asked[1] == (assignment.assignment_id, "workpad.save", saved)


def test_a_conflict_leaves_the_other_text_beside_ones_own(asked: ControlPlane) -> None:
    current = {"taskId": "t", "version": 7, "bodyMarkdown": "theirs"}
    refusal = {"error": "workpad_version_conflict", "message": "moved on", "fix": "", "current": current}
    asked.answers["workpad.save"] = (409, refusal)
    line = 'cd "$FLAKES_STATE_DIR"; printf mine > workpad.md; ' + exits("flakes tasks workpad push")
    assignment = make(shell(f"{line}; cat workpad.md workpad.current.md"))
    asked.offer(assignment)
    assert asked.result(assignment.assignment_id).text == "exit 2\nminetheirs"
    assert "push --base-version 7" in "\n".join(asked.text(assignment.assignment_id, "stderr"))
    assert asked.asked[0][2] == {"bodyMarkdown": "mine", "baseVersion": 0}


def test_a_pull_keeps_text_that_was_never_pushed(asked: ControlPlane) -> None:
    asked.answers["workpad.read"] = (200, {"taskId": "t", "version": 1, "bodyMarkdown": "new"})
    line = 'cd "$FLAKES_STATE_DIR"; printf mine > workpad.md; flakes tasks workpad pull; cat workpad.previous.md'
    assert asked.run(shell(line)).text.endswith("mine")


def test_the_socket_is_private_short_and_gone_with_the_task(
    asked: ControlPlane, tmp_path: Path
) -> None:
    line = (
        f"stat -c '%a %n' $(dirname $FLAKES_TOOL_SOCKET) $FLAKES_TOOL_TOKEN_FILE; command -v flakes;"
        f" echo $FLAKES_TOOL_SOCKET; until [ -e {tmp_path}/go ]; do sleep 0.01; done"
    )
    assignment = make(shell(line))
    asked.offer(assignment)
    asked.wait(lambda: len(asked.lines.get(assignment.assignment_id, {})) == 4, "its four lines")
    directory, token, command, path = asked.text(assignment.assignment_id)
    assert (directory[:4], token[:4]) == ("700 ", "600 ")
    assert command.endswith(f"/{assignment.assignment_id}/bin/flakes")
    assert len(path.encode()) < 107
    (tmp_path / "go").touch()
    asked.result(assignment.assignment_id)
    assert not Path(path).parent.exists()


def test_a_long_temporary_directory_does_not_make_the_path_too_long(
    own: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("d" * 90)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    plane, _ = own()
    path = plane.run(shell("flakes tasks files list; echo $FLAKES_TOOL_SOCKET")).text
    assert path.startswith("/tmp/")


def test_the_token_of_another_task_opens_nothing(asked: ControlPlane, tmp_path: Path) -> None:
    """F26: two tasks of one sandbox, the same user: each socket takes its own task's token only."""
    note = f"echo $FLAKES_TOOL_SOCKET > {tmp_path}/socket.new; cp $FLAKES_TOOL_TOKEN_FILE {tmp_path}/token;"
    wait = f"mv {tmp_path}/socket.new {tmp_path}/socket; until [ -e {tmp_path}/go ]; do sleep 0.01; done"
    victim = make(shell(note + wait))
    asked.offer(victim)
    eventually((tmp_path / "socket").exists, "the other task")
    line = f"FLAKES_TOOL_SOCKET=$(cat {tmp_path}/socket) flakes tasks files list"
    other = make(shell(exits(line) + f"; FLAKES_TOOL_TOKEN_FILE={tmp_path}/token " + exits("flakes tasks files list")))
    asked.offer(other)
    assert asked.result(other.assignment_id).text == "exit 2\nexit 2"
    errors = asked.text(other.assignment_id, "stderr")
    assert sum("the token is not the one of this task" in error for error in errors) == 2
    (tmp_path / "go").touch()
    asked.result(victim.assignment_id)
    assert asked.asked == []


def raw(path: str, data: bytes) -> dict[str, Any]:
    """Bytes to a socket; the body of its answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        connection.sendall(data)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = answer.partition(b"\n")
    assert json.loads(head)["size"] == len(body)
    return json.loads(body)


def test_a_request_is_bounded_and_must_be_understood(asked: ControlPlane, tmp_path: Path) -> None:
    note = f"cp $FLAKES_TOOL_TOKEN_FILE {tmp_path}/token; echo $FLAKES_TOOL_SOCKET > {tmp_path}/socket.new;"
    wait = f"mv {tmp_path}/socket.new {tmp_path}/socket; until [ -e {tmp_path}/go ]; do sleep 0.01; done"
    assignment = make(shell(note + wait))
    asked.offer(assignment)
    eventually((tmp_path / "socket").exists, "the task")
    path, token = (tmp_path / "socket").read_text().strip(), (tmp_path / "token").read_text()

    def head(operation: str, size: int) -> bytes:
        return json.dumps({"token": token, "operation": operation, "size": size}).encode() + b"\n"

    too_large = raw(path, head("workpad.save", OPERATION_SIZE_BYTES_MAX + 1))
    assert (too_large["error"], too_large["limit"]) == ("too_large", OPERATION_SIZE_BYTES_MAX)
    assert raw(path, head("workpad.erase", 2) + b"{}")["error"] == "not_found"
    assert raw(path, head("../../../secrets", 2) + b"{}")["error"] == "not_found"
    assert raw(path, head("files.list", -1))["error"] == "too_large"
    assert raw(path, b"nonsense\n")["error"] == "invalid_request"
    assert raw(path, b"x" * 10_000)["error"] == "invalid_request"
    assert raw(path, head("files.list", 2) + b"{}") == {}
    (tmp_path / "go").touch()
    asked.result(assignment.assignment_id)
    assert [operation for _, operation, _ in asked.asked] == ["files.list"]


def test_after_a_stale_refusal_nothing_more_is_forwarded(asked: ControlPlane) -> None:
    """F03: the superseded task hears it, and the control plane hears of it once."""
    stale = {"error": "stale_assignment", "message": "over", "fix": "stop"}
    asked.answers["files.list"] = (403, stale)
    text = asked.run(shell(exits("flakes tasks files list") + ";" + exits("flakes tasks files check a"))).text
    assert text == "exit 2\nexit 2"
    assert len(asked.asked) == 1


def test_a_command_waits_while_the_control_plane_is_away(own: Start, tmp_path: Path) -> None:
    plane, _ = own()
    line = f"touch {tmp_path}/up; until [ -e {tmp_path}/go ]; do sleep 0.01; done; flakes tasks files list --json"
    assignment = make(shell(line))
    plane.offer(assignment)
    eventually((tmp_path / "up").exists, "the task")
    plane.stop()
    (tmp_path / "go").touch()
    eventually(lambda: living("list"), "the command to ask")
    plane.start()
    result = plane.result(assignment.assignment_id)
    assert (result.outcome, result.text) == (Outcome.SUCCEEDED, "{}")
    assert {(a, name) for a, name, _ in plane.asked} == {(assignment.assignment_id, "files.list")}


def test_a_killed_daemon_leaves_no_socket_behind_for_good(own: Start, tmp_path: Path) -> None:
    plane, daemon = own()
    assignment = make(shell(f"echo $FLAKES_TOOL_SOCKET > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/socket; sleep 3033"))
    plane.offer(assignment)
    eventually((tmp_path / "socket").exists, "the task")
    directory = Path((tmp_path / "socket").read_text().strip()).parent
    daemon.kill()
    assert directory.exists()
    daemon.start()
    assert plane.result(assignment.assignment_id).outcome is Outcome.LOST
    eventually(lambda: not directory.exists(), "the socket's directory to be gone")


def test_removing_a_place_never_touches_what_is_not_one(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "token").write_text("keep")
    (tmp_path / place.LINK).symlink_to(precious)
    place.remove(tmp_path)
    assert (precious / "token").read_text() == "keep"
    assert not (tmp_path / place.LINK).is_symlink()


def test_the_command_starts_in_milliseconds() -> None:
    """Processor time, which a busy machine stretches least; the best of ten."""
    argv = [sys.executable, "-I", "-S", str(place.SHIM), "tasks", "files", "list"]
    env = {"FLAKES_TOOL_SOCKET": "/nowhere", "FLAKES_TOOL_TOKEN_FILE": os.devnull}
    best_ms = START_CPU_MS_MAX * 10
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert subprocess.run(argv, env=env, capture_output=True, check=False).returncode == 1
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best_ms = min(best_ms, spent_s * 1000)
    assert best_ms < START_CPU_MS_MAX


def test_the_command_needs_nothing_but_the_standard_library() -> None:
    script = (
        f"import runpy, sys; sys.argv = ['flakes', 'tasks', 'workpad', 'pull'];\n"
        f"try: runpy.run_path({str(place.SHIM)!r}, run_name='__main__')\n"
        f"except SystemExit: pass\n"
        f"print(*sorted({{name.partition('.')[0] for name in sys.modules}} - set(sys.stdlib_module_names)))"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], env={}, capture_output=True, text=True, check=True
    )
    assert set(ran.stdout.split()) == {"__main__", "flakes"}


def test_tasks_at_once_each_have_their_own(daemon: DaemonProcess, asked: ControlPlane) -> None:
    assignments = [make(shell("for i in 1 2 3 4 5; do flakes tasks files list --json; done")) for _ in range(4)]
    asked.offer(*assignments)
    for assignment in assignments:
        assert asked.result(assignment.assignment_id).text == "\n".join(["{}"] * 5)
    counts = {a.assignment_id: sum(a.assignment_id == each for each, _, _ in asked.asked) for a in assignments}
    assert set(counts.values()) == {5}
