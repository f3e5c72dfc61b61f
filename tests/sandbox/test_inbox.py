"""Messages on their way to an agent: at most once, in order, in its file or in its turns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from flakes.agents.base import AgentError, Capabilities, TurnResult
from flakes.agents.noop import NoopDriver
from flakes.core.task import Outcome
from flakes.sandbox.inbox import Inbox
from flakes.sandbox.journal import Journal
from flakes.sandbox.outbox import Outbox
from flakes.wire.codec import decode
from flakes.wire.sandbox_stream import Accepted, Assignment, Input, InputMessage, InputState, Result
from sandbox.conftest import Start
from sandbox.controlplane import ControlPlane, DaemonProcess, eventually, make, shell

UNTIL = "until test -e {}; do sleep 0.02; done"


def started(plane: ControlPlane, line: str) -> Assignment:
    """A command that is running: it has printed its first line."""
    assignment = make(shell(f"echo begun; {line}"))
    plane.offer(assignment)
    plane.wait(lambda: plane.lines.get(assignment.assignment_id), "the command to begin")
    return assignment


def inbox_file(daemon: DaemonProcess, assignment: Assignment) -> Path:
    return daemon.state_dir / "assignments" / assignment.assignment_id / "inbox.jsonl"


def test_messages_are_lines_of_a_file_and_delivered_with_the_line(
    plane: ControlPlane, daemon: DaemonProcess, tmp_path: Path
) -> None:
    assignment = started(plane, f"{UNTIL.format(tmp_path / 'go')}; cat $FLAKES_INBOX")
    texts = ["first", 'two\nlines, "quoted" and wide 漢字', "x" * 20_000]
    ids = plane.say(assignment.assignment_id, *texts, mode="steer")
    plane.wait(lambda: plane.states(ids[-1]), "the last report")
    assert [plane.states(each) for each in ids] == [["delivered"]] * 3
    lines = [json.loads(line) for line in inbox_file(daemon, assignment).read_text().splitlines()]
    assert [(line["id"], line["mode"], line["text"]) for line in lines] == [
        (each, "steer", text) for each, text in zip(ids, texts, strict=True)
    ]
    assert all(line["at"].endswith("Z") for line in lines)
    (tmp_path / "go").touch()
    assert plane.result(assignment.assignment_id).outcome is Outcome.SUCCEEDED
    assert [plane.states(each) for each in ids] == [["delivered"]] * 3, "nobody acknowledged them"


def test_a_message_that_comes_again_is_handed_over_once(
    plane: ControlPlane, daemon: DaemonProcess, tmp_path: Path
) -> None:
    assignment = started(plane, UNTIL.format(tmp_path / "go"))
    message = InputMessage(
        assignment_id=assignment.assignment_id, message_id="msg_again", mode="steer", text="once"
    )
    for _ in range(5):
        plane.send(Input(messages=[message, message]))
    (last,) = plane.say(assignment.assignment_id, "last")
    plane.wait(lambda: plane.states(last), "the last report")
    assert plane.states("msg_again") == ["delivered"]
    assert len(inbox_file(daemon, assignment).read_text().splitlines()) == 2
    (tmp_path / "go").touch()
    plane.result(assignment.assignment_id)


def test_the_task_reads_waits_and_acknowledges(plane: ControlPlane, tmp_path: Path) -> None:
    line = (
        "flakes inbox; echo exit $?;"
        "flakes inbox --wait 0.2; echo exit $?;"
        f"touch {tmp_path}/waits; flakes inbox --wait 30; echo exit $?;"
        f"{UNTIL.format(tmp_path / 'two')}; flakes inbox --json; flakes inbox; echo exit $?"
    )
    assignment = started(plane, line)
    eventually(lambda: (tmp_path / "waits").exists(), "the task to wait")
    (first,) = plane.say(assignment.assignment_id, "look left", mode="steer")
    plane.wait(lambda: plane.states(first) == ["delivered", "consumed"], "it to be consumed")
    more = plane.say(assignment.assignment_id, "a", "b")
    plane.wait(lambda: plane.states(more[-1]) == ["delivered"], "the others to be delivered")
    (tmp_path / "two").touch()
    result = plane.result(assignment.assignment_id)
    begun, none, nothing, said, good, listed, end = result.text.split("\n")
    assert (begun, none, nothing, said, good, end) == (
        "begun", "exit 0", "exit 4", "[steer] look left", "exit 0", "exit 0",
    )  # fmt: skip
    assert [(m["id"], m["text"]) for m in json.loads(listed)["messages"]] == [(more[0], "a"), (more[1], "b")]
    assert [plane.states(each) for each in more] == [["delivered", "consumed"]] * 2


def test_a_message_that_comes_before_the_task_begins_is_there_when_it_does(own: Start) -> None:
    plane, _ = own(lambda plane: setattr(plane, "withhold", (Accepted,)))
    assignment = make(shell("flakes inbox --wait 20"))
    plane.offer(assignment)
    plane.wait(lambda: plane.accepted, "the acceptance")
    plane.say(assignment.assignment_id, "early")
    plane.release()
    assert plane.result(assignment.assignment_id).text == "[follow_up] early"


def test_who_takes_no_messages_says_so(plane: ControlPlane) -> None:
    (nobody,) = plane.say("assignment_unknown", "hello?")
    plane.wait(lambda: plane.states(nobody) == ["refused"], "the refusal")
    assert "does not run" in plane.inputs[-1].reason


@pytest.mark.parametrize("options", ["--wait", "--wait x", "--wait -1", "--frob", "something"])
def test_a_wrong_command_line_is_refused(plane: ControlPlane, options: str) -> None:
    assert plane.run(shell(f"flakes inbox {options}; echo exit $?")).text == "exit 2"


def test_the_successor_of_a_killed_daemon_hands_nothing_over_twice(own: Start, tmp_path: Path) -> None:
    plane, daemon = own()
    note = tmp_path / "read"
    assignment = started(plane, f"flakes inbox --wait 30 >> {note}; touch {note}.done; sleep 60")
    (sent,) = plane.say(assignment.assignment_id, "once")
    eventually(Path(f"{note}.done").exists, "the task to read it")
    plane.withhold = (Result,)
    daemon.kill()
    daemon.start()
    plane.wait(lambda: len(plane.hellos) == 2, "the successor")
    message = InputMessage(
        assignment_id=assignment.assignment_id, message_id=sent, mode="follow_up", text="once"
    )
    plane.send(Input(messages=[message]))
    plane.wait(lambda: plane.states(sent)[-1] == "refused", "the answer to the message sent again")
    assert plane.results[assignment.assignment_id].outcome is Outcome.LOST
    assert note.read_text() == "[follow_up] once\n"
    plane.release()


# ---- agents that take messages into their turns: the inbox itself, with a driver of the test's own


class Talker(NoopDriver):
    """Notes what is said to it; how it takes steering is the test's to choose."""

    def __init__(self, takes: str) -> None:
        self.takes = takes
        self.said: list[str] = []

    def capabilities(self) -> Capabilities:
        return Capabilities(steer=True, converses=True)

    async def steer(
        self, text: str, op_id: str
    ) -> Literal["injected", "queued", "idle", "unsupported"]:
        if self.takes == "broken":
            raise AgentError("agent_gone", "the agent does not listen")
        self.said.append(text)
        return self.takes  # type: ignore[return-value]

    async def turn(
        self, text: str, op_id: str, schema: Mapping[str, Any] | None = None
    ) -> TurnResult:
        self.said.append(f"turn: {text}")
        return TurnResult("completed")


