"""One real agent under a real daemon, with the scripted model behind it and a stand-in for the server before it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flakes.wire.sandbox_stream import Assignment, Result
from flakes.wire.transcripts import EntryBody
from models.scripted import ScriptedModel, Seen, script
from sandbox.controlplane import ControlPlane, DaemonProcess, make

PENDING = {
    "permissionRequestId": "perm_1", "taskId": "task_1", "taskKey": "t", "runId": "run_1", "runKey": "r",
    "assignmentId": "assignment_1", "prompt": "May I?", "status": "pending",
    "createdAt": "2026-01-01T00:00:00Z",
}  # fmt: skip
APPROVED = PENDING | {"status": "approved", "decision": "approved", "reason": "go on"}
DENIED = PENDING | {"status": "denied", "decision": "denied", "reason": "not today"}


@dataclass
class Agent:
    """What the tests must know of an agent. `config` are the daemon's settings for it."""

    adapter: str
    config: dict[str, Any]
    model: str | None = None
    costs: bool = False
    """It says what its work cost."""
    resumes: bool = True
    steers: bool = True
    credential: str = ""
    """The file that it signs in with, as it is in a home directory."""
    credential_text: str = '{"WORD": "WORD"}'
    """What is in that file, in a form that it takes: with a word of the test."""
    asks: bool = True
    tools: bool = True
    counts: bool = True
    """It says how many model calls there were."""


@dataclass
class Setting:
    agent: Agent
    model: ScriptedModel
    plane: ControlPlane
    daemon: DaemonProcess
    directory: Path
    numbers: list[int] = field(default_factory=lambda: [0])

    def name(self) -> str:
        """A word that no other task of this setting has."""
        self.numbers[0] += 1
        return f"{self.agent.adapter}-{self.numbers[0]}x"

    @property
    def credential(self) -> Path:
        """The user's own file with the agent's credential."""
        return Path(self.agent.config["agent"]["configDir"]) / Path(self.agent.credential).name

    def renewing(self, word: str) -> str:
        """A command by which an attempt's copy of the credential becomes another one."""
        if not self.agent.credential:
            return ":"
        text = self.agent.credential_text.replace("WORD", word)
        return f"cat > $HOME/{self.agent.credential} <<'EOF'\n{text}\nEOF\n:"

    def renewed(self, word: str) -> bool:
        """Whether the user's own credential is that one now."""
        return not self.agent.credential or word in self.credential.read_text()

    def task(self, *steps: dict[str, Any], body: str = "", **more: Any) -> Assignment:
        """An assignment whose brief is this script; `more` goes into the definition, `attempt` beside it."""
        about = {"attempt": more.pop("attempt")} if "attempt" in more else {}
        definition = {
            "adapter": self.agent.adapter, "model": self.agent.model,
            "bodyMarkdown": f"{body} {script(*steps)}", **more,
        }  # fmt: skip
        return make(definition, **about)

    def start(self, *steps: dict[str, Any], **more: Any) -> Assignment:
        assignment = self.task(*steps, **more)
        self.plane.offer(assignment)
        return assignment

    def end(self, assignment: Assignment, patience_s: float = 60.0) -> Result:
        try:
            return self.plane.result(assignment.assignment_id, patience_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.told(assignment)}\n{self.daemon.log[-3000:]}") from None

    def run(self, *steps: dict[str, Any], **more: Any) -> tuple[Result, Assignment]:
        assignment = self.start(*steps, **more)
        return self.end(assignment), assignment

    def entries(self, assignment: Assignment, *kinds: str) -> list[EntryBody]:
        return self.plane.transcript(assignment.assignment_id, *kinds)

    def wait(self, assignment: Assignment, kind: str, holds: Any = lambda data: True) -> EntryBody:
        """The first entry of a kind whose data is so."""

        def found() -> EntryBody | None:
            return next((e for e in self.entries(assignment, kind) if holds(e.data)), None)

        try:
            return self.plane.wait(found, f"an entry {kind}", 60.0)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.told(assignment)}\n{self.daemon.log[-3000:]}") from None

    def wait_tool(self, assignment: Assignment) -> None:
        self.wait(assignment, "tool", lambda data: data["state"] == "start")

    def told(self, assignment: Assignment) -> str:
        """What is known of an assignment, for a failure's message."""
        entries = "\n".join(f"{e.kind} {str(e.data)[:600]}" for e in self.entries(assignment))
        lines = "\n".join(line.text[:600] for line in self.plane.lines.get(assignment.assignment_id, {}).values())
        seen = "\n".join(f"{s.wire}: {[(r, t[-200:]) for r, t in s.turns[-3:]]}" for s in self.model.seen[-4:])
        return f"transcript:\n{entries}\nlog:\n{lines}\nmodel:\n{seen}"

    def seen(self, text: str) -> list[Seen]:
        """The model calls of the task: not those without tools, with which some agents find a title."""
        return [one for one in self.model.requests(text) if one.tools]

    @contextlib.contextmanager
    def answering(self, answer: dict[str, Any]) -> Iterator[None]:
        """The server's answer to permission requests, meanwhile."""
        self.plane.answers |= {"permission.ask": (200, PENDING), "permission.status": (200, answer)}
        try:
            yield
        finally:
            self.plane.answers.clear()


def setting(agent: Agent, model: ScriptedModel, directory: Path) -> Iterator[Setting]:
    """For fixtures: everything started, and at the end stopped."""
    plane = ControlPlane()
    plane.start()
    if agent.credential:
        own = Path(agent.config["agent"]["configDir"])
        own.mkdir(exist_ok=True)
        (own / Path(agent.credential).name).write_text(agent.credential_text.replace("WORD", "first"))
    config = {"adapters": [agent.adapter], "maxConcurrency": 8} | agent.config
    daemon = DaemonProcess(plane, directory / "daemon", **config)
    daemon.start()
    try:
        yield Setting(agent, model, plane, daemon, directory)
    finally:
        daemon.stop()
        plane.stop()
