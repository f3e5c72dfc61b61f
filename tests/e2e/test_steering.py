"""Messages and questions in a real session: the guide's examples, and kill -9 while a task waits for an answer."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from e2e.stage import CHECKOUT, Ran, Stage, ended, until

pytestmark = pytest.mark.timeout(120)

GUIDE = (CHECKOUT / "docs" / "guide" / "steering.md").read_text()


def block(info: str) -> str:
    (text,) = re.findall(rf"^```{info}\n(.*?)^```$", GUIDE, re.M | re.S)
    return text


def pending(stage: Stage, task_id: str | None = None) -> list[dict[str, Any]]:
    listed = stage.flakes("permissions", "list", "--json")
    if listed.code != 0:
        return []  # the server is on its way back
    return [p for p in listed.json["permissions"] if task_id in (None, p["taskId"])]


def asking(stage: Stage, key: str, line: str) -> tuple[str, dict[str, Any]]:
    """A run whose one task has asked: its id, and the request."""
    run = stage.submit(key, [{"taskKey": "t", "input": {"shell": line}}])
    with stage.client() as client:
        task_id = client.get_task(f"{key}/t").task_id
    return run.run_id, until(lambda: pending(stage, task_id), 30, "the question")[0]


def test_the_example_that_runs_by_itself(session: Stage) -> None:
    plan = session.scratch / "default.md"
    plan.write_text(block("markdown run"))
    ran = session.flakes("run", str(plan), "--key", "default")
    assert ran.code == 0, ran.out + ran.err
    assert "no messages" in ran.out
    assert "published" in ran.out
    assert "approved (nobody answered)" in ran.err
    (request,) = session.flakes("permissions", "list", "--all", "--json").ok().json["permissions"]
    assert (request["status"], request["decision"]) == ("expired", "approved")


def test_the_commands_of_the_guide(session: Stage) -> None:
    plan = session.scratch / "release.md"
    plan.write_text(block("markdown"))
    commands = [line.removeprefix("$ flakes ") for line in block("console").splitlines()]
    send, messages, questions, explain, approve = (shlex.split(command) for command in commands)
    following = session.start("run", str(plan), "--key", "release")
    try:
        until(lambda: session.flakes(*send).code == 0, 30, "the message to be taken")

        def listed() -> Ran | None:
            ran = session.flakes(*messages).ok()
            return ran if "consumed" in ran.out else None

        assert "Mention the fix of the login page" in until(listed, 30, "the message to be read").out
        request = until(lambda: pending(session), 30, "the question")[0]
        shown = session.flakes(*questions).ok().out
        assert request["permissionRequestId"] in shown
        assert "release/publish" in shown
        explained = session.flakes(*explain).ok().out
        assert "needs_input" in explained
        assert f"flakes permissions approve {request['permissionRequestId']}" in explained
        whole = session.flakes("inspect", "release", "--explain").ok().out
        assert f"flakes permissions approve {request['permissionRequestId']}" in whole
        assert "(needs_input)" in whole
        refused = session.flakes("permissions", "approve", "perm_zzz")
        assert refused.code == 2
        prefix = request["permissionRequestId"][5:-4]
        words = [prefix if word == "ID" else word for word in approve]
        assert "approved" in session.flakes(*words).ok().out
        second = session.flakes("permissions", "deny", request["permissionRequestId"])
        assert second.code == 2
        assert "approved already" in second.err
    except BaseException:
        following.kill()
        raise
    ran = ended(following)
    assert ran.code == 0, ran.out + ran.err
    assert re.search(r"publish +asks +Publish version 2\? -> flakes permissions approve perm_\w+", ran.err)
    assert re.search(r"publish +approved +tests are green", ran.err)
    assert "published" in ran.out
    notes = session.flakes("tasks", "result", "release/notes", "--output", "notes").ok().out
    assert notes == "[follow_up] Mention the fix of the login page\n"
    late = session.flakes("tasks", "message", "release/notes", "too late")
    assert late.code == 2
    assert "nobody would read" in late.err


def test_a_denied_task_fails(session: Stage) -> None:
    run_id, request = asking(session, "denied", "flakes ask 'May I?' || { echo code $?; exit 1; }")
    session.flakes("permissions", "deny", request["permissionRequestId"], "--reason", "no").ok()
    assert session.wait(run_id).state == "FAILED"
    log = session.flakes("logs", "denied/t").ok().out
    assert "denied: no" in log
    assert "code 3" in log


def test_an_answer_reaches_a_task_that_waited_through_a_killed_server(session: Stage) -> None:
    """The server dies with the poll in it; the answer is given to its successor."""
    run_id, request = asking(session, "killed-server", "flakes ask 'May I?' && echo went on")
    pids = {one.pid for one in session.identities("server")}
    session.kill("server")
    until(lambda: {one.pid for one in session.identities("server")} - pids, 30, "another server")
    until(lambda: pending(session, request["taskId"]), 30, "the question on the new server")
    session.flakes("permissions", "approve", request["permissionRequestId"]).ok()
    assert session.wait(run_id).state == "SUCCEEDED"
    assert "went on" in session.flakes("logs", "killed-server/t").ok().out
    with session.client() as client:
        assert len(client.get_task(request["taskId"]).attempts) == 1


def test_a_killed_sandbox_takes_the_question_with_it_and_the_next_attempt_asks_anew(
    session: Stage,
) -> None:
    run_id, request = asking(session, "killed-sandbox", "flakes ask 'May I?' && echo went on")
    session.kill("sandbox")

    def asked_anew() -> dict[str, Any] | None:
        new = [p for p in pending(session, request["taskId"])
               if p["permissionRequestId"] != request["permissionRequestId"]]  # fmt: skip
        return new[0] if new else None

    again = until(asked_anew, 60, "the next attempt to ask")
    assert again["assignmentId"] != request["assignmentId"]
    stale = session.flakes("permissions", "approve", request["permissionRequestId"])
    assert stale.code == 2
    assert "does not run any more" in stale.err
    with session.client() as client:
        assert client.get_permission(request["permissionRequestId"]).status == "cancelled"
        types = [e.type for e in client.activity(request["taskId"], limit=100).events]
    assert types.count("permission.requested") == 2
    assert types.count("permission.cancelled") == 1
    session.flakes("permissions", "approve", again["permissionRequestId"]).ok()
    assert session.wait(run_id).state == "SUCCEEDED"


def test_a_message_that_was_never_read_is_said_to_be_undeliverable(session: Stage) -> None:
    """F14."""
    mark = session.scratch / "go"
    line = f"echo begun; until [ -e {mark} ]; do sleep 0.02; done"
    run = session.submit("deaf", [{"taskKey": "t", "input": {"shell": line}}])
    until(lambda: "begun" in session.flakes("logs", "deaf/t").out, 30, "the task to run")
    session.flakes("tasks", "message", "deaf/t", "--mode", "steer", "hello?").ok()
    until(lambda: "delivered" in session.flakes("tasks", "messages", "deaf/t").out, 30, "its delivery")
    mark.touch()
    assert session.wait(run.run_id).state == "SUCCEEDED"
    (message,) = session.flakes("tasks", "messages", "deaf/t", "--json").ok().json["messages"]
    assert message["state"] == "undeliverable"
    assert message["reason"] == "the attempt ended (succeeded) before the task acknowledged it"