def message(number: int, mode: Literal["steer", "follow_up"]) -> InputMessage:
    return InputMessage(assignment_id="assignment_a", message_id=f"msg_{number}", mode=mode, text=f"{number}")


async def reports(journal: Journal) -> list[tuple[str, str, str]]:
    """What the outbox holds, in order."""
    await journal.durable()
    found = [decode(body, InputState) for _, body in await journal.messages(0, 1_000)]
    return [(told.message_id, told.state, told.reason) for told in found]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("takes", "expected"),
    [
        ("injected", [("delivered", ""), ("consumed", "")]),
        ("queued", [("delivered", ""), ("consumed", "")]),
        ("idle", [("delivered", ""), ("consumed", "")]),
        ("unsupported", [("delivered", ""), ("consumed", "")]),
        ("broken", [("refused", "the agent does not listen")]),
    ],
)
async def test_steering_and_further_turns(
    tmp_path: Path, takes: str, expected: list[tuple[str, str]]
) -> None:
    journal = await Journal.open(tmp_path)
    outbox = Outbox(journal)
    inbox, driver = Inbox("assignment_a", journal, outbox, ["msg_0"]), Talker(takes)
    try:
        for each in (message(0, "steer"), message(1, "steer"), message(2, "follow_up"), message(1, "steer")):
            inbox.take(each)
        inbox.open(driver, "talker", None)
        turns: list[str] = []
        while (said := await inbox.follow_up()) is not None:
            turns.append(said.message_id)
        assert turns == (["msg_1", "msg_2"] if takes in ("idle", "unsupported") else ["msg_2"])
        assert driver.said == ([] if takes == "broken" else ["1"])
        await inbox.close()
        inbox.take(message(3, "steer"))
        told = await reports(journal)
        assert [(state, reason) for id_, state, reason in told if id_ == "msg_1"] == expected
        assert [state for id_, state, _ in told if id_ == "msg_2"] == ["delivered", "consumed"]
        assert [state for id_, state, _ in told if id_ == "msg_3"] == ["refused"]
        assert [each for each in told if each[0] == "msg_0"] == [], "handed over by an earlier daemon"
        handed = {message_id for _, message_id in await journal.inputs()}
        assert handed == {"msg_1", "msg_2"}
    finally:
        await journal.close()


@pytest.mark.anyio
async def test_an_adapter_without_an_ear_refuses(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path)
    inbox = Inbox("assignment_a", journal, Outbox(journal))
    try:
        inbox.open(NoopDriver(), "noop", None)
        inbox.take(message(1, "follow_up"))
        assert await inbox.follow_up() is None
        await inbox.close()
        assert await reports(journal) == [("msg_1", "refused", "the adapter `noop` takes no messages")]
    finally:
        await journal.close()


@pytest.mark.anyio
async def test_a_line_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    from flakes.agents.command import CommandDriver

    journal = await Journal.open(tmp_path)
    inbox = Inbox("assignment_a", journal, Outbox(journal))
    try:
        inbox.open(CommandDriver(), "command", tmp_path / "missing" / "inbox.jsonl")
        inbox.take(message(1, "follow_up"))
        assert await inbox.follow_up() is None
        await inbox.close()
        ((_, state, reason),) = await reports(journal)
        assert (state, "could not write it down" in reason) == ("refused", True)
        assert await inbox.unread() == []
    finally:
        await journal.close()
