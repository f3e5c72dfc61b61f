"""One attempt of an agent that converses: what it gets around its conversation, and what is told of it.

It gives the agent a private home, its kept session, its tools over MCP and its instructions; opens its session;
decides what it hears first; and records everything in the transcript. The turns themselves are `conversation`'s.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping

from flakes.agents import credentials
from flakes.agents.base import (
    AgentError,
    AgentEvent,
    Decision,
    Driver,
    Job,
    Question,
    SessionRef,
    Tools,
    TurnResult,
)
from flakes.core.task import Outcome
from flakes.sandbox import brief as briefs
from flakes.sandbox import outputs
from flakes.sandbox.asking import Permissions
from flakes.sandbox.budgets import Budget, SharedBudget
from flakes.sandbox.containment import Containment
from flakes.sandbox.conversation import Conversation
from flakes.sandbox.directory import TaskDirectory
from flakes.sandbox.inbox import Inbox
from flakes.sandbox.rounds import LiveRounds
from flakes.sandbox.services import Services
from flakes.sandbox.sessions import Record
from flakes.sandbox.tools.mcp import PATH as MCP_PATH
from flakes.sandbox.tools.mcp import offered
from flakes.sandbox.tools.server import ToolServer
from flakes.sandbox.transcript import TranscriptSink
from flakes.wire.codec import BodyError, decode
from flakes.wire.operations import SPAWN
from flakes.wire.sandbox_stream import Assignment
from flakes.wire.tasks import TaskDefinition
from flakes.wire.workpads import Workpad


class Attendance:
    """See the module; used once. `withdraw`, then `close`, when no process of the attempt is left."""

    def __init__(
        self,
        assignment: Assignment,
        definition: TaskDefinition,
        services: Services,
        directory: TaskDirectory,
        containment: Containment,
        tools: ToolServer,
    ) -> None:
        self._assignment = assignment
        self._definition = definition
        self._services = services
        self._directory = directory
        self._containment = containment
        self._tools = tools
        self._ledger = services.ledgers / directory.root.name
        self._mcp: Tools | None = None
        self._earlier: Record | None = None
        self._conversation: Conversation | None = None
        self._transcript = TranscriptSink(
            assignment.assignment_id,
            services.outbox,
            secrets_of(containment.env, services.config.env),
        )

    async def run(self, driver: Driver, job: Job, inbox: Inbox) -> TurnResult:
        """Open the agent's session and hold the conversation; raises `AgentError`."""
        assignment, definition = self._assignment, self._definition
        job = await self._equipped(job)
        permissions = Permissions(
            assignment.assignment_id, definition.permission_mode or "auto", self._directory.outputs,
            self._services.forwarder, self._transcript,
        )  # fmt: skip
        # What a task's children spend counts too: the control plane keeps the sum.
        own = None if SPAWN in definition.tool_grants else definition.budget
        conversation = Conversation(
            driver, inbox, self._transcript, permissions,
            Budget(assignment.task_id, own, assignment.spent, assignment.extended),
            SharedBudget(
                assignment.assignment_id, self._services.forwarder, shares=assignment.shares_budgets
            ),
            self._problem,
            LiveRounds(self._tools.perform, self._directory.outputs, definition.declared_outputs)
            if definition.live_rounds else None,
        )  # fmt: skip
        self._conversation = conversation

        async def permit(question: Question) -> Decision:
            return await permissions.permit(question, self._directory.work)

        self._containment.on_question = permit
        session = await driver.open(job, self._containment)
        await self._note_session(session)
        inbox.open(conversation, definition.adapter, None)
        text, source = await self._opening(job.brief, session)
        return await conversation.run(text, assignment.assignment_id, source)

    async def take(self, event: AgentEvent) -> None:
        """Record what the agent reported, and look what it cost. Waits while the control plane is behind."""
        await self._transcript.take(event)
        if self._conversation is not None:
            self._conversation.spent(event)

    def withdraw(self) -> None:
        """Nothing of the attempt is left: its tools are nobody's any more."""
        if self._mcp is not None:
            self._services.mcp.remove(self._mcp)

    async def close(self, outcome: Outcome) -> None:
        """Say the last of the transcript, and keep what an interrupted attempt leaves for the next one. Its
        home goes at once: it has copies of credentials."""
        for path in await asyncio.to_thread(credentials.settle, self._ledger):
            text = f"the agent renewed {path}, which had changed meanwhile: the newer original was kept"
            await self._containment.emit(AgentEvent("notice", {"level": "warning", "text": text}))
        self._transcript.flush()
        await asyncio.to_thread(self._directory.remove_home)
        if outcome in (Outcome.LOST, Outcome.RETRYABLE, Outcome.YIELDED):
            keep = self._services.sessions.keep
            await asyncio.to_thread(keep, self._directory, self._assignment.task_id)

    async def _equipped(self, job: Job) -> Job:
        """The job with what only agents get."""
        services, directory, definition = self._services, self._directory, self._definition
        directory.home.mkdir(mode=0o700, exist_ok=True)  # an isolated task has one already
        directory.session.mkdir(mode=0o700)
        own = self._assignment.own_workspaces
        self._earlier = await asyncio.to_thread(
            services.sessions.take, self._assignment.task_id, definition.adapter, directory,
            own[0].handle.assignment_id if own else None,
        )  # fmt: skip
        self._mcp = await services.mcp.add(definition.tool_grants, self._tools.perform)
        tools = self._mcp
        if (address := self._containment.publish(services.mcp.serve)) is not None:
            tools = dataclasses.replace(tools, url=f"http://{address}{MCP_PATH}")
        instructions = directory.root / "instructions.md"
        names = {name: operation for name, (_, operation) in offered(definition.tool_grants).items()}
        instructions.write_text(briefs.instructions_of(definition, self._containment.env, names))
        return dataclasses.replace(
            job, home=directory.home, session_dir=directory.session, instructions=instructions,
            installation=services.installation, tools=tools, ledger=self._ledger,
            session=self._earlier.session if self._earlier else None,
        )  # fmt: skip

    async def _note_session(self, session: SessionRef | None) -> None:
        known = self._earlier.session if self._earlier else None
        record = Record(
            task_id=self._assignment.task_id, adapter=self._definition.adapter,
            attempt=self._assignment.attempt, assignment_id=self._assignment.assignment_id,
            kind=session.kind if session else "", value=session.value if session else "",
        )  # fmt: skip
        await asyncio.to_thread(self._services.sessions.note, self._directory, record)
        about = {"kind": record.kind, "value": record.value, "resumed": bool(session and session == known)}
        self._transcript.add("session", about | {"attempt": record.attempt})

    async def _opening(self, brief: str, session: SessionRef | None) -> tuple[str, str]:
        """What the agent hears first, and where that is from."""
        attempt = self._assignment.attempt
        if self._earlier is not None and session is not None and session == self._earlier.session:
            if happened := [each for each in self._assignment.happened if each.kind != "prompt"]:
                return briefs.woken(happened), "resume"
            if self._assignment.happened:
                return "", "resume"  # the prompt itself says it all
            return briefs.resumed(attempt, work_is_here=True), "resume"
        begun = bool(self._assignment.happened or self._assignment.own_workspaces)
        if attempt == 1 and self._earlier is None and not begun:
            return brief, "brief"
        status, answer = await self._tools.perform("workpad.read", b"{}")
        try:
            workpad = decode(answer, Workpad).body_markdown if status == 200 else ""
        except BodyError:
            workpad = ""
        text = briefs.briefing(brief, attempt, workpad)
        if self._assignment.happened:
            text = f"{text}\n{briefs.woken(self._assignment.happened)}"
        return text, "briefing"

    async def _problem(self) -> AgentError | None:
        """What is wrong with the declared outputs as they are now."""
        if not self._definition.declared_outputs or self._tools.yielding:
            return None
        try:
            await outputs.check(self._definition.declared_outputs, self._directory.outputs)
        except AgentError as error:
            return None if error.lost or error.code == "output_unsupported" else error
        return None


def secrets_of(*environments: Mapping[str, str]) -> set[str]:
    """Values of variables whose names say that they are secret."""
    return {
        value for env in environments for name, value in env.items()
        if any(word in name.upper() for word in ("KEY", "TOKEN", "SECRET", "PASSWORD"))
        and not name.endswith("_FILE")
    }  # fmt: skip
