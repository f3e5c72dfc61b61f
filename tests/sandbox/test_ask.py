"""`flakes ask` in a task: what it sends, how it waits, what it prints, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sandbox.conftest import Start
from sandbox.controlplane import ControlPlane, make, shell

PENDING = {
    "permissionRequestId": "perm_1", "taskId": "task_1", "taskKey": "t", "runId": "run_1", "runKey": "r",
    "assignmentId": "assignment_1", "prompt": "May I?", "status": "pending",
    "createdAt": "2026-01-01T00:00:00Z",
}  # fmt: skip
APPROVED = PENDING | {"status": "approved", "decision": "approved", "reason": "go on"}
DENIED = PENDING | {"status": "denied", "decision": "denied"}
EXPIRED = PENDING | {"status": "expired", "decision": "denied", "default": "denied"}
EXPIRED_WELL = PENDING | {"status": "expired", "decision": "approved", "default": "approved"}
CANCELLED = PENDING | {"status": "cancelled", "reason": "the attempt ended (lost)"}


@pytest.fixture
def asked(plane: ControlPlane) -> ControlPlane:
    """The shared control plane, having been asked nothing yet."""
    plane.asked.clear()
    plane.answers.clear()
    plane.answers["permission.ask"] = (200, PENDING)
    return plane


def ran(plane: ControlPlane, line: str) -> tuple[str, str]:
    """What a line printed, its exit code last; and its stderr."""
    assignment = make(shell(f"{line}; echo exit $?"))
    plane.offer(assignment)
    text = plane.result(assignment.assignment_id).text
    return text, "\n".join(plane.text(assignment.assignment_id, "stderr"))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (APPROVED, "approved: go on\nexit 0"),
        (DENIED, "denied\nexit 3"),
        (EXPIRED, "expired: nobody answered, denied by default\nexit 3"),
        (EXPIRED_WELL, "expired: nobody answered, approved by default\nexit 0"),
        (CANCELLED, "cancelled: the attempt ended (lost)\nexit 3"),
    ],
)
def test_it_waits_and_ends_as_the_answer_says(
    asked: ControlPlane, answer: dict[str, Any], text: str
) -> None:
    asked.answers["permission.status"] = (200, answer)
    out, err = ran(asked, "flakes ask 'May I?'")
    assert out == text
    assert "flakes permissions approve perm_1" in err
    (_, first, body), (_, second, poll) = asked.asked
    assert (first, second) == ("permission.ask", "permission.status")
    assert body == {"operationId": body["operationId"], "prompt": "May I?"}
    assert poll == {"permissionRequestId": "perm_1", "waitS": 25.0}


def test_it_polls_for_as_long_as_the_request_is_pending(asked: ControlPlane) -> None:
    asked.answers["permission.status"] = (200, PENDING)
    assignment = make(shell("flakes ask 'May I?'; echo exit $?"))
    asked.offer(assignment)
    asked.wait(lambda: len(asked.asked) > 5, "some polls")
    asked.answers["permission.status"] = (200, APPROVED)
    assert asked.result(assignment.assignment_id).text == "approved: go on\nexit 0"
    assert [name for _, name, _ in asked.asked].count("permission.ask") == 1


def test_everything_that_can_be_said_is_sent(asked: ControlPlane) -> None:
    line = (
        "flakes ask 'Rm?' --action 'git branch -D x' --details '{\"branch\": \"x\"}' --expires 60"
        " --default approved --operation-id mine --no-wait"
    )
    assert ran(asked, line)[0] == "perm_1\nexit 0"
    ((_, _, body),) = asked.asked
    assert body == {
        "operationId": "mine", "prompt": "Rm?", "action": "git branch -D x", "details": {"branch": "x"},
        "expiresInS": 60.0, "default": "approved",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "text"), [(PENDING, "pending\nexit 4"), (DENIED, "denied\nexit 3"), (APPROVED, "approved: go on\nexit 0")]
)
def test_polling_prints_how_it_stands(asked: ControlPlane, answer: dict[str, Any], text: str) -> None:
    asked.answers["permission.status"] = (200, answer)
    assert ran(asked, "flakes ask --poll perm_1")[0] == text
    assert asked.asked[0][2] == {"permissionRequestId": "perm_1"}


def test_with_json_the_request_is_on_stdout(asked: ControlPlane) -> None:
    asked.answers["permission.status"] = (200, DENIED)
    line, code = ran(asked, "flakes ask 'May I?' --json")[0].split("\n")
    assert (json.loads(line), code) == (DENIED, "exit 3")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("", "say what to ask"), ("''", "say what to ask"), ("one two", "unexpected argument: two"),
        ("x --details '['", "not JSON"), ("x --details '[]'", "must be a JSON object"),
        ("x --expires soon", "not a number of seconds"), ("x --default approved", "needs --expires"),
        ("x --poll perm_1", "and nothing else"), ("x --frob", "no such option"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(asked: ControlPlane, options: str, says: str) -> None:
    out, err = ran(asked, f"flakes ask {options}")
    assert out == "exit 2"
    assert says in err
    assert asked.asked == []


def test_a_control_plane_that_goes_away_and_comes_back_is_waited_for(own: Start, tmp_path: Path) -> None:
    plane, _ = own()
    plane.answers["permission.ask"] = (200, PENDING)
    plane.answers["permission.status"] = (503, {"error": "database_unavailable", "message": "away"})
    assignment = make(shell("flakes ask 'May I?'; echo exit $?"))
    plane.offer(assignment)
    plane.wait(lambda: len(plane.asked) > 2, "some polls")
    plane.stop()
    plane.answers["permission.status"] = (200, APPROVED)
    plane.start()
    assert plane.result(assignment.assignment_id).text == "approved: go on\nexit 0"
