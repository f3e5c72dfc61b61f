"""The `command` adapter through the real daemon: what a task gets, leaves behind, and how it ends."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from flakes.core.task import Outcome
from flakes.wire.sandbox_stream import InputOutput
from flakes.wire.tasks import Output
from sandbox.controlplane import (
    ControlPlane,
    DaemonProcess,
    eventually,
    living,
    make,
    memory_mib,
    shell,
    show,
)


def test_a_command_runs_and_its_output_is_the_log_and_the_text(plane: ControlPlane) -> None:
    assignment = make(shell("echo one; echo two >&2; printf three"))
    plane.offer(assignment)
    result = plane.result(assignment.assignment_id)
    assert (result.outcome, result.exit_code, result.error) == (Outcome.SUCCEEDED, 0, None)
    assert result.text == "one\nthree"
    assert result.started_at_ms <= result.ended_at_ms
    assert plane.text(assignment.assignment_id) == ["one", "three"]
    assert plane.text(assignment.assignment_id, "stderr") == ["two"]


def test_argv_is_run_as_it_is(plane: ControlPlane) -> None:
    assert plane.run({"input": {"argv": ["printf", "%s|", "a b", "$HOME"]}}).text == "a b|$HOME|"


def test_the_environment_is_what_is_listed_and_nothing_else(plane: ControlPlane) -> None:
    definition = {"input": {"argv": ["env"], "env": {"OF_TASK": "1"}}}
    assignment = make(definition, run_metadata={"sourceDir": "/source"}, attempt=3)
    plane.offer(assignment)
    plane.result(assignment.assignment_id)
    env = dict(line.split("=", 1) for line in plane.text(assignment.assignment_id))
    assert "SECRET_OF_THE_DAEMON" not in env
    assert env["OF_TASK"] == "1"
    assert env["CONFIGURED"] == "yes"
    assert env["FLAKES_ASSIGNMENT_ID"] == assignment.assignment_id
    assert env["FLAKES_TASK_KEY"] == assignment.task_key
    assert env["FLAKES_RUN_KEY"] == "a-run"
    assert env["FLAKES_PROJECT_KEY"] == "a-project"
    assert env["FLAKES_ATTEMPT"] == "3"
    assert env["FLAKES_SOURCE_DIR"] == "/source"
    assert env["TMPDIR"].endswith("/tmp")
    assert "FLAKES_WORK_DIR" in env


def test_the_brief_is_on_stdin_and_in_a_file(plane: ControlPlane) -> None:
    line = 'cat > got; cmp got "$FLAKES_BRIEF" && pwd && echo "$FLAKES_WORK_DIR" && cat got'
    result = plane.run(shell(line, title="Do it", bodyMarkdown="In *this* way.", acceptance=["ok"]))
    pwd, work, *brief = result.text.split("\n")
    assert pwd == work
    assert "\n".join(brief) == "# Do it\n\nIn *this* way.\n\n## Acceptance\n\n- ok"


def test_inputs_come_inline_and_as_blobs(plane: ControlPlane) -> None:
    large = b"\x00\xff" * 50_000
    digest = f"sha256:{hashlib.sha256(large).hexdigest()}"
    plane.blobs[digest] = large
    inputs = [
        InputOutput(
            task_key="first",
            output_key="note",
            output=Output(kind="text", size_bytes=5, digest="sha256:x", text="hé\r\n"),
        ),
        InputOutput(
            task_key="first",
            output_key="large",
            output=Output(kind="text", size_bytes=len(large), digest=digest),
        ),
    ]
    line = 'cd "$FLAKES_INPUTS/first" && cat note && sha256sum < large'
    result = plane.run(shell(line), inputs=inputs)
    assert result.text == f"hé\r\n{digest.removeprefix('sha256:')}  -"


def test_small_outputs_travel_inline_and_large_ones_as_blobs(
    plane: ControlPlane, daemon: DaemonProcess
) -> None:
    plane.refuse_uploads = 2
    line = """
    cd "$FLAKES_OUTPUTS"; printf 'hello' > note.md; echo '{"a": 1}' > data.json
    head -c 3000000 /dev/zero > large; printf '\\377' > bytes; echo ignored > undeclared
    """
    declared = {
        "note": {},
        "data": {"kind": "json"},
        "large": {"maxBytes": 4_000_000},
        "bytes": {},
        "absent": {"required": False},
    }
    result = plane.run(shell(line, declaredOutputs=declared))
    assert result.outcome is Outcome.SUCCEEDED
    assert set(result.outputs) == {"note", "data", "large", "bytes"}
    note = result.outputs["note"]
    assert (note.text, note.size_bytes) == ("hello", 5)
    assert note.digest == f"sha256:{hashlib.sha256(b'hello').hexdigest()}"
    assert json.loads(result.outputs["data"].text) == {"a": 1}
    large = result.outputs["large"]
    assert large.text is None
    assert large.size_bytes == 3_000_000
    assert plane.blobs[large.digest] == bytes(3_000_000)
    assert plane.blobs[result.outputs["bytes"].digest] == b"\xff"
    assert plane.refuse_uploads == 0
    show(f"{memory_mib(daemon.pid):.0f} MiB resident after uploads")
    assert memory_mib(daemon.pid) < 80


@pytest.mark.parametrize(
    ("line", "declaration", "code", "words"),
    [
        ("true", {}, "output_missing", ["`out`", "/outputs"]),
        ("mkdir $FLAKES_OUTPUTS/out", {}, "output_missing", ["`out`"]),
        ("echo '{' > $FLAKES_OUTPUTS/out", {"kind": "json"}, "output_invalid", ["`out`"]),
        ("echo 123456 > $FLAKES_OUTPUTS/out", {"maxBytes": 5}, "output_too_large", ["7 bytes"]),
        ("true", {"kind": "workspace"}, "output_unsupported", ["`out`"]),
    ],
)
def test_an_output_that_is_not_as_declared_fails_the_task(
    plane: ControlPlane, line: str, declaration: dict[str, object], code: str, words: list[str]
) -> None:
    result = plane.run(shell(line, declaredOutputs={"out": declaration}))
    assert result.outcome is Outcome.FAILED
    assert result.error.code == code
    for word in words:
        assert word in result.error.message
    # An optional one is left out, which the result says by name; the others are kept.
    declared = {"out": declaration | {"required": False}, "sure": {}}
    result = plane.run(shell(f"{line}; echo here > $FLAKES_OUTPUTS/sure", declaredOutputs=declared))
    assert result.outcome is Outcome.SUCCEEDED, result.error
    assert set(result.outputs) == {"sure"}
    (warning,) = result.warnings
    assert (warning.code, warning.output) == (code, "out")
    assert "optional" in warning.message
    assert warning.message in plane.text(result.assignment_id, "system")


@pytest.mark.parametrize(
    ("definition", "outcome", "code", "exit_code"),
    [
        (shell("exit 75"), Outcome.RETRYABLE, "exit_75", 75),
        (shell("exit 3"), Outcome.FAILED, "exit_nonzero", 3),
        (shell("kill -9 $$"), Outcome.FAILED, "killed_by_signal", -9),
        ({"input": {"argv": ["no-such-program", "x"]}}, Outcome.FAILED, "command_not_found", 127),
        ({"input": {"argv": ["/etc/passwd"]}}, Outcome.FAILED, "command_not_executable", 126),
        ({"input": {"shel": "true"}}, Outcome.FAILED, "input_invalid", None),
        ({"input": {"shell": "true", "env": {"A": 1}}}, Outcome.FAILED, "input_invalid", None),
    ],
)
def test_how_a_command_ends(
    plane: ControlPlane, definition: dict[str, object], outcome: Outcome, code: str, exit_code: int
) -> None:
    result = plane.run(definition)
    assert (result.outcome, result.error.code, result.exit_code) == (outcome, code, exit_code)


def test_a_missing_program_is_named_with_a_fix(plane: ControlPlane) -> None:
    error = plane.run({"input": {"argv": ["no-such-program"]}}).error
    assert "no-such-program" in error.message
    assert "no-such-program" in error.details["fix"]


def test_verify_commands_are_evidence(plane: ControlPlane) -> None:
    passing = plane.run(shell("echo 1 > made", verify=["test -f made", "echo seen"]))
    assert passing.outcome is Outcome.SUCCEEDED
    assert [evidence.passed for evidence in passing.evidence] == [True, True]
    assert passing.evidence[1].tail == "seen\n"


def test_a_failing_verify_command_fails_the_task_and_keeps_the_evidence(
    plane: ControlPlane,
) -> None:
    result = plane.run(shell("true", verify=["true", "echo no >&2; exit 4", "true"]))
    assert result.outcome is Outcome.FAILED
    assert result.error.code == "verify_failed"
    assert [evidence.exit_code for evidence in result.evidence] == [0, 4, 0]
    assert result.evidence[1].tail == "no\n"


def test_verify_does_not_run_after_a_failure(plane: ControlPlane) -> None:
    result = plane.run(shell("exit 1", verify=["true"]))
    assert result.evidence == []


def test_the_log_is_complete_and_in_order(plane: ControlPlane) -> None:
    assignment = make(shell("seq 1 50000"))
    plane.offer(assignment)
    plane.result(assignment.assignment_id)
    assert plane.text(assignment.assignment_id) == [str(n) for n in range(1, 50_001)]


def test_long_lines_and_odd_bytes_are_split_and_never_poison_the_stream(
    plane: ControlPlane,
) -> None:
    """F22."""
    line = (
        r"printf 'a\000b\377c\033[1m\rd\n'; head -c 100000 /dev/zero | tr '\0' x; echo;"
        r"head -c 2000000 /dev/zero | tr '\0' '\001'; echo; printf 'é%.0s' $(seq 9000); echo; echo end"
    )
    assignment = make({"input": {"shell": line}})
    connections = plane.connections
    plane.offer(assignment)
    assert plane.result(assignment.assignment_id).outcome is Outcome.SUCCEEDED
    texts = plane.text(assignment.assignment_id)
    assert texts[0] == "a\ufffdb\ufffdc\x1b[1m\rd"
    assert texts[-1] == "end"
    assert max(len(text.encode()) for text in texts) <= 8192
    whole = "".join(
        text.removesuffix(" [continues]") if text.endswith(" [continues]") else text + "\n"
        for text in texts[1:]
    )
    assert whole == "x" * 100_000 + "\n" + "\x01" * 2_000_000 + "\n" + "é" * 9000 + "\nend\n"
    assert max(plane.frame_sizes) <= 1 << 20
    assert plane.connections == connections


def test_a_slow_line_is_seen_before_the_task_ends(plane: ControlPlane) -> None:
    assignment = make(shell("echo first; sleep 3011"))
    plane.offer(assignment)
    plane.wait(lambda: plane.lines.get(assignment.assignment_id), "the first line")
    assert assignment.assignment_id not in plane.results
    plane.cancel(assignment.assignment_id)
    assert plane.result(assignment.assignment_id).outcome is Outcome.CANCELLED


def test_a_timeout_stops_everything(plane: ControlPlane) -> None:
    line = "setsid sleep 3012 & sleep 3012"
    result = plane.run(shell(line, timeoutS=0.3))
    assert (result.outcome, result.error.code) == (Outcome.FAILED, "timeout")
    assert "0.3 s" in result.error.message
    assert living("3012") == []


def test_what_a_command_leaves_running_ends_with_it(plane: ControlPlane) -> None:
    """F24."""
    line = (
        "setsid sleep 3013 & setsid -f sh -c 'setsid -f env -i sleep 3013; sleep 3013'; sleep 0.1"
    )
    result = plane.run(shell(line))
    assert result.outcome is Outcome.SUCCEEDED
    assert living("3013") == []


def test_cancel_leaves_no_process_and_says_so_only_then(plane: ControlPlane) -> None:
    """F12, F24: also when the command ignores the polite signal."""
    line = "trap '' TERM; setsid sleep 3014 & setsid -f sleep 3014; env -i setsid -f sleep 3014; echo up; sleep 3014"
    assignment = make(shell(line))
    plane.offer(assignment)
    plane.wait(lambda: plane.lines.get(assignment.assignment_id), "the command")
    eventually(lambda: len(living("3014")) == 4, "the sleeping processes")
    plane.cancel(assignment.assignment_id)
    result = plane.result(assignment.assignment_id)
    assert living("3014") == []
    assert result.outcome is Outcome.CANCELLED


def test_a_task_that_kills_its_supervisor_is_lost_and_leaves_nothing(plane: ControlPlane) -> None:
    result = plane.run(shell("setsid -f sleep 3015; sleep 0.1; kill -9 $PPID; sleep 3015"))
    assert (result.outcome, result.error.code) == (Outcome.LOST, "containment_lost")
    assert living("3015") == []


def test_a_task_that_breeds_faster_than_one_looks_is_ended(plane: ControlPlane) -> None:
    """F24."""
    breed = "while :; do setsid -f sleep 3016; done"
    line = f"setsid sh -c '{breed}' & (trap '' TERM HUP; {breed}) & echo up; wait"
    assignment = make(shell(line))
    plane.offer(assignment)
    plane.wait(lambda: plane.lines.get(assignment.assignment_id), "the command")
    eventually(lambda: len(living("3016")) > 50, "a crowd")
    plane.cancel(assignment.assignment_id)
    assert plane.result(assignment.assignment_id).outcome is Outcome.CANCELLED
    assert living("3016") == []


def test_nothing_leaks_from_one_command_to_the_next(
    plane: ControlPlane, daemon: DaemonProcess
) -> None:
    def open_files() -> int:
        return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))

    def children() -> int:
        return len(Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split())

    plane.run(shell("true"))
    eventually(lambda: children() == 1, "one warm supervisor")
    before = open_files()
    for line in ("true", "exit 1", "kill -9 $PPID", "sleep 3017") * 3:
        plane.run(shell(line, timeoutS=0.2))
    plane.run({"input": {"argv": ["no-such-program"]}})
    eventually(lambda: children() == 1 and open_files() <= before, "everything to be closed")


def test_an_assignment_too_large_for_the_stream_is_fetched(plane: ControlPlane) -> None:
    whole = make(shell("wc -c < $FLAKES_BRIEF", bodyMarkdown="x" * 250_000))
    plane.large[whole.assignment_id] = whole
    plane.offer(make({}, assignment_id=whole.assignment_id, definition=None))
    assert int(plane.result(whole.assignment_id).text) > 250_000


def test_the_directory_is_gone_after_the_acknowledgement(
    plane: ControlPlane, daemon: DaemonProcess
) -> None:
    result = plane.run(shell("mkdir a; touch a/b; chmod 0 a; pwd"))
    eventually(
        lambda: not (daemon.state_dir / "assignments" / result.assignment_id).exists(),
        "the directory to be removed",
    )


def test_a_start_takes_milliseconds(plane: ControlPlane) -> None:
    took_s = []
    for _ in range(5):
        began_s = time.monotonic()
        plane.run(shell("true"))
        took_s.append(time.monotonic() - began_s)
        time.sleep(0.1)  # the next supervisor gets warm: this test measures the warm start
    show(
        f"offer to result of `true`: {min(took_s) * 1000:.1f} ms at best, {max(took_s) * 1000:.1f}"
    )
    assert min(took_s) < 0.25
